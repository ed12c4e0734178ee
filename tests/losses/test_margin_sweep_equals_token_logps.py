"""LOGO's loss in one sweep equals token_logps, means and logo_loss, in value and gradients, for three products.

The judge takes dense log-probabilities in fp64 and lets autograd do the rest.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.reference import refused
from support.tiny_llama import tiny_llama
from torch.utils.flop_counter import FlopCounterMode

from minilib.longcontext import answer_hidden, pack_answers, stack_packed
from minilib.longcontext.scoring import sequence_logps
from minilib.losses.logo_from_hidden import logo_loss_from_hidden
from minilib.losses.logps import mean_by_answer, token_logps
from minilib.losses.preference import logo_loss, simpo_loss
from minilib.teaching.memory import measure_peak

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}
SETTINGS = {"beta": 2.5, "gamma": 0.6, "sft_weight": 0.1}


def inputs(examples=2, m=2, dim=8, words=31, seed=0, shuffled=False, size=1.0):
    """Hidden states, weight, labels and answer numbers of `examples` x (1 + m) answers of 1 to 6 tokens, fp64."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (examples * (1 + m),), generator=generator)
    answer = torch.arange(len(lengths)).repeat_interleave(lengths)
    n = len(answer)
    if shuffled:
        answer = answer[torch.randperm(n, generator=generator)]
    hidden, weight = (torch.randn(s, dim, generator=generator, dtype=torch.float64) for s in (n, words))
    return hidden, weight * size, torch.randint(words, (n,), generator=generator), answer, m


def judge(hidden, weight, labels, answer, m, upstream=1.0, **settings):
    """Loss, mean log-probabilities and gradients through dense log-softmax in fp64."""
    leaves = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    logps = token_logps(*leaves, labels, backend="dense")
    means = mean_by_answer(logps, answer, int(answer.max()) + 1).view(-1, 1 + m)
    loss = logo_loss(means[:, 0], means[:, 1:], **settings)
    return [loss.detach(), means.detach(), *torch.autograd.grad(loss * upstream, leaves)]


def swept(hidden, weight, labels, answer, m, trained=(True, True), upstream=1.0, **settings):
    leaves = [x.detach().clone().requires_grad_(wanted) for x, wanted in zip((hidden, weight), trained)]
    loss, means = logo_loss_from_hidden(*leaves, labels, answer, num_rejected=m, **settings)
    (loss * upstream).backward()
    return [loss.detach(), means, *(leaf.grad for leaf in leaves)]


def assert_equal(got, true, tolerance):
    for name, mine, expected in zip(("loss", "means", "hidden gradient", "weight gradient"), got, true):
        if mine is not None:
            error = (mine.double() - expected).norm() / expected.norm()
            assert error <= tolerance, f"{name}: relative error {error:.3g}"


TRAINED = {"both": (True, True), "frozen weight": (True, False), "frozen hidden states": (False, True)}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sft_weight", [0.0, 0.1])
@pytest.mark.parametrize("examples", [1, 3])
@pytest.mark.parametrize("trained", TRAINED.values(), ids=TRAINED)
def test_one_sweep_equals_dense_log_probabilities_and_autograd(trained, examples, sft_weight, dtype):
    hidden, weight, labels, answer, m = inputs(examples)
    given_ = [hidden.to(dtype), weight.to(dtype), labels, answer, m]
    settings = {**SETTINGS, "sft_weight": sft_weight}
    got = swept(*given_, trained, **settings)
    assert [g is not None for g in got[2:]] == list(trained)
    assert all(g is None or g.dtype == dtype for g in got[2:])
    assert not got[1].requires_grad
    assert_equal(got, judge(*given_, **settings), TOLERANCE[dtype])
    assert_equal(got[:2], judge(*given_, **settings)[:2], min(TOLERANCE[dtype], 1e-5))  # no sum is rounded


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(2, 20),
    st.floats(0.1, 10),
    st.floats(0, 3),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.integers(0, 99),
)
def test_any_batch_any_tiles_and_any_settings_agree(examples, m, chunk_size, beta, gamma, sft_weight, seed):
    row = inputs(examples, m, words=19, seed=seed, shuffled=True)
    settings = {"beta": beta, "gamma": gamma, "sft_weight": sft_weight}
    # Where the margin is won already, the true gradient is nearly nothing and its error relative to the rows' sizes.
    got, true = swept(*row, chunk_size=chunk_size, **settings), judge(*row, **settings)
    for mine, expected in zip(got, true):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sft_weight", [0.0, 0.1])
@pytest.mark.parametrize("weights", [[1.0, 0.0, 4.0], [[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]]], ids=["for all", "for each"])
def test_weighted_rejected_answers_agree(weights, sft_weight):
    row = inputs(2, 3, shuffled=True)
    settings = {**SETTINGS, "sft_weight": sft_weight, "rejected_weights": torch.tensor(weights)}
    got, true = swept(*row, **settings), judge(*row, **settings)
    assert_equal(got, true, 1e-10)
    assert got[0] != swept(*row, **{**settings, "rejected_weights": None})[0]


def test_equal_weights_change_nothing():
    row = inputs(2, 3)
    assert_equal(swept(*row, rejected_weights=torch.full((3,), 5.0), **SETTINGS), judge(*row, **SETTINGS), 1e-10)


def test_logits_of_hundreds_stay_exact():
    row = inputs(size=60.0)
    assert_equal(swept(*row, **SETTINGS), judge(*row, **SETTINGS), 1e-10)


def test_one_rejected_answer_without_sft_is_simpo():
    row = inputs(m=1)
    loss, means = logo_loss_from_hidden(*row[:4], num_rejected=1, beta=2.0, gamma=0.5, sft_weight=0.0)
    torch.testing.assert_close(loss, simpo_loss(means[:, 0], means[:, 1], beta=2.0, gamma=0.5), rtol=1e-12, atol=0)


def test_the_upstream_gradient_multiplies_and_walking_back_twice_gives_the_same():
    row = inputs()
    assert_equal(swept(*row, upstream=-3.5, **SETTINGS), judge(*row, upstream=-3.5, **SETTINGS), 1e-10)
    leaves = [x.requires_grad_() for x in row[:2]]
    loss, _ = logo_loss_from_hidden(*leaves, *row[2:4], num_rejected=2, **SETTINGS)
    first = [grad.clone() for grad in torch.autograd.grad(2 * loss, leaves, retain_graph=True)]
    for again in (torch.autograd.grad(2 * loss, leaves, retain_graph=True), torch.autograd.grad(loss + loss, leaves)):
        assert all(torch.equal(a, b) for a, b in zip(first, again))


def test_gradients_add_up_over_micro_batches():
    row = inputs()
    weight = row[1].clone().requires_grad_()
    for _ in range(2):
        logo_loss_from_hidden(row[0], weight, *row[2:4], num_rejected=2, **SETTINGS)[0].backward()
    torch.testing.assert_close(weight.grad, 2 * judge(*row, **SETTINGS)[3], rtol=1e-10, atol=1e-14)


def test_rows_that_are_not_scored_are_left_out():
    hidden, weight, labels, answer, m = inputs()
    extra = torch.cat([hidden, hidden[:3]]), weight, torch.cat([labels, torch.full((3,), -100)])
    got = swept(*extra, torch.cat([answer, answer[:3]]), m, **SETTINGS)
    true = judge(hidden, weight, labels, answer, m, **SETTINGS)
    assert (got[2][-3:] == 0).all()
    got[2] = got[2][:-3]
    assert_equal(got, true, 1e-10)


def test_without_grad_only_the_value_is_computed():
    row = inputs()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loss, _ = logo_loss_from_hidden(row[0].requires_grad_(), *row[1:4], num_rejected=2, **SETTINGS)
    assert not loss.requires_grad
    assert counter.get_total_flops() == 2 * row[0].numel() * len(row[1])


@pytest.mark.parametrize("tied", [False, True])
def test_behind_a_model_all_parameters_get_the_gradient_of_sequence_logps(tied):
    model = tiny_llama(tie_word_embeddings=tied)
    batch = stack_packed(
        [pack_answers([5, 9, 2, 7], [[1, 2, 3], [4], [5, 6]]), pack_answers([8, 3], [[7], [1, 1, 1, 1], [2, 9]])]
    )
    means = sequence_logps(model, batch)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(logo_loss(means[:, 0], means[:, 1:], **SETTINGS), parameters)
    hidden = answer_hidden(model, batch)
    loss, swept_means = logo_loss_from_hidden(
        hidden, model.lm_head.weight, batch.labels, batch.answer, num_rejected=2, **SETTINGS
    )
    torch.testing.assert_close(swept_means, means.detach(), rtol=1e-10, atol=0)
    for mine, true in zip(torch.autograd.grad(loss, parameters), expected):
        assert (mine - true).norm() <= 1e-10 * true.norm()


@pytest.mark.parametrize(("trained", "expected"), [((True, True), 3), ((True, False), 2), ((False, True), 2)])
@pytest.mark.parametrize("sft_weight", [0.0, 0.1])
def test_three_products_or_two_with_a_frozen_weight(trained, expected, sft_weight):
    dim, words = 16, 1500
    answer = torch.arange(6).repeat_interleave(50)
    leaves = [torch.randn(s, dim).requires_grad_(wanted) for s, wanted in zip((300, words), trained)]
    settings = {**SETTINGS, "sft_weight": sft_weight}
    with FlopCounterMode(display=False) as counter:
        logo_loss_from_hidden(*leaves, torch.randint(words, (300,)), answer, num_rejected=2, **settings)[0].backward()
    assert counter.get_total_flops() / (2 * 300 * words * dim) == pytest.approx(expected, abs=5e-3)


SETUP = """
import torch
from minilib.losses.logo_from_hidden import logo_loss_from_hidden
def step(n, words, dim=64):
    hidden, weight = torch.randn(n, dim, requires_grad=True), torch.randn(words, dim, requires_grad=True)
    labels, answer = torch.randint(words, (n,)), torch.arange(4).repeat_interleave(n // 4)
    logo_loss_from_hidden(hidden, weight, labels, answer, num_rejected=3, beta=2.0, gamma=0.5)[0].backward()
step(64, 64)
"""


def test_the_sweep_holds_the_logits_of_256_rows():
    peak = measure_peak(SETUP, "step(4096, 8192)")
    dense = 4 * 4096 * 8192
    assert peak < dense / 4
    assert peak > 4 * 256 * 8192  # a measurement that sees nothing would pass the line above


BAD = {
    "a label beyond the vocabulary": ({"labels": 31}, ValueError, "labels has 31 at position 0"),
    "no rejected answers": (
        {"num_rejected": 0},
        ValueError,
        "num_rejected is 0: give the number M of rejected answers",
    ),
    "another M": ({"num_rejected": 3}, ValueError, "answer 6 has no tokens (each example has 4 answers)"),
    "an empty answer": ({"answer": (2, 5)}, ValueError, "answer 2 has no tokens"),
    "a number below 0": ({"answer": (0, -1)}, ValueError, "answer is empty or below 0"),
    "beta": ({"beta": -1.0}, ValueError, "beta is -1.0"),
    "gamma": ({"gamma": float("nan")}, ValueError, "gamma is nan"),
    "sft_weight": ({"sft_weight": -0.1}, ValueError, "sft_weight is -0.1"),
    "three weights for two": (
        {"rejected_weights": torch.ones(3)},
        ValueError,
        "rejected_weights is (3,) and there are 2 rejected answers for each of 2 examples",
    ),
    "weights below 0": ({"rejected_weights": -torch.ones(2)}, ValueError, "rejected_weights holds no valid weights"),
    "weights of 0": ({"rejected_weights": torch.zeros(2)}, ValueError, "rejected_weights holds no valid weights"),
    "a float answer": ({"answer": torch.zeros(3)}, ValueError, "answer is (3,) and hidden has"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case):
    changed, error, words = BAD[case]
    hidden, weight, labels, answer, m = inputs()
    arguments = {"labels": labels, "answer": answer, "num_rejected": m, **SETTINGS, **changed}
    if isinstance(arguments["labels"], int):
        arguments["labels"] = torch.cat([torch.tensor([31]), labels[1:]])
    if isinstance(arguments["answer"], tuple):
        old, new = arguments["answer"]
        arguments["answer"] = torch.where(answer == old, new, answer)
    refused(error, words, lambda: logo_loss_from_hidden(hidden, weight, **arguments))
