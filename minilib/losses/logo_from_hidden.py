"""LOGO's loss from hidden states in one sweep over the vocabulary: three products, nothing recomputed, no logits kept.

The loss of one example depends on its tokens through two numbers, the margin z and the chosen answer's mean c:

    L = softplus(-z) - lambda c,     z = beta sum_t f_t logp_t - gamma,     c = sum_{t chosen} f_t logp_t
    f_t = 1 / |y_w|  on the chosen answer,    f_t = -1 / (M |y_l|)  on a rejected one

where
    logp_t           log-probability of token t of the example's 1 + M answers, |y| the length of its answer
    beta, gamma, M   reward scale, margin (not divided by beta), number of rejected answers; lambda the SFT weight

Every f_t is known before the first product. So one visit of the logits gives the log-probabilities and also C and R,
the gradients of sum f_t logp_t over the chosen and over the rejected tokens; only their factors wait for the end:

    dL = -(beta sigma(-z) + lambda) dC - beta sigma(-z) dR

`token_logps` must serve any loss, so it visits the logits a second time, four products in all. SimPO is the case M = 1,
lambda = 0.

Departure from the paper: same loss and gradients; the authors' code holds the logits of all positions.
Taught in notebooks/10_score_a_long_answer.ipynb.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minilib.kernels import vocab_tiled
from minilib.losses.feature_grads import empty_grad, first_order_only, narrow
from minilib.losses.logps import IGNORED, mean_by_answer
from minilib.losses.validation import check_answers, check_logps, check_settings, check_weights


def logo_loss_from_hidden(
    hidden: Tensor, weight: Tensor, labels: Tensor, answer: Tensor, *, num_rejected: int, beta: float, gamma: float,
    sft_weight: float = 0.1, rejected_weights: Tensor | None = None, chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`logo_loss` of the answers that these hidden states predict: token_logps, means and loss in one call.

    Args:
        hidden, weight, labels: as for `token_logps`, the tokens of all examples together (`answer_hidden`); a frozen
            weight costs two products instead of three.
        answer: `(n,)` number of each row's answer: 1 + M to an example, the chosen one first (`Packed.answer`).
        num_rejected: M.
        beta, gamma, sft_weight, rejected_weights: as for `logo_loss`.
        chunk_size: rows of a tile, by default 384, and its vocabulary entries, by default 2,048.

    Returns:
        The loss, a scalar with gradients to hidden and, where required, weight; and the mean log-probabilities
        `(b, 1 + M)`, without gradient, for the log. Both in fp32 (fp64 if an input is).
    """
    check_logps(hidden, weight, labels, "tiled", chunk_size)
    settings = {"beta": beta, "gamma": gamma, "sft_weight": sft_weight}
    check_settings(**settings)
    kept = labels != IGNORED
    # Rows without a label are dropped before the first matmul.
    if isinstance(answer, Tensor) and answer.shape == labels.shape and not kept.all():
        rows = kept.nonzero()[:, 0]
        hidden, labels, answer = hidden[rows], labels[rows], answer[rows]
    examples = check_answers(answer, len(labels), num_rejected)
    shares = _shares(rejected_weights, examples, num_rejected, hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        return _MarginSweep.apply(
            hidden, weight, labels, answer.to(labels.device), shares, settings, chunk_size, torch.is_grad_enabled()
        )


class _MarginSweep(torch.autograd.Function):
    """Loss and gradients in the forward pass; the backward pass multiplies by one number."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, answer, shares, settings, chunk_size, with_grad):
        ctx.arguments = shares, settings, chunk_size
        ctx.save_for_backward(hidden, weight, labels, answer)
        needed = [with_grad and wanted for wanted in ctx.needs_input_grad[:2]]
        loss, means, ctx.grads = _sweep(hidden, weight, labels, answer, *ctx.arguments, needed)
        ctx.mark_non_differentiable(means)
        return loss, means

    @staticmethod
    @first_order_only
    def backward(ctx, upstream, _):
        hidden, weight, labels, answer = ctx.saved_tensors
        # The gradients are scaled in place and given away, so a second walk back has to sweep again.
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            with torch.autocast(hidden.device.type, enabled=False):
                grads = _sweep(hidden, weight, labels, answer, *ctx.arguments, ctx.needs_input_grad[:2])[2]
        finished = [None if g is None else narrow(g.mul_(upstream), x.dtype) for g, x in zip(grads, (hidden, weight))]
        return *finished, *[None] * 6


def _shares(rejected_weights: Tensor | None, examples: int, num_rejected: int, hidden: Tensor) -> Tensor:
    """The factor of every answer's mean in C and in R, `(b, 1 + M)`: 1 for the chosen one, minus a share for others."""
    shares = torch.full((examples, 1 + num_rejected), -1 / num_rejected, dtype=torch.float64, device=hidden.device)
    if rejected_weights is not None:
        shares[:, 1:] = -check_weights(rejected_weights, examples, num_rejected).to(shares)
    shares[:, 0] = 1
    return shares


def _sweep(hidden, weight, labels, answer, shares, settings, chunk_size, needed):
    """Loss, mean log-probabilities (b, 1 + M), and the gradients of hidden and weight, None where not needed."""
    dtype = vocab_tiled.sums_dtype(hidden, weight)
    lengths = torch.bincount(answer)
    examples, each = shares.shape  # b, 1 + M
    place = answer % each  # 0: the chosen answer of its example
    factors = (shares.flatten() / lengths).to(dtype)[answer]  # f (n,)
    hidden_grad = empty_grad(hidden, dtype) if needed[0] else None
    weight_grad = _WeightGrad(weight, dtype, examples, settings["sft_weight"]) if needed[1] else None
    logps, losses = torch.zeros_like(factors), []
    # One example after the other: its margin must be known before its gradients can be scaled and added.
    for e in range(examples):
        of_example = answer // each == e
        sides = [_rows(of_example & (place == 0)), _rows(of_example & (place > 0))]
        # Chosen and rejected tokens apart: the loss scales their gradients by different numbers.
        for number, rows in enumerate(sides):
            grads = hidden_grad[rows] if needed[0] else None, weight_grad and weight_grad.sides[number]
            if any(needed):
                logps[rows] = vocab_tiled.sweep(hidden[rows], weight, labels[rows], factors[rows], grads, chunk_size)
            else:
                sums, picked = vocab_tiled.log_sums(hidden[rows], weight, labels[rows], chunk_size)
                logps[rows] = picked - sums
            if needed[0] and not isinstance(rows, slice):  # a slice is a view, rows picked by number are a copy
                hidden_grad[rows] = grads[0]
        # f logp is already a mean over the answer, so two inner products give c and minus the mean of the rejected.
        loss, scales = _loss_and_scales(*(factors[rows] @ logps[rows] for rows in sides), examples, **settings)
        losses.append(loss)
        if needed[0]:
            for rows, scale in zip(sides, scales):
                hidden_grad[rows] *= scale
        if needed[1]:
            weight_grad.add(*scales)
    means = mean_by_answer(logps, answer, len(lengths)).view(examples, -1)
    return torch.stack(losses).sum(), means, (hidden_grad, weight_grad and weight_grad.total)


def _rows(wanted: Tensor) -> slice | Tensor:
    """The numbers of the wanted rows, as a slice where they follow each other, which is what packing makes."""
    rows = wanted.nonzero()[:, 0]
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def _loss_and_scales(chosen, rejected, examples, beta, gamma, sft_weight) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One example's share of the mean loss, and what its C and its R are multiplied by."""
    # `rejected` comes with its minus sign in the factors f, so the margin is a sum.
    z = beta * (chosen + rejected) - gamma
    slope = beta * torch.sigmoid(-z)
    loss = F.softplus(-z, threshold=50) - sft_weight * chosen
    return loss / examples, (-(slope + sft_weight) / examples, -slope / examples)


class _WeightGrad:
    """The weight's gradient and the buffers for C and R: as few (V, d) matrices as one sweep after the other allows."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, examples: int, sft_weight: float):
        self.total = empty_grad(weight, dtype)
        self.alone = examples == 1  # nothing else is added to the total, so it may be the buffer for C itself
        chosen = self.total if self.alone else empty_grad(weight, dtype)
        self.sides = [chosen, empty_grad(weight, dtype) if sft_weight else chosen]

    def add(self, chosen_scale: Tensor, rejected_scale: Tensor) -> None:
        chosen, rejected = self.sides
        if self.alone:
            self.total.mul_(chosen_scale)
        else:
            self.total.addcmul_(chosen, chosen_scale)
            chosen.zero_()
        if rejected is not chosen:
            self.total.addcmul_(rejected, rejected_scale)
            rejected.zero_()
