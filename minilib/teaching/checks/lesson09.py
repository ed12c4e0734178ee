"""Checks of lesson 09, turn preferences into a loss without a reference model: DPO, SimPO, LOGO, shares, SFT.

Solutions: `dpo_loss`, `simpo_loss` and `logo_loss` of `minilib.losses.preference`, which are also the judges, in fp64.
The shares of a push are judged by autograd through `simpo_loss`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minilib.losses import preference
from minilib.teaching.checks.contract import close, compare, not_finite, run

BETA, GAMMA = 2.5, 0.6
ZERO = "the loss is not finite: the sigmoid is 0 before its logarithm is taken, use F.logsigmoid or F.softplus"
FLAT = "the loss has no gradient: keep to torch operations, without .item() or .detach()"


def check_dpo_loss(learner: Callable[..., Tensor]) -> None:
    """Exercise: `dpo_loss(chosen, rejected, chosen_ref, rejected_ref, beta)` from log-probabilities `(b,)`."""
    hand = _double([-3.0], [-1.0], [-4.0], [-1.0])
    cases = {
        "for one pair whose chosen answer has risen by 1": lambda fn: _dpo(fn, hand, 1.0),
        "for five pairs": lambda fn: _dpo(fn, _double(*torch.linspace(-9, -1, 20).view(4, 5).sin().tolist()), 0.3),
        "for a policy that equals its reference": _dpo_start,
        "for a change of -1,000 in fp32": _dpo_far,
    }
    run(learner, cases, "the reward is a change, so the loss starts at log 2 whatever the answers are")


def check_simpo_loss(learner: Callable[..., Tensor]) -> None:
    """Exercise: `simpo_loss(chosen, chosen_lengths, rejected, rejected_lengths, beta, gamma)` from token values."""
    cases = {
        "for one pair of two tokens each": lambda fn: _simpo(fn, *_by_hand(), 2.0, 1.0),
        "for four pairs of different lengths": lambda fn: _simpo(fn, *_tokens(4), BETA, GAMMA),
        "for a margin of -1,000 in fp32": _simpo_far,
    }
    run(learner, cases, "each answer is divided by its own length, and gamma is taken off the scaled margin")


def check_logo_loss(learner: Callable[..., Tensor]) -> None:
    """Exercise: `logo_loss(chosen, rejected, beta, gamma)` from mean log-probabilities, `(b,)` and `(b, M)`."""
    hand = torch.tensor([-1.0]), torch.tensor([[-4.5, -1.5]])
    cases = {
        "for one example with rejected answers -4.5 and -1.5": lambda fn: _logo(fn, *hand, 2.0, 1.0),
        "for four examples with two rejected answers": lambda fn: _logo(fn, *_means(4, 2), BETA, GAMMA),
        "for three examples with five rejected answers": lambda fn: _logo(fn, *_means(3, 5), BETA, GAMMA),
        "for one rejected answer, where it is SimPO": lambda fn: _logo(fn, *_means(3, 1), BETA, GAMMA),
        "for a margin of -1,000 in fp32": _logo_far,
    }
    run(learner, cases, "the mean stands inside the sigmoid, so each rejected answer gets 1/M of one push")


def check_pair_shares(learner: Callable[..., Tensor]) -> None:
    """Exercise: `pair_shares(chosen, rejected, beta, gamma)`, the share of the push that each pair takes, `(b, M)`."""
    cases = {
        "for equal rejected answers": lambda fn: _shares(fn, *_double([-1.0, -2.0], [[-3.0] * 4, [-1.0] * 4])),
        "for four examples with three rejected answers": lambda fn: _shares(fn, *_means(4, 3)),
        "for margins of 200 and 300 in fp32": _shares_far,
    }
    run(learner, cases, "a pair pushes as hard as it is unsettled, so the likeliest rejected answer takes most")


def check_sft_term(learner: Callable[..., Tensor]) -> None:
    """Exercise: `sft_term(chosen, sft_weight)`, what is added to the preference loss; chosen `(b,)`."""
    cases = {
        "for log-probabilities -1 and -3 and weight 0.25": lambda fn: _sft(fn, _double([-1.0, -3.0])[0], 0.25),
        "for six examples": lambda fn: _sft(fn, _means(6, 1)[0], 0.1),
        "for an answer that is certain": lambda fn: compare(fn(torch.zeros(3), 0.1), 0.0),
    }
    run(learner, cases, "minimising minus the log-probability raises it; the printed plus would lower it")


def _dpo(fn: Callable, logps: tuple[Tensor, ...], beta: float) -> str | None:
    c, r, c_ref, r_ref = logps
    won = beta * ((c - c_ref) - (r - r_ref))
    suspects = {
        "the reference is missing: the reward is the change against it": F.softplus(-beta * (c - r)).mean(),
        "the references are added: take them off": F.softplus(-beta * ((c + c_ref) - (r + r_ref))).mean(),
        "the reference has the wrong sign: policy minus reference": F.softplus(won).mean(),
        "the rejected answer's change is added: take it off": F.softplus(-beta * (c - c_ref + r - r_ref)).mean(),
        "beta is missing": F.softplus(-won / beta).mean(),
        "it is the mean of the sigmoids: take their logarithm, with a minus": torch.sigmoid(won).mean(),
        "it is the logarithm of the sigmoid: the loss is minus that": -F.softplus(-won).mean(),
        "the batch is summed: return its mean": F.softplus(-won).sum(),
    }
    want = preference.dpo_loss(c, r, c_ref, r_ref, beta=beta)
    suspects = {hint: answer for hint, answer in suspects.items() if not close(answer, want)}
    got = fn(c.requires_grad_(), r.requires_grad_(), c_ref, r_ref, beta)
    return compare(got, want, suspects) or _flat(got)


def _dpo_start(fn: Callable) -> str | None:
    chosen, rejected = _means(4, 1)
    return _dpo(fn, (chosen, rejected[:, 0], chosen.clone(), rejected[:, 0].clone()), 0.1)


def _dpo_far(fn: Callable) -> str | None:
    zero = torch.zeros(2)
    got = fn(zero - 10_000, zero, zero, zero, 0.1)
    return not_finite(got, ZERO) or compare(got, 1_000.0, tol=1e-6)


def _simpo(fn: Callable, chosen, chosen_lengths, rejected, rejected_lengths, beta: float, gamma: float) -> str | None:
    def answer(c, r, z=lambda c, r: beta * (c - r) - gamma):
        return F.softplus(-z(c, r)).mean()

    c, r = chosen.sum(1) / chosen_lengths, rejected.sum(1) / rejected_lengths
    summed, chance = answer(chosen.sum(1), rejected.sum(1)), torch.sigmoid(beta * (c - r) - gamma).mean()
    suspects = {
        "the log-probabilities are summed: divide each sum by the length of its answer": summed,
        "the sums are divided by the padded length: padding counts as tokens": answer(chosen.mean(1), rejected.mean(1)),
        "both answers are divided by one length: each has its own": answer(c, rejected.sum(1) / chosen_lengths),
        "gamma is multiplied by beta: it is the margin itself": answer(c, r, lambda c, r: beta * (c - r - gamma)),
        "gamma has the wrong sign: it makes the task harder": answer(c, r, lambda c, r: beta * (c - r) + gamma),
        "chosen and rejected are exchanged": answer(r, c),
        "gamma is missing": answer(c, r, lambda c, r: beta * (c - r)),
        "beta is missing": answer(c, r, lambda c, r: c - r - gamma),
        "the sign is turned: -log sigmoid(z) is softplus(-z)": answer(c, r, lambda c, r: gamma - beta * (c - r)),
        "it is the mean of the sigmoids: take their logarithm, with a minus": chance,
        "the batch is summed: return its mean": answer(c, r) * len(c),
        "it is the logarithm of the sigmoid: the loss is minus that": -answer(c, r),
    }
    want = preference.simpo_loss(c, r, beta=beta, gamma=gamma)
    if len(c) == 1:
        suspects.pop("the batch is summed: return its mean")
    got = fn(chosen.requires_grad_(), chosen_lengths, rejected.requires_grad_(), rejected_lengths, beta, gamma)
    return compare(got, want, suspects) or _flat(got)


def _simpo_far(fn: Callable) -> str | None:
    (chosen, rejected), lengths = (torch.full((1, 2), value) for value in (-1000.0, 0.0)), torch.tensor([2])
    got = fn(chosen, lengths, rejected, lengths, 10.0, 3.0)
    return not_finite(got, ZERO) or compare(got, 10_003.0, tol=1e-6)


def _logo(fn: Callable, chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> str | None:
    chosen, rejected = chosen.double().requires_grad_(), rejected.double()

    def answer(against, shift=gamma):
        return F.softplus(shift - beta * (chosen.detach()[:, None] - against)).mean()

    inside = rejected.mean(1, keepdim=True)
    square = F.softplus(gamma - beta * (chosen.detach() - inside)).mean()
    suspects = {
        "the M pairs are averaged after the loss: LOGO averages inside the sigmoid": answer(rejected),
        "the rejected answers are summed: their mean is meant": answer(rejected.sum(1, keepdim=True)),
        "only the likeliest rejected answer is used": answer(rejected.amax(1, keepdim=True)),
        "only the first rejected answer is used": answer(rejected[:, :1]),
        "the mean runs over all examples: each has its own rejected answers": answer(rejected.mean()),
        "gamma is multiplied by beta: it is the margin itself": answer(inside, beta * gamma),
        "gamma has the wrong sign: it makes the task harder": answer(inside, -gamma),
        "gamma is missing": answer(inside, 0.0),
        "chosen and rejected are exchanged": F.softplus(gamma + beta * (chosen.detach()[:, None] - inside)).mean(),
        "chosen (b,) met the means (b, 1), and torch made (b, b) of them: mind the shapes": square,
    }
    if rejected.shape[1] == 2:
        released = {"beta": beta, "gamma": gamma, "sft_weight": 0.0, "released": {"negatives"}}
        hint = "the first rejected answer has weight 3/4, as in the released trainer: the order must not matter"
        suspects[hint] = preference.logo_loss(chosen, rejected, **released)
    want = preference.logo_loss(chosen, rejected, beta=beta, gamma=gamma, sft_weight=0.0)
    got = fn(chosen, rejected, beta, gamma)
    return compare(got, want, suspects) or _flat(got)


def _logo_far(fn: Callable) -> str | None:
    got = fn(torch.tensor([-1000.0]), torch.zeros(1, 2), 10.0, 3.0)
    return not_finite(got, ZERO) or compare(got, 10_003.0, tol=1e-6)


def _shares(fn: Callable, chosen: Tensor, rejected: Tensor) -> str | None:
    rejected.requires_grad_()
    loss = preference.simpo_loss(chosen, rejected, beta=BETA, gamma=GAMMA)
    (grad,) = torch.autograd.grad(loss, rejected)
    rejected.requires_grad_(False)
    x = GAMMA - BETA * (chosen[:, None] - rejected)

    def share(pushes):
        return pushes / pushes.sum(1, keepdim=True)

    pushes, softmax = torch.sigmoid(x), torch.softmax(BETA * rejected, 1)
    suspects = {
        "all shares are 1/M: that is LOGO; here each pair has a loss of its own": share(torch.ones_like(rejected)),
        "the settled pairs push most: the sign inside the sigmoid is turned": share(torch.sigmoid(-x)),
        "it is a softmax of the log-probabilities: the slope of softplus is a sigmoid": softmax,
        "the losses are shared out: take their slopes": share(F.softplus(x)),
        "the pushes are not divided by their sum": pushes,
        "the pushes are not divided by their sum, and beta is a factor of all": BETA * pushes,
        "the shares of a column add up to one: divide each row by its own sum": pushes / pushes.sum(0, keepdim=True),
        "gamma is missing": share(torch.sigmoid(x - GAMMA)),
        "gamma has the wrong sign": share(torch.sigmoid(x - 2 * GAMMA)),
        "beta is missing inside the sigmoid": share(torch.sigmoid(GAMMA - (chosen[:, None] - rejected))),
    }
    return compare(fn(chosen, rejected, BETA, GAMMA), share(grad), suspects)


def _shares_far(fn: Callable) -> str | None:
    got = fn(torch.tensor([0.0]), torch.tensor([[-200.0, -300.0]]), 10.0, 3.0)
    vanished = "the answer is not finite: both sigmoids are 0, so divide before they vanish, in logarithms"
    return not_finite(got, vanished) or compare(got, torch.tensor([[1.0, 0.0]]))


def _sft(fn: Callable, chosen: Tensor, weight: float) -> str | None:
    chosen.requires_grad_()
    want, values = -weight * chosen.mean(), chosen.detach()
    suspects = {
        "the sign is the printed one: minimising it pushes the chosen answer down": -want,
        "the batch is summed: take its mean": want * len(values),
        "the weight is missing": want / weight,
        "probabilities are averaged: average the log-probabilities": -weight * values.exp().mean(),
        "it is the logarithm of a mean: take the mean of the logarithms": -weight * values.exp().mean().log(),
    }
    got = fn(chosen, weight)
    return compare(got, want, suspects) or _flat(got)


def _flat(got: Tensor) -> str | None:
    return None if isinstance(got, Tensor) and got.requires_grad else FLAT


def _double(*values) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(value, dtype=torch.float64) for value in values)


def _by_hand() -> tuple[Tensor, ...]:
    """Means -1 and -3."""
    chosen, rejected = _double([[-1.5, -0.5]], [[-2.0, -4.0]])
    return chosen, torch.tensor([2]), rejected, torch.tensor([2])


def _tokens(batch: int) -> tuple[Tensor, ...]:
    """Token log-probabilities (b, 6) with zeros behind each answer, and the lengths (b,)."""
    generator = torch.Generator().manual_seed(batch)
    out = []
    for lengths in (torch.tensor([6, 2, 5, 3])[:batch], torch.tensor([2, 6, 4, 1])[:batch]):
        values = -torch.rand(batch, 6, generator=generator, dtype=torch.float64) * 2 - 0.01
        out += [values * (torch.arange(6) < lengths[:, None]), lengths]
    return tuple(out)


def _means(batch: int, rejected: int) -> tuple[Tensor, Tensor]:
    """Mean log-probabilities (b,) and (b, M), below 0."""
    generator = torch.Generator().manual_seed(10 * batch + rejected)
    values = -torch.rand(batch, 1 + rejected, generator=generator, dtype=torch.float64) * 2 - 0.01
    return values[:, 0].clone(), values[:, 1:].clone()
