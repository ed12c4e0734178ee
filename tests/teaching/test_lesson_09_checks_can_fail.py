"""Lesson 09: every check says all three of its lines, the library passes, and each typical mistake has its own hint.

The library's `simpo_loss` and `logo_loss` solve two exercises, the difference that its `sft_weight` makes a third one.
A mistake is the same small function with one slip in it.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from support.lesson_exercises import ExercisesCanFail, line_of

from minilib.losses import preference


def mean(tokens, lengths):
    return tokens.sum(1) / lengths


def library_dpo(c, r, c_ref, r_ref, beta):
    return preference.dpo_loss(c, r, c_ref, r_ref, beta=beta)


def library_simpo(c, c_len, r, r_len, beta, gamma):
    return preference.simpo_loss(mean(c, c_len), mean(r, r_len), beta=beta, gamma=gamma)


def library_logo(c, r, beta, gamma):
    return preference.logo_loss(c, r, beta=beta, gamma=gamma, sft_weight=0.0)


def shares(c, r, beta, gamma):
    return torch.softmax(F.logsigmoid(gamma - beta * (c[:, None] - r)), 1)


def library_sft(c, weight):
    losses = [preference.simpo_loss(c, c.detach(), beta=1, gamma=0, sft_weight=w) for w in (weight, 0.0)]
    return losses[0] - losses[1]


SOLUTIONS = {
    "dpo_loss": library_dpo,
    "simpo_loss": library_simpo,
    "logo_loss": library_logo,
    "pair_shares": shares,
    "sft_term": library_sft,
}


def simpo(c, c_len, r, r_len, beta, gamma, z=None, take=mean, end=lambda z: F.softplus(-z).mean()):
    c, r = take(c, c_len), take(r, r_len)
    return end(beta * (c - r) - gamma if z is None else z(c, r, beta, gamma))


def logo(c, r, beta, gamma, against=lambda r: r.mean(1), end=lambda z: F.softplus(-z).mean()):
    against = against(r)
    return end(beta * ((c[:, None] if against.ndim == 2 else c) - against) - gamma)


def other_shares(c, r, beta, gamma, push=torch.sigmoid, total=lambda p: p.sum(1, keepdim=True)):
    pushes = push(gamma - beta * (c[:, None] - r))
    return pushes / total(pushes)


def released(c, r, b, g):
    kept = {"negatives"} if r.shape[1] == 2 else ()
    return preference.logo_loss(c, r, beta=b, gamma=g, sft_weight=0.0, released=kept)


def dpo(c, r, c_ref, r_ref, beta, won=lambda c, r, cr, rr: (c - cr) - (r - rr), end=lambda z: F.softplus(-z).mean()):
    return end(beta * won(c, r, c_ref, r_ref))


MISTAKES = [
    ("dpo_loss", lambda *a: dpo(*a, won=lambda c, r, cr, rr: c - r), "the reference is missing"),
    ("dpo_loss", lambda *a: dpo(*a, won=lambda c, r, cr, rr: c + cr - r - rr), "the references are added"),
    ("dpo_loss", lambda *a: dpo(*a, won=lambda c, r, cr, rr: cr - c - rr + r), "policy minus reference"),
    ("dpo_loss", lambda *a: dpo(*a, won=lambda c, r, cr, rr: c - cr + r - rr), "change is added"),
    ("dpo_loss", lambda *a: dpo(*a[:4], 1.0), "beta is missing"),
    ("dpo_loss", lambda *a: dpo(*a, end=lambda z: torch.sigmoid(z).mean()), "mean of the sigmoids"),
    ("dpo_loss", lambda *a: dpo(*a, end=lambda z: F.logsigmoid(z).mean()), "the loss is minus that"),
    ("dpo_loss", lambda *a: dpo(*a, end=lambda z: F.softplus(-z).sum()), "the batch is summed"),
    ("dpo_loss", lambda *a: dpo(*a, end=lambda z: -torch.sigmoid(z).log().mean()), "not finite"),
    ("dpo_loss", lambda *a: dpo(*a).detach(), "no gradient"),
    ("simpo_loss", partial(simpo, take=lambda x, n: x.sum(1)), "are summed"),
    ("simpo_loss", partial(simpo, take=lambda x, n: x.mean(1)), "padded length"),
    ("simpo_loss", lambda c, n, r, m, b, g: simpo(c, n, r, n, b, g), "each has its own"),
    ("simpo_loss", partial(simpo, z=lambda c, r, b, g: b * (c - r - g)), "multiplied by beta"),
    ("simpo_loss", partial(simpo, z=lambda c, r, b, g: b * (c - r) + g), "makes the task harder"),
    ("simpo_loss", lambda c, n, r, m, b, g: simpo(r, m, c, n, b, g), "exchanged"),
    ("simpo_loss", lambda c, n, r, m, b, g: simpo(c, n, r, m, b, 0), "gamma is missing"),
    ("simpo_loss", lambda c, n, r, m, b, g: simpo(c, n, r, m, 1, g), "beta is missing"),
    ("simpo_loss", partial(simpo, end=lambda z: F.softplus(z).mean()), "the sign is turned"),
    ("simpo_loss", partial(simpo, end=lambda z: torch.sigmoid(z).mean()), "mean of the sigmoids"),
    ("simpo_loss", partial(simpo, end=lambda z: F.softplus(-z).sum()), "batch is summed"),
    ("simpo_loss", partial(simpo, end=lambda z: F.logsigmoid(z).mean()), "the loss is minus that"),
    ("simpo_loss", partial(simpo, end=lambda z: -torch.log(torch.sigmoid(z)).mean()), "not finite"),
    ("simpo_loss", lambda *given: simpo(*given).detach(), "no gradient"),
    ("logo_loss", partial(logo, against=lambda r: r), "averages inside"),
    ("logo_loss", partial(logo, against=lambda r: r.sum(1)), "are summed"),
    ("logo_loss", partial(logo, against=lambda r: r.amax(1)), "only the likeliest"),
    ("logo_loss", partial(logo, against=lambda r: r[:, 0]), "only the first"),
    ("logo_loss", partial(logo, against=lambda r: r.mean()), "runs over all examples"),
    ("logo_loss", lambda c, r, b, g: logo(c, r, b, b * g), "multiplied by beta"),
    ("logo_loss", lambda c, r, b, g: logo(c, r, b, -g), "makes the task harder"),
    ("logo_loss", lambda c, r, b, g: logo(c, r, b, 0), "gamma is missing"),
    ("logo_loss", lambda c, r, b, g: logo(r.mean(1), c[:, None], b, g), "exchanged"),
    ("logo_loss", lambda c, r, b, g: F.softplus(g - b * (c - r.mean(1, keepdim=True))).mean(), "mind the shapes"),
    ("logo_loss", released, "weight 3/4"),
    ("logo_loss", partial(logo, end=lambda z: -torch.log(torch.sigmoid(z)).mean()), "not finite"),
    ("logo_loss", lambda *given: logo(*given).detach(), "no gradient"),
    ("pair_shares", lambda c, r, b, g: torch.full_like(r, 1 / r.shape[1]), "that is LOGO"),
    ("pair_shares", partial(other_shares, push=lambda x: torch.sigmoid(-x)), "is turned"),
    ("pair_shares", lambda c, r, b, g: torch.softmax(b * r, 1), "softmax of the log-probabilities"),
    ("pair_shares", partial(other_shares, push=F.softplus), "take their slopes"),
    ("pair_shares", partial(other_shares, total=lambda p: 1), "not divided by their sum"),
    ("pair_shares", lambda c, r, b, g: b * other_shares(c, r, b, g, total=lambda p: 1), "a factor of all"),
    ("pair_shares", partial(other_shares, total=lambda p: p.sum(0)), "shares of a column"),
    ("pair_shares", lambda c, r, b, g: shares(c, r, b, 0), "gamma is missing"),
    ("pair_shares", lambda c, r, b, g: shares(c, r, b, -g), "gamma has the wrong sign"),
    ("pair_shares", lambda c, r, b, g: shares(c, r, 1, g), "beta is missing"),
    ("pair_shares", other_shares, "both sigmoids are 0"),
    ("sft_term", lambda c, w: w * c.mean(), "the printed one"),
    ("sft_term", lambda c, w: -w * c.sum(), "batch is summed"),
    ("sft_term", lambda c, w: -c.mean(), "weight is missing"),
    ("sft_term", lambda c, w: -w * c.exp().mean(), "probabilities are averaged"),
    ("sft_term", lambda c, w: -w * c.exp().mean().log(), "logarithm of a mean"),
    ("sft_term", lambda c, w: -w * c.mean().item(), "no gradient"),
]


class TestExercises(ExercisesCanFail):
    """The tests of every lesson, for this one."""

    notebook = "09_turn_preferences_into_a_loss.ipynb"
    solutions = SOLUTIONS
    mistakes = MISTAKES
    names = {"F": F}  # noqa: RUF012


@pytest.mark.parametrize(("name", "right"), [("simpo_loss", simpo), ("logo_loss", logo)])
def test_what_the_mistakes_are_made_from_is_right(capsys, name, right):
    assert line_of(capsys, name, right).startswith("Passed: ")
