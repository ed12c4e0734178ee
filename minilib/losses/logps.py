"""Log-probabilities of answer tokens over a large vocabulary, token by token and as a mean over each answer.

    token_logps[t]       = <h_t, w_y> - log sum_v exp(<h_t, w_v>)
    sequence_logps[a]    = 1/|a| sum_{t in a} token_logps[t]

where
    h_t, y     hidden state that predicts token t (n, d), and the token
    w_v        row v of the head's weight (V, d)
    a, |a|     an answer and its number of tokens

Backends: `dense` writes the (n, V) logits down and is the reference; `tiled` holds a tile of them; `fused` keeps it in
the registers of a GPU; `auto` chooses. Loss and gradients cost, in products of n x V x d:

    weight trained    4    tiles again in the backward pass: before it, no token's upstream gradient is known
    weight frozen     2    d logp_t / d h_t belongs to token t alone: taken in the forward visit, scaled later (LoRA)
    loss known        3    where one number per example waits for the end: `minilib.losses.logo_from_hidden`

Departure from the paper: LOGO's released code makes the logits of all positions; here only hidden states that predict
an answer token meet the head. Taught in notebooks/10_score_a_long_answer.ipynb.
"""

import torch
from torch import Tensor

from minilib.kernels import vocab_kernels, vocab_tiled
from minilib.losses.feature_grads import empty_grad, first_order_only, narrow
from minilib.losses.validation import check_logps

IGNORED = -100


def token_logps(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, backend: str = "auto", chunk_size: int | None = None
) -> Tensor:
    """`log softmax(hidden @ weight.T)[labels]` for n tokens, without the `(n, V)` matrix.

    Args:
        hidden: `(n, d)`, the hidden state that predicts each label; fp64, fp32, fp16 or bf16.
        weight: `(V, d)`, the head's weight, of the same or another of these dtypes ("fused": the same).
        labels: `(n,)` token ids below V; -100 gives 0 and costs nothing.
        backend: "auto", "dense", "tiled" or "fused" (fp32, fp16, bf16; a CUDA GPU, or TRITON_INTERPRET=1 on a CPU).
        chunk_size: rows and vocabulary entries of a tile, by default 1,024 (384 and 2,048 for a frozen weight); for
            "fused", of the chunk of gradient that is held at a time, by default 8,192.

    Returns:
        `(n,)` in fp32 (fp64 if an input is), with gradients to hidden and, where required, to weight.
    """
    backend = check_logps(hidden, weight, labels, backend, chunk_size)
    kept = labels != IGNORED
    # Rows without a label are dropped before the first matmul, not masked after it.
    if kept.all():
        return _logps(hidden, weight, labels, backend, chunk_size)
    rows = kept.nonzero()[:, 0]
    found = _logps(hidden[rows], weight, labels[rows], backend, chunk_size)
    return found.new_zeros(len(labels)).index_put((rows,), found)


def mean_by_answer(logps: Tensor, answer: Tensor, num_answers: int) -> Tensor:
    """The mean of the token values of each answer, `(num_answers,)`; 0 for an answer without tokens."""
    # Each answer is divided by its own length; the clamp keeps an answer without tokens from dividing by 0.
    counts = torch.bincount(answer, minlength=num_answers).clamp(min=1)
    return logps.new_zeros(num_answers).index_add(0, answer, logps) / counts


def _logps(hidden: Tensor, weight: Tensor, labels: Tensor, backend: str, chunk_size: int | None) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        if backend == "dense":
            return _dense(hidden, weight, labels)
        return _FoldedLogps.apply(hidden, weight, labels, vocab_kernels(backend), chunk_size, torch.is_grad_enabled())


def _dense(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    dtype = vocab_tiled.sums_dtype(hidden, weight)
    logits = hidden.to(dtype) @ weight.to(dtype).T  # (n, V): the matrix that the other backends avoid
    return torch.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]


class _FoldedLogps(torch.autograd.Function):
    """Saves one number per token; with a frozen weight the gradient itself, which each token scales on its own."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, kernels, chunk_size, with_grad):
        ctx.kernels, ctx.chunk_size = kernels, chunk_size
        ctx.at_once = with_grad and ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]
        # With a frozen weight the gradient of logp_t belongs to row t alone: take it now, scale it later.
        if ctx.at_once:
            grad = empty_grad(hidden, vocab_tiled.sums_dtype(hidden, weight))
            ones = torch.ones(len(hidden), dtype=grad.dtype, device=grad.device)
            logps = kernels.sweep(hidden, weight, labels, ones, (grad, None), chunk_size)
            ctx.dtype = hidden.dtype
            ctx.save_for_backward(grad)
            return logps
        # Otherwise one number per token is kept, and the tiles are computed again backward.
        sums, picked = kernels.log_sums(hidden, weight, labels, chunk_size)
        ctx.save_for_backward(hidden, weight, labels, sums)
        return picked - sums

    @staticmethod
    @first_order_only
    def backward(ctx, upstream):
        if ctx.at_once:
            grad = ctx.saved_tensors[0] * upstream[:, None]  # a copy: the graph may be walked back twice
            return narrow(grad, ctx.dtype), *[None] * 5
        hidden, weight, labels, sums = ctx.saved_tensors
        operands = hidden, weight
        grads = [empty_grad(x, sums.dtype) if needed else None for x, needed in zip(operands, ctx.needs_input_grad)]
        with torch.autocast(hidden.device.type, enabled=False):
            ctx.kernels.add_grads(hidden, weight, labels, sums, upstream, grads, ctx.chunk_size)
        finished = [None if g is None else narrow(g, x.dtype) for g, x in zip(grads, operands)]
        return *finished, *[None] * 4
