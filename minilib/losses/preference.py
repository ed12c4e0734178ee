"""Preference losses on log-probabilities: a chosen answer against one or several rejected ones.

With c the log-probability of the chosen answer and r_1 .. r_M those of the rejected ones, softplus(x) = log(1 + e^x):

    dpo     mean_j softplus(-beta ((c - c') - (r_j - r'_j)))                       sums; ' is the reference model
    simpo   mean_j softplus(gamma - beta (c - r_j))                   - sft_weight c       token means; LOGO's Eq. 1
    cpo     mean_j softplus(-beta (c - r_j))                          - sft_weight c       sums
    orpo    beta mean_j softplus(o(r_j) - o(c))                       - c                  token means
    logo    softplus(gamma - beta (c - 1/M sum_j r_j))                - sft_weight c       token means; Eq. 2 and 3
    pro     sum_{k<n} [ log sum_{i>=k} exp(g_ki s_i) - g_kk s_k ]     - sft_weight (n - 1)^2 s_1

where
    beta, gamma    reward scale and margin; gamma is the margin itself, where other code stores gamma / beta
    o(p)           log odds, p - log(1 - e^p)
    s_k, g_ki      n answers from best to worst; the reward of k minus that of i, and g_kk the largest of these gaps
    sums, means    what c and r stand for: log-probabilities summed, or averaged, over the tokens of an answer

All return the mean over the batch, a scalar. dpo, simpo, cpo and orpo average over the M pairs of an example; LOGO
averages inside its sigmoid, so it pushes all rejected answers equally. With M = 1 it is SimPO exactly.

Departure from the paper: Eq. 3 prints the SFT term as + lambda E log pi(y_w|x), which would push the chosen answer down
when minimised; prose and released code mean the opposite, and so do we. Eq. 2 writes one length for all rejected
answers; each has its own here. What the released code does otherwise is in `minilib.longcontext.scoring`.
Taught in notebooks/09_turn_preferences_into_a_loss.ipynb.
"""

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from minilib.losses.validation import (
    check_deviations,
    check_pair,
    check_ranking,
    check_same_shape,
    check_settings,
    check_weights,
)


def dpo_loss(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, *, beta: float = 0.1
) -> Tensor:
    """DPO: the policy must prefer the chosen answer by more than the reference model does.

    `chosen (b,)` and `rejected (b,)` or `(b, M)` are summed log-probabilities under the policy, the others those under
    the reference model; `beta` scales the implicit reward.
    """
    rejected = check_pair(chosen, rejected)
    reference_rejected = check_pair(reference_chosen, reference_rejected, "reference_chosen", "reference_rejected")
    check_same_shape(rejected, reference_rejected)
    check_settings(beta=beta)
    # The implicit reward of an answer: how much likelier it has become than under the reference.
    rewards = chosen - reference_chosen, rejected - reference_rejected  # (b,), (b, M)
    return _softplus(-beta * (rewards[0][:, None] - rewards[1])).mean()


def simpo_loss(chosen: Tensor, rejected: Tensor, *, beta: float, gamma: float, sft_weight: float = 0.0) -> Tensor:
    """SimPO (LOGO's Eq. 1): token means instead of sums, a margin gamma instead of a reference model.

    `chosen (b,)` and `rejected (b,)` or `(b, M)` are mean token log-probabilities; gamma is not divided by beta.
    """
    rejected = check_pair(chosen, rejected)
    check_settings(beta=beta, gamma=gamma, sft_weight=sft_weight)
    # Every rejected answer is a pair of its own here; LOGO puts their mean inside instead.
    pairs = _softplus(gamma - beta * (chosen[:, None] - rejected))  # (b, M)
    return pairs.mean() - sft_weight * chosen.mean()


def cpo_loss(chosen: Tensor, rejected: Tensor, *, beta: float = 0.1, sft_weight: float = 1.0) -> Tensor:
    """CPO: DPO with a uniform reference, which cancels, and the chosen answer's likelihood next to it.

    `chosen (b,)` and `rejected (b,)` or `(b, M)` are summed log-probabilities, and so is the SFT term; TRL takes the
    token mean there.
    """
    return simpo_loss(chosen, rejected, beta=beta, gamma=0.0, sft_weight=sft_weight)


def orpo_loss(chosen: Tensor, rejected: Tensor, *, beta: float = 0.1) -> Tensor:
    """ORPO: the SFT loss plus beta times the log-odds ratio of the chosen over the rejected answer.

    `chosen (b,)` and `rejected (b,)` or `(b, M)` are token means, at most 0.
    """
    rejected = check_pair(chosen, rejected)
    check_settings(beta=beta)
    pairs = _softplus(_log_odds(rejected) - _log_odds(chosen)[:, None])  # (b, M)
    return beta * pairs.mean() - chosen.mean()


def logo_loss(
    chosen: Tensor, rejected: Tensor, *, beta: float, gamma: float, sft_weight: float = 0.1, sft: Tensor | None = None,
    rejected_weights: Tensor | None = None, released: Collection[str] = (),
) -> Tensor:  # fmt: skip
    """LOGO (Eq. 2 and 3): SimPO's margin against the mean of M rejected answers, and a little SFT.

    Args:
        chosen: `(b,)` mean token log-probabilities.
        rejected: `(b, M)` likewise, each over its own length (`(b,)` for M = 1).
        beta, gamma: reward scale, above 0, and margin; the paper has 10 and 3 for Llama-3, 2.5 and 0.25 for Mistral, 3
            and 0.6 for Llama-2. gamma is not divided by beta.
        sft_weight: lambda, the weight of the negative log-probability of the chosen answer.
        sft: `(b,)` what the SFT term takes instead of `chosen`; for `minilib.longcontext.scoring`.
        rejected_weights: `(M,)` or `(b, M)` what each rejected answer counts in their mean, divided by its sum here; by
            default all alike. The paper names such weights as future work.
        released: {"negatives"} weighs the rejected answers as the released trainer does; see there.
    """
    rejected = check_pair(chosen, rejected)
    check_settings(beta=beta, gamma=gamma, sft_weight=sft_weight)
    check_deviations(released, rejected.shape[1])
    if sft is not None:
        check_same_shape(sft, chosen, "sft", "chosen")
    if rejected_weights is not None:
        weights = check_weights(rejected_weights, *rejected.shape).to(rejected)
        against = (weights * rejected).sum(1, keepdim=True)  # (b, 1)
    elif "negatives" in released:
        # The second slice has no end, so it holds both answers, and broadcasting makes two losses out of one.
        against = torch.stack([rejected[:, 0], rejected.mean(1)], 1)  # (b, 2): weights 3/4 and 1/4 to first order
    else:  # the mean is inside the sigmoid: Eq. 2
        against = rejected.mean(1, keepdim=True)  # (b, 1)
    preference = _softplus(gamma - beta * (chosen[:, None] - against)).mean()
    return preference - sft_weight * (chosen if sft is None else sft).mean()


def pro_loss(scores: Tensor, rewards: Tensor, *, sft_weight: float = 0.0) -> Tensor:
    """PRO: a ranking of n answers as n - 1 softmax problems, each answer against all that are worse.

    `scores (b, n)` are mean token log-probabilities, answers sorted from best to worst; `rewards (b, n)` what a judge
    gave them, strictly decreasing along each row. The released value of `sft_weight` is 0.05.
    """
    check_ranking(scores, rewards)
    n = scores.shape[1]
    total = -sft_weight * (n - 1) ** 2 * scores[:, 0]  # (b,)
    # Answer k against all that are ranked below it; the last one has nothing left to beat.
    for k in range(n - 1):
        gaps = rewards[:, k, None] - rewards[:, k:]  # (b, n - k), the first one 0
        gaps = torch.cat([gaps.amax(1, keepdim=True), gaps[:, 1:]], 1)
        scaled = gaps * scores[:, k:]
        total = total + torch.logsumexp(scaled, 1) - scaled[:, 0]
    return total.mean()


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp x); torch by itself takes x for it from 20 on, an error of 2e-9 that fp64 shows."""
    return F.softplus(x, threshold=50)


def _log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p, in the two forms that do not cancel; p = 1 counts as the largest float below it."""
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    near, far = logp.clamp(min=-math.log(2)), logp.clamp(max=-math.log(2))  # each form sees only what it is good for
    below = torch.where(logp > -math.log(2), torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))
    return logp - below
