"""Ways to one loss: SimPO with an SFT term on one long pair, from hidden states and a large head, with its gradients.

    name                     products   how
    dense                    3          all logits, log_softmax, gather
    tiled                    4          token_logps: tiles again in the backward pass
    margin sweep             3          logo_loss_from_hidden: loss and gradients from one visit
    checkpointed chunks      4          the usual way: chunks of rows, recomputed by torch.utils.checkpoint
    Liger SimPO              3          its fused loss, whose chunks are counted in pairs: one pair is not cut
    F.linear_cross_entropy   -          torch's own chunked loss without reduction (torch 2.13 and newer)
    dense, frozen head       2          as above, the head without gradient
    tiled, frozen head       2          the hidden states' gradient taken in the forward visit

On a CUDA card, in bf16, there are three more: "fused" and "fused, frozen head" (token_logps in Triton kernels; not yet
run on a card) and "cut-cross-entropy" (4 products, no filter, as it must be for exact gradients). There "dense" is what
is usually written: a bf16 product whose logits are widened for the softmax. "tiled" and "margin sweep" widen each tile
before it is multiplied, which leaves most of a card's rate unused.

The pair is as long as the rows: half of them belong to the chosen answer, half to the rejected one. M = 1, so that all
methods have the same loss.
"""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minilib.kernels.vocab_tiled import sums_dtype
from minilib.losses.logo_from_hidden import logo_loss_from_hidden
from minilib.losses.logps import token_logps
from minilib.losses.preference import logo_loss

LOSS = {"beta": 2.5, "gamma": 0.25, "sft_weight": 0.1}  # LOGO's values for Mistral
CHUNK_ROWS = 512
CARD_TILE = 4096  # side of a plain-torch tile on a card, as in `on_card`


class Inputs(NamedTuple):
    """What one call gets: hidden states `(n, d)` and head `(V, d)`, leaves with gradient, and labels `(n,)`."""

    hidden: Tensor
    weight: Tensor
    labels: Tensor


class Method(NamedTuple):
    """One way to the loss."""

    name: str
    loss: Callable[[Inputs], Tensor]
    products: int | None
    matrices: float  # (n, V) fp32 matrices held at the peak, roughly: what would not fit is not run
    frozen: bool = False

    def step(self, x: Inputs) -> Tensor:
        """Loss and backward; the gradients are left in `.grad`."""
        loss = self.loss(x)
        loss.backward()
        return loss.detach()


def make_inputs(
    tokens: int, dim: int, words: int, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Inputs:
    """Random hidden states of length about sqrt(d) and a head that gives logits of size about 1."""
    options = {"generator": torch.Generator(device).manual_seed(seed), "device": device}
    hidden = torch.randn(tokens, dim, **options).to(dtype)
    weight = (torch.randn(words, dim, **options) / dim**0.5).to(dtype)
    labels = torch.randint(words, (tokens,), **options)
    return Inputs(hidden.requires_grad_(), weight.requires_grad_(), labels)


def fresh(inputs: Inputs, frozen: bool) -> Inputs:
    """The same numbers as new leaves without gradients, the head frozen or not."""
    return Inputs(
        inputs.hidden.detach().requires_grad_(), inputs.weight.detach().requires_grad_(not frozen), inputs.labels
    )


def available(device: str = "cpu") -> tuple[list[Method], dict[str, str]]:
    """The methods that run on this device, and a sentence for each of the others."""
    found, skipped = ours(device), {}
    if importlib.util.find_spec("liger_kernel"):
        found.append(Method("Liger SimPO", _liger, 3, 4))
    else:
        skipped["Liger SimPO"] = "liger-kernel is not installed: pip install liger-kernel."
    if hasattr(F, "linear_cross_entropy"):
        found.append(Method("F.linear_cross_entropy", _builtin, None, 0.3))
    else:
        skipped["F.linear_cross_entropy"] = f"it is not in torch {torch.__version__}: it came with torch 2.13."
    if device != "cpu":
        if importlib.util.find_spec("cut_cross_entropy"):
            found.append(Method("cut-cross-entropy", _cut, 4, 0))
        else:
            skipped["cut-cross-entropy"] = "it is not installed: pip install cut-cross-entropy."
    return found, skipped


def ours(device: str = "cpu") -> list[Method]:
    """Our methods and the usual ones, the fused kernels where a card is; dense first."""
    tile = None if device == "cpu" else CARD_TILE
    backends = {"tiled": {"backend": "tiled", "chunk_size": tile}}
    if device != "cpu":
        backends["fused"] = {"backend": "fused"}
    folded = {name: lambda x, way=way: pair_loss(token_logps(*x, **way)) for name, way in backends.items()}
    return [
        Method("dense", lambda x: pair_loss(_dense(*x)), 3, 4),
        *(Method(name, loss, 4, 0) for name, loss in folded.items()),
        Method("margin sweep", _sweep, 3, 0),
        Method("checkpointed chunks", _checkpointed, 4, 0.3),
        Method("dense, frozen head", lambda x: pair_loss(_dense(*x)), 2, 4, frozen=True),
        *(Method(f"{name}, frozen head", loss, 2 if name == "tiled" else 3, 0, True) for name, loss in folded.items()),
    ]


def pair_loss(logps: Tensor) -> Tensor:
    """The loss from the log-probabilities of the chosen answer's tokens and then the rejected one's."""
    chosen, rejected = logps.view(2, 1, -1).mean(2)
    return logo_loss(chosen, rejected, **LOSS)


def _sweep(x: Inputs) -> Tensor:
    answer = torch.arange(2, device=x.labels.device).repeat_interleave(len(x.labels) // 2)
    return logo_loss_from_hidden(*x, answer, num_rejected=1, **LOSS)[0]


def _checkpointed(x: Inputs) -> Tensor:
    chunks = [
        checkpoint(_dense, hidden, x.weight, labels, use_reentrant=False)
        for hidden, labels in zip(x.hidden.split(CHUNK_ROWS), x.labels.split(CHUNK_ROWS))
    ]
    return pair_loss(torch.cat(chunks))


def _dense(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    logits = (hidden @ weight.T).to(sums_dtype(hidden))  # (n, V)
    return torch.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]


def _liger(x: Inputs) -> Tensor:
    from liger_kernel.chunked_loss import LigerFusedLinearSimPOLoss

    settings = {"beta": LOSS["beta"], "gamma": LOSS["gamma"], "alpha": LOSS["sft_weight"]}
    loss = LigerFusedLinearSimPOLoss(**settings, compute_nll_loss=True, compiled=False)
    return loss(x.weight, x.hidden.view(2, -1, x.hidden.shape[1]), x.labels.view(2, -1))[0]


def _builtin(x: Inputs) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK_ROWS, chunking_method=None)
    return pair_loss(-F.linear_cross_entropy(*x, reduction="none", options=options))


def _cut(x: Inputs) -> Tensor:
    from cut_cross_entropy import linear_cross_entropy

    return pair_loss(-linear_cross_entropy(x.hidden, x.weight, x.labels, reduction="none", filter_eps=None).float())
