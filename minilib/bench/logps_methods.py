"""Ways to one loss: SimPO with an SFT term on one long pair, from hidden states and a large head, with its gradients.

    name                     matmuls   how
    dense                    3 or 2    all logits, log_softmax, gather; 2 with a frozen head, as in the next two rows
    tiled                    4 or 2    token_logps: tiles again in the backward pass, unless taken in the forward visit
    fused                    4 or 3    the same in Triton kernels; only on a CUDA GPU
    margin sweep             3         logo_loss_from_hidden: loss and gradients from one visit; also without SFT
    checkpointed chunks      4         the usual way: chunks of rows, recomputed by torch.utils.checkpoint

Peers: Liger's fused SimPO (its chunks are pairs, so one pair is not cut), torch's linear_cross_entropy (2.13 and newer)
and on a GPU cut-cross-entropy without its filter. Three bare matmuls there, which make no loss, are what the head
cannot be faster than. The pair is as long as the rows, half of them for each answer.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minilib.bench import harness
from minilib.bench.baselines import GPU_TILE, backward
from minilib.bench.harness import Method, UnavailableError
from minilib.kernels.vocab_tiled import sums_dtype
from minilib.losses.logo_from_hidden import logo_loss_from_hidden
from minilib.losses.logps import token_logps
from minilib.losses.preference import logo_loss

LOSS = {"beta": 2.5, "gamma": 0.25, "sft_weight": 0.1}  # LOGO's values for Mistral
CHUNK_ROWS = 512
ALONE, BARE = "margin sweep, no SFT term", "three bare matmuls"


class Inputs(NamedTuple):
    """What one call gets: hidden states `(n, d)` and head `(V, d)`, leaves with gradient, and labels `(n,)`."""

    hidden: Tensor
    weight: Tensor
    labels: Tensor


def make_inputs(
    tokens: int, dim: int, words: int, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Inputs:
    """Random hidden states of length about sqrt(d) and a head that gives logits of size about 1."""
    options = {"generator": torch.Generator(device).manual_seed(seed), "device": device}
    hidden = torch.randn(tokens, dim, **options).to(dtype)
    weight = (torch.randn(words, dim, **options) / dim**0.5).to(dtype)
    return fresh(Inputs(hidden, weight, torch.randint(words, (tokens,), **options)), frozen=False)


def fresh(inputs: Inputs, frozen: bool) -> Inputs:
    """The same numbers as new leaves without gradients, the head frozen or not."""
    hidden, weight = (tensor.detach() for tensor in inputs[:2])
    return Inputs(hidden.requires_grad_(), weight.requires_grad_(not frozen), inputs.labels)


def available(device: str = "cpu") -> tuple[list[Method], dict[str, str]]:
    """The methods that run on this device, and a sentence for each of the others."""
    peers = {"Liger SimPO": _liger, "F.linear_cross_entropy": _builtin}
    found, skipped = harness.available(peers | ({} if device == "cpu" else {"cut-cross-entropy": _cut}))
    return ours(device) + found, skipped


def ours(device: str = "cpu") -> list[Method]:
    """Our methods and the usual ones, the fused kernels where a GPU is; dense first."""
    gpu = device != "cpu"
    backends = {"tiled": {"backend": "tiled", "chunk_size": GPU_TILE if gpu else None}}
    backends |= {"fused": {"backend": "fused"}} if gpu else {}
    folded = {name: lambda x, way=way: pair_loss(token_logps(*x, **way)) for name, way in backends.items()}
    dense = lambda x: pair_loss(_dense(*x))  # noqa: E731
    frozen = {"tiled": 2, "fused": 3}  # matmuls
    return [
        _method("dense", dense, 3, 4),
        *(_method(name, loss, 4, 0) for name, loss in folded.items()),
        _method("margin sweep", _sweep, 3, 0),
        *([_method(ALONE, lambda x: _sweep(x, 0.0), 3, 0), Method(BARE, _bare, 3, 1, loss="none")] if gpu else []),
        _method("checkpointed chunks", _checkpointed, 4, 0.3),
        _method("dense, frozen head", dense, 2, 4, frozen=True),
        *(_method(f"{name}, frozen head", loss, frozen[name], 0, frozen=True) for name, loss in folded.items()),
    ]


def judge_of(method: Method) -> Method:
    """The dense way to the loss of this method."""
    return ours()[0] if method.name != ALONE else _method("dense", lambda x: pair_loss(_dense(*x), 0.0), 3, 4)


def pair_loss(logps: Tensor, sft_weight: float = LOSS["sft_weight"]) -> Tensor:
    """The loss from the log-probabilities of the chosen answer's tokens and then the rejected one's."""
    chosen, rejected = logps.view(2, 1, -1).mean(2)
    return logo_loss(chosen, rejected, **LOSS | {"sft_weight": sft_weight})


def _method(
    name: str, loss: Callable[[Inputs], Tensor], products: int | None, matrices: float, frozen: bool = False
) -> Method:
    return Method(name, lambda x: backward(loss(x)), products, matrices, missing=("weight",) * frozen)


def _sweep(x: Inputs, sft_weight: float = LOSS["sft_weight"]) -> Tensor:
    answer = torch.arange(2, device=x.labels.device).repeat_interleave(len(x.labels) // 2)
    return logo_loss_from_hidden(*x, answer, num_rejected=1, **LOSS | {"sft_weight": sft_weight})[0]


@torch.no_grad()
def _bare(x: Inputs) -> Tensor:
    logits = x.hidden @ x.weight.T  # (n, V)
    x.hidden.grad, x.weight.grad = logits @ x.weight, logits.T @ x.hidden
    return logits[0, 0]


def _checkpointed(x: Inputs) -> Tensor:
    rows = zip(x.hidden.split(CHUNK_ROWS), x.labels.split(CHUNK_ROWS))
    chunks = [checkpoint(_dense, hidden, x.weight, labels, use_reentrant=False) for hidden, labels in rows]
    return pair_loss(torch.cat(chunks))


def _dense(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    logits = (hidden @ weight.T).to(sums_dtype(hidden))  # (n, V), a bf16 matmul widened for the softmax
    return torch.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]


def _liger() -> Method:
    harness.require("liger_kernel", "liger-kernel is not installed: pip install liger-kernel.")
    settings = {"beta": LOSS["beta"], "gamma": LOSS["gamma"], "alpha": LOSS["sft_weight"]}

    def loss(x: Inputs) -> Tensor:
        from liger_kernel.chunked_loss import LigerFusedLinearSimPOLoss

        simpo = LigerFusedLinearSimPOLoss(**settings, compute_nll_loss=True, compiled=False)
        return simpo(x.weight, x.hidden.view(2, -1, x.hidden.shape[1]), x.labels.view(2, -1))[0]

    return _method("Liger SimPO", loss, 3, 4)


def _builtin() -> Method:
    if not hasattr(F, "linear_cross_entropy"):
        raise UnavailableError(f"it is not in torch {torch.__version__}: it came with torch 2.13.")
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK_ROWS, chunking_method=None)
    loss = lambda x: pair_loss(-F.linear_cross_entropy(*x, reduction="none", options=options))  # noqa: E731
    return _method("F.linear_cross_entropy", loss, None, 0.3)


def _cut() -> Method:
    harness.require("cut_cross_entropy", "it is not installed: pip install cut-cross-entropy.")

    def loss(x: Inputs) -> Tensor:
        from cut_cross_entropy import linear_cross_entropy

        # No filter, as it must be for exact gradients.
        return pair_loss(-linear_cross_entropy(*x, reduction="none", filter_eps=None).float())

    return _method("cut-cross-entropy", loss, 4, 0)
