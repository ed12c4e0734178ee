"""Preference losses equal ten lines of numpy each, and keep the promises that make them what they are.

M = 1 LOGO is SimPO, the order of rejected answers does not matter, the SFT term raises the chosen answer.
"""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.preference_toys import answers, gradient
from support.reference import refused

from minilib.losses.preference import cpo_loss, dpo_loss, logo_loss, orpo_loss, pro_loss, simpo_loss

BETA, GAMMA = 2.5, 0.6


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def numpy_dpo(c, r, rc, rr, beta):
    return np.mean(
        [-log_sigmoid(beta * ((c[i] - rc[i]) - (x - y))) for i in range(len(c)) for x, y in zip(r[i], rr[i])]
    )


def numpy_simpo(c, r, beta, gamma, sft):
    return np.mean([-log_sigmoid(beta * c[i] - beta * x - gamma) for i in range(len(c)) for x in r[i]]) - sft * c.mean()


def numpy_orpo(c, r, beta):
    def odds(logp):
        return np.exp(logp) / (1 - np.exp(logp))

    ratios = [-log_sigmoid(np.log(odds(c[i]) / odds(x))) for i in range(len(c)) for x in r[i]]
    return beta * np.mean(ratios) - c.mean()


def numpy_logo(c, r, beta, gamma, sft):
    return np.mean(
        [-log_sigmoid(beta * c[i] - beta / len(r[i]) * sum(r[i]) - gamma) - sft * c[i] for i in range(len(c))]
    )


def numpy_pro(s, r, sft):
    total = 0.0
    for scores, rewards in zip(s, r):
        for k in range(len(scores) - 1):
            gaps = [rewards[k] - x for x in rewards[k + 1 :]]
            terms = [np.exp(scores[k] * max(gaps)), *(np.exp(x * g) for x, g in zip(scores[k + 1 :], gaps))]
            total -= np.log(terms[0] / sum(terms))
        total -= sft * (len(scores) - 1) ** 2 * scores[0]
    return total / len(s)


def test_every_loss_equals_its_transcription_in_numpy():
    (c, r), (rc, rr) = answers(), answers(seed=1)
    n = [x.numpy() for x in (c, r, rc, rr)]
    rewards = torch.tensor([4.0, 2.5, 2.0, -1.0], dtype=torch.float64).expand(5, 4)
    scores = torch.cat([c[:, None], r], 1)
    pairs = [
        (dpo_loss(c, r, rc, rr, beta=BETA), numpy_dpo(*n, BETA)),
        (simpo_loss(c, r, beta=BETA, gamma=GAMMA, sft_weight=0.3), numpy_simpo(*n[:2], BETA, GAMMA, 0.3)),
        (cpo_loss(c, r, beta=BETA, sft_weight=0.7), numpy_simpo(*n[:2], BETA, 0, 0.7)),
        (orpo_loss(c, r, beta=BETA), numpy_orpo(*n[:2], BETA)),
        (logo_loss(c, r, beta=BETA, gamma=GAMMA, sft_weight=0.1), numpy_logo(*n[:2], BETA, GAMMA, 0.1)),
        (pro_loss(scores, rewards, sft_weight=0.05), numpy_pro(scores.numpy(), rewards.numpy(), 0.05)),
    ]
    for mine, numpy in pairs:
        assert mine.ndim == 0
        assert mine.item() == pytest.approx(numpy, rel=1e-12)


def test_known_values_by_hand():
    zero = torch.zeros(1)
    assert logo_loss(zero, torch.zeros(1, 2), beta=1, gamma=0).item() == pytest.approx(math.log(2))
    # c = -1, rejected -2 and -4: z = 2 (-1 + 3) - 1 = 3
    loss = logo_loss(torch.tensor([-1.0]), torch.tensor([[-2.0, -4.0]]), beta=2, gamma=1, sft_weight=0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-3)) + 0.5)
    assert dpo_loss(zero, zero, zero, zero).item() == pytest.approx(math.log(2))


@given(st.integers(1, 6), st.floats(0.1, 20), st.floats(0, 5), st.floats(0, 1), st.integers(0, 99))
def test_one_rejected_answer_or_equal_ones_make_logo_simpo(m, beta, gamma, sft_weight, seed):
    settings = {"beta": beta, "gamma": gamma, "sft_weight": sft_weight}
    c, r = answers(m=1, seed=seed)
    for loss in (logo_loss(c, r[:, 0], **settings), logo_loss(c, r.expand(-1, m), **settings)):
        torch.testing.assert_close(loss, simpo_loss(c, r, **settings), rtol=1e-12, atol=1e-14)


@given(st.integers(2, 6), st.randoms(use_true_random=False))
def test_the_order_of_rejected_answers_does_not_matter(m, random):
    c, r = answers(m=m)
    order = random.sample(range(m), m)
    for loss in (logo_loss, simpo_loss):
        a, b = (loss(c, x, beta=BETA, gamma=GAMMA) for x in (r, r[:, order]))
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


@given(st.integers(1, 6), st.floats(0.1, 20), st.floats(0, 5), st.integers(0, 99))
def test_the_mean_inside_the_sigmoid_is_never_above_the_mean_over_pairs(m, beta, gamma, seed):
    c, r = answers(m=m, seed=seed)
    settings = {"beta": beta, "gamma": gamma, "sft_weight": 0.1}
    assert logo_loss(c, r, **settings) <= simpo_loss(c, r, **settings) + 1e-12


def test_a_step_downhill_raises_the_chosen_answer_and_lowers_every_rejected_one():
    (c, r), (rc, rr) = answers(), answers(seed=1)
    losses = [
        lambda c, r: dpo_loss(c, r, rc, rr),
        lambda c, r: simpo_loss(c, r, beta=BETA, gamma=GAMMA),
        lambda c, r: cpo_loss(c, r, beta=BETA),
        lambda c, r: orpo_loss(c, r),
        lambda c, r: logo_loss(c, r, beta=BETA, gamma=GAMMA),
    ]
    for loss in losses:
        chosen, rejected = gradient(loss, c, r)
        assert (chosen < 0).all()
        assert (rejected > 0).all()


def test_the_sft_term_raises_the_chosen_log_probability():
    c, r = answers()
    for loss in (logo_loss, simpo_loss):
        plain, with_sft = (
            gradient(partial(loss, beta=BETA, gamma=GAMMA, sft_weight=sft_weight), c, r) for sft_weight in (0.0, 0.4)
        )
        torch.testing.assert_close(with_sft[0] - plain[0], torch.full_like(c, -0.4 / len(c)))
        assert torch.equal(with_sft[1], plain[1])


def test_logo_pushes_rejected_answers_equally_and_pairs_push_the_likeliest_most():
    c, r = answers(b=1, m=3)
    settings = {"beta": BETA, "gamma": GAMMA}
    own, pushes = gradient(lambda c, r: logo_loss(c, r, **settings, sft_weight=0.0), c, r)
    torch.testing.assert_close(pushes, (-own / 3).expand(1, 3))
    paired = gradient(lambda c, r: simpo_loss(c, r, **settings), c, r)[1]
    assert paired.argmax() == r.argmax()
    assert paired.max() > paired.min() * 1.05


def test_weights_of_rejected_answers_make_their_mean_a_weighted_one():
    c, r = answers(m=3)
    settings = {"beta": BETA, "gamma": GAMMA, "sft_weight": 0.1}
    weights = torch.tensor([1.0, 0.0, 3.0])
    expected = numpy_logo(c.numpy(), (r[:, :1] / 4 + r[:, 2:] * 3 / 4).numpy(), BETA, GAMMA, 0.1)
    for given_ in (weights, 7 * weights, weights.expand(5, 3), weights[None].double()):
        loss = logo_loss(c, r, rejected_weights=given_, **settings)
        assert loss.item() == pytest.approx(expected, rel=1e-12)
    plain = logo_loss(c, r, **settings)
    torch.testing.assert_close(logo_loss(c, r, rejected_weights=torch.full((3,), 0.2), **settings), plain)
    own = torch.rand(5, 3) + 0.1  # each example has its own
    pushes = gradient(lambda c, r: logo_loss(c, r, rejected_weights=own, **settings), c, r)[1]
    torch.testing.assert_close(pushes / pushes.sum(1, keepdim=True), (own / own.sum(1, keepdim=True)).double())


def test_pro_is_a_preference_loss_for_two_answers_and_a_row_of_infonce_for_equal_gaps():
    c, r = answers(m=3)
    two = pro_loss(torch.stack([c, r[:, 0]], 1), torch.tensor([[1.0, 0.0]]).double().expand(5, 2))
    torch.testing.assert_close(two, torch.nn.functional.softplus(r[:, 0] - c).mean(), rtol=1e-12, atol=0)
    # gaps of 1 to all others and nearly none among them: what is left is the first row, and log n for the others
    rewards = torch.tensor([[1.0, 2e-9, 1e-9, 0.0]]).double().expand(5, 4)
    scores = torch.cat([c[:, None], r], 1)
    row = torch.nn.functional.cross_entropy(scores, torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(pro_loss(scores, rewards), row + math.log(3) + math.log(2), rtol=1e-7, atol=0)


def test_orpo_is_finite_and_smooth_up_to_certainty():
    for dtype in (torch.float32, torch.float64):
        certain = torch.tensor([0.0, -1e-12, -1e-4, -math.log(2), -80.0], dtype=dtype)
        grads = gradient(lambda c, r: orpo_loss(c, r), certain, certain.flip(0)[:, None])
        assert all(torch.isfinite(g).all() for g in grads)


def test_large_margins_neither_overflow_nor_vanish():
    c, r = torch.tensor([-2000.0]), torch.tensor([[-0.5, -0.5]])
    loss = logo_loss(c, r, beta=10, gamma=3, sft_weight=0.0)
    assert loss.item() == pytest.approx(10 * 1999.5 + 3)
    assert gradient(lambda c, r: logo_loss(c, r, beta=10, gamma=3, sft_weight=0.0), c, r)[0].item() == -10


C, R = answers()
BAD = {
    "no batch": (lambda: logo_loss(C[:0], R[:0], beta=1, gamma=0), ValueError, "chosen has shape (0,)"),
    "a matrix of chosen answers": (lambda: logo_loss(R, R, beta=1, gamma=0), ValueError, "chosen has shape (5, 3)"),
    "lengths": (lambda: logo_loss(C, R[:4], beta=1, gamma=0), ValueError, "rejected has shape (4, 3) and chosen (5,)"),
    "no rejected answer": (lambda: simpo_loss(C, R[:, :0], beta=1, gamma=0), ValueError, "rejected has shape (5, 0)"),
    "token ids": (lambda: cpo_loss(C.long(), R), TypeError, "chosen has dtype torch.int64"),
    "a list": (lambda: orpo_loss(C, R.tolist()), TypeError, "rejected is a list"),
    "beta 0": (lambda: logo_loss(C, R, beta=0, gamma=0), ValueError, "beta is 0: give a finite number above 0"),
    "beta nan": (lambda: dpo_loss(C, R, C, R, beta=math.nan), ValueError, "beta is nan"),
    "gamma": (lambda: simpo_loss(C, R, beta=1, gamma=-1), ValueError, "gamma is -1: give a finite number of 0 or more"),
    "sft_weight": (lambda: logo_loss(C, R, beta=1, gamma=0, sft_weight=math.inf), ValueError, "sft_weight is inf"),
    "reference": (lambda: dpo_loss(C, R, C, R[:, :2]), ValueError, "rejected is (5, 3) and reference_rejected (5, 2)"),
    "one answer to rank": (lambda: pro_loss(R[:, :1], R[:, :1]), ValueError, "scores has shape (5, 1)"),
    "a tie": (
        lambda: pro_loss(R, torch.ones(5, 3)),
        ValueError,
        "rewards does not fall from answer 0 to answer 1 of row 0",
    ),
    "deviation": (lambda: logo_loss(C, R, beta=1, gamma=0, released={"magic"}), ValueError, "released is {'magic'}"),
    "weights below 0": (
        lambda: logo_loss(C, R, beta=1, gamma=0, rejected_weights=torch.tensor([1.0, 1.0, -1.0])),
        ValueError,
        "rejected_weights holds no valid weights",
    ),
    "weights of 0": (
        lambda: logo_loss(C, R, beta=1, gamma=0, rejected_weights=torch.zeros(5, 3)),
        ValueError,
        "rejected_weights holds no valid weights",
    ),
    "two weights for three": (
        lambda: logo_loss(C, R, beta=1, gamma=0, rejected_weights=torch.ones(2)),
        ValueError,
        "rejected_weights is (2,) and there are 3 rejected answers for each of 5 examples",
    ),
    "a list of weights": (
        lambda: logo_loss(C, R, beta=1, gamma=0, rejected_weights=[1, 1, 1]),
        ValueError,
        "rejected_weights is list and there are 3",
    ),
    "a string": (lambda: logo_loss(C, R, beta=1, gamma=0, released="negatives"), ValueError, "released is 'negatives'"),
    "sft of another shape": (
        lambda: logo_loss(C, R, beta=1, gamma=0, sft=torch.zeros(7)),
        ValueError,
        "sft is (7,) and chosen (5,)",
    ),
    "no beta": (lambda: logo_loss(C, R, beta=None, gamma=0), TypeError, "beta is None: give a number"),
    "a text as gamma": (lambda: logo_loss(C, R, beta=1, gamma="2"), TypeError, "gamma is '2': give a number"),
    "three negatives": (
        lambda: logo_loss(C, R, beta=1, gamma=0, released={"negatives"}),
        ValueError,
        "there are 3 rejected answers: the released trainer knows two",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case):
    call, error, words = BAD[case]
    refused(error, words, call)
