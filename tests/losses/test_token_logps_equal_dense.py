"""Log-probabilities over a vocabulary, tile by tile, equal dense log-softmax in value and gradients; products counted.

The judge is torch's log_softmax in fp64 on the very numbers that the tested form received. Sizes sit around the tile's
edges, logits run up to hundreds, labels may be left out.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.reference import refused
from support.tiny_llama import VOCABULARY, separate_hidden, tiny_llama
from support.tiny_llama import logps as judge_logps
from torch.utils.flop_counter import FlopCounterMode

from minilib.kernels import vocab_tiled as vocabulary
from minilib.longcontext import pack_answers, stack_packed, synthesize_positions
from minilib.longcontext.scoring import sequence_logps
from minilib.losses.logps import token_logps
from minilib.teaching.memory import measure_peak

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def inputs(n=37, dim=12, words=53, size=1.0, seed=0, ignored=0):
    """Hidden states, weight, labels (`ignored` of them -100) and an upstream gradient, fp64."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, upstream = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((n, dim), (words, dim), (n,))
    )
    labels = torch.randint(words, (n,), generator=generator)
    labels[torch.randperm(n, generator=generator)[:ignored]] = -100
    return hidden, weight * size, labels, upstream


def judge(hidden, weight, labels, upstream):
    """Values and both gradients by plain log_softmax in fp64."""
    hidden, weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    logps = torch.log_softmax(hidden @ weight.T, 1)
    logps = torch.where(labels == -100, 0, logps.gather(1, labels.clamp(min=0)[:, None])[:, 0])
    return [logps.detach(), *torch.autograd.grad(logps @ upstream.double(), [hidden, weight])]


def value_and_gradients(hidden, weight, labels, upstream, trained=(True, True), **options):
    """Values and the gradients that are wanted, None for the others."""
    leaves = [x.detach().clone().requires_grad_(wanted) for x, wanted in zip((hidden, weight), trained)]
    logps = token_logps(*leaves, labels, **options)
    logps.backward(upstream.to(logps.dtype))
    return [logps.detach(), *(leaf.grad for leaf in leaves)]


def assert_equal(got, true, tolerance):
    for name, mine, expected in zip(("value", "hidden gradient", "weight gradient"), got, true):
        if mine is not None:
            error = (mine.double() - expected).norm() / expected.norm().clamp(min=1e-30)
            assert error <= tolerance, f"{name}: relative error {error:.3g}"


FORMS = {
    "dense": {"backend": "dense"},
    "tiled": {"backend": "tiled"},
    "small tiles": {"backend": "tiled", "chunk_size": 8},
    "auto": {},
}
TRAINED = {"both": (True, True), "frozen weight": (True, False), "frozen hidden states": (False, True)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [0.1, 1.0, 60.0])
@pytest.mark.parametrize("trained", TRAINED.values(), ids=TRAINED)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_log_softmax_in_value_and_gradients(form, trained, size, dtype):
    hidden, weight, labels, upstream = inputs(size=size, ignored=5)
    given_ = [x.to(dtype) for x in (hidden, weight)]
    got = value_and_gradients(*given_, labels, upstream, trained, **FORMS[form])
    assert got[0].dtype == dtype
    assert [g is not None for g in got[1:]] == list(trained)
    assert_equal(got, judge(*given_, labels, upstream.to(dtype)), TOLERANCE[dtype])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.integers(0, 40), st.booleans())
def test_tiles_of_any_size_agree_and_any_labels_may_be_left_out(n, words, chunk_size, ignored, frozen):
    row = inputs(n, 5, words, 3.0, seed=n, ignored=ignored)
    got = value_and_gradients(*row, (True, not frozen), backend="tiled", chunk_size=chunk_size)
    assert_equal(got, judge(*row), 1e-10)


@pytest.mark.parametrize("dtypes", [(torch.bfloat16,) * 2, (torch.float16,) * 2, (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize("trained", TRAINED.values(), ids=TRAINED)
def test_half_precision_is_summed_in_fp32_and_only_gradients_are_rounded(trained, dtypes):
    hidden, weight, labels, upstream = inputs(n=300, words=500)
    given_ = [x.to(dtype) for x, dtype in zip((hidden, weight), dtypes)]
    got = value_and_gradients(*given_, labels, upstream.float(), trained, backend="tiled")
    assert got[0].dtype == torch.float32
    assert all(g is None or g.dtype == dtype for g, dtype in zip(got[1:], dtypes))
    true = judge(*given_, labels, upstream.float())
    assert_equal(got[:1], true[:1], 1e-6)
    assert_equal(got, true, TOLERANCE[dtypes[0]])


def test_autocast_does_not_round_the_logits():
    hidden, weight, labels, _ = (x.float() if x.is_floating_point() else x for x in inputs(size=30.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for form in FORMS.values():
            true = judge(hidden, weight, labels, torch.ones(len(labels)))
            assert_equal([token_logps(hidden, weight, labels, **form)], true, 1e-5)


def test_a_label_that_is_not_scored_gives_zero_and_no_gradient():
    hidden, weight, labels, upstream = inputs(ignored=11)
    value, hidden_grad, _ = value_and_gradients(hidden, weight, labels, upstream)
    left_out = labels == -100
    assert left_out.sum() == 11
    assert (value[left_out] == 0).all()
    assert (hidden_grad[left_out] == 0).all()
    nothing = value_and_gradients(hidden, weight, torch.full_like(labels, -100), upstream)
    assert all((x == 0).all() for x in nothing)


def test_no_tokens_at_all_give_no_log_probabilities():
    _, weight, _, _ = inputs()
    assert token_logps(torch.zeros(0, 12), weight.float(), torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("trained", TRAINED.values(), ids=TRAINED)
def test_the_log_probabilities_may_be_walked_back_twice(trained):
    hidden, weight, labels, upstream = inputs()
    leaves = [x.requires_grad_(wanted) for x, wanted in zip((hidden, weight), trained)]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    loss = token_logps(*leaves, labels, chunk_size=8) @ upstream
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, wanted)))


def test_gradcheck_agrees_with_finite_differences():
    hidden, weight, labels, _ = inputs(7, 3, 11)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: token_logps(h, w, labels, chunk_size=4), leaves)


# Products of n x V x d, loss and gradients together; what costs O(n d) shows up as thousandths of one.
COUNTS = [
    ("dense", (True, True), {"backend": "dense"}, 3),
    ("tiled", (True, True), {}, 4),
    ("frozen weight", (True, False), {}, 2),
    ("frozen hidden states", (False, True), {}, 3),
    ("value only", (False, False), {}, 1),
    ("a quarter left out", (True, True), {"ignored": 0.25}, 3),
]


@pytest.mark.parametrize(("trained", "options", "expected"), [c[1:] for c in COUNTS], ids=[c[0] for c in COUNTS])
def test_the_number_of_products_is_what_the_design_says(trained, options, expected):
    n, dim, words, options = 320, 16, 1500, dict(options)
    hidden, weight, labels, _ = inputs(n, dim, words, ignored=int(n * options.pop("ignored", 0)))
    with FlopCounterMode(display=False) as counter:
        loss = token_logps(
            hidden.requires_grad_(trained[0]), weight.requires_grad_(trained[1]), labels, **options
        ).sum()
        if loss.requires_grad:
            loss.backward()
    assert counter.get_total_flops() / (2 * n * words * dim) == pytest.approx(expected, abs=5e-3)


def test_without_grad_only_the_value_is_computed():
    hidden, weight, labels, _ = inputs()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        value = token_logps(hidden.requires_grad_(), weight, labels)
    assert not value.requires_grad
    assert counter.get_total_flops() == 2 * hidden.numel() * len(weight)


SETUP = """
import torch
from minilib.losses.logps import token_logps
def step(n, words, dim=64):
    hidden, weight = torch.randn(n, dim, requires_grad=True), torch.randn(words, dim, requires_grad={trained})
    token_logps(hidden, weight, torch.randint(words, (n,)), backend={backend!r}).mean().backward()
step(64, 64)
"""


@pytest.mark.parametrize("trained", [True, False])
def test_tiles_hold_a_fraction_of_the_memory_of_the_logits(trained):
    peak = {
        backend: measure_peak(SETUP.format(trained=trained, backend=backend), "step(4096, 8192)")
        for backend in ("dense", "tiled")
    }
    assert peak["dense"] > 2.5 * 4 * 4096 * 8192
    assert peak["tiled"] < peak["dense"] / 10


BAD = {
    "a label beyond the vocabulary": (
        {"labels": 53},
        ValueError,
        "labels has 53 at position 3 and the vocabulary 53 entries",
    ),
    "a label below 0": ({"labels": -1}, ValueError, "labels has -1 at position 3"),
    "labels of another length": (
        {"labels": torch.zeros(5).long()},
        ValueError,
        "labels has shape (5,) and hidden 37 rows",
    ),
    "labels that are floats": ({"labels": torch.zeros(37)}, TypeError, "labels has dtype torch.float32"),
    "labels in a list": ({"labels": [1] * 37}, TypeError, "labels is a list"),
    "another width": ({"weight": torch.zeros(53, 5)}, ValueError, "hidden has width 12 and weight 5"),
    "a batch of hidden states": ({"hidden": torch.zeros(1, 37, 12)}, ValueError, "hidden has shape (1, 37, 12)"),
    "integers": ({"hidden": torch.zeros(37, 12).int()}, TypeError, "hidden has dtype torch.int32"),
    "no vocabulary": ({"weight": torch.zeros(0, 12)}, ValueError, "weight has shape (0, 12)"),
    "another device": (
        {"weight": torch.zeros(53, 12, device="meta")},
        ValueError,
        "hidden is on cpu and weight on meta",
    ),
    "backend": ({"backend": "ring"}, ValueError, "backend 'ring' is unknown: choose one of 'auto', 'dense', 'tiled'"),
    "no chunk": ({"chunk_size": 0}, ValueError, "chunk_size is 0"),
    "half a chunk": ({"chunk_size": 2.5}, ValueError, "chunk_size is 2.5"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case):
    changed, error, words = BAD[case]
    hidden, weight, labels, _ = inputs()
    arguments = {"hidden": hidden, "weight": weight, "labels": labels, **changed}
    if isinstance(arguments["labels"], int):
        arguments["labels"] = labels.clone()
        arguments["labels"][3] = changed["labels"]
    refused(error, words, lambda: token_logps(**arguments))


def packs(dtype=torch.float64):
    """Three prompts with three answers each, of different lengths, at synthesised positions."""
    generator, rows = torch.Generator().manual_seed(0), []
    for prompt, sizes in ((24, (5, 1, 7)), (9, (2, 8, 3)), (15, (4, 4, 4))):
        ids = [torch.randint(VOCABULARY, (n,), generator=generator) for n in (prompt, *sizes)]
        rows.append((ids[0], ids[1:], synthesize_positions([prompt], 500, mode="sparse", generator=generator)))
    return rows


@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_sequence_logps_are_the_means_over_answer_tokens_of_separate_passes(backend):
    model, rows = tiny_llama(), packs()
    true = torch.stack(
        [
            torch.stack([judge_logps(model, separate_hidden(model, prompt, [a], pos), a).mean() for a in answers])
            for prompt, answers, pos in rows
        ]
    )
    upstream = torch.linspace(-1, 1, 9, dtype=torch.float64).view(3, 3)
    parameters = list(model.parameters())
    got = sequence_logps(model, stack_packed([pack_answers(*row) for row in rows]), backend=backend)
    torch.testing.assert_close(got, true, rtol=1e-10, atol=0)
    mine, expected = (torch.autograd.grad((x * upstream).sum(), parameters) for x in (got, true))
    for a, b in zip(mine, expected):
        assert (a - b).norm() <= 1e-10 * b.norm()
    alone = sequence_logps(model, pack_answers(*rows[1]), backend=backend)
    torch.testing.assert_close(alone, true[1:2], rtol=1e-10, atol=0)


def test_logits_are_made_for_answer_tokens_only(monkeypatch):
    met = []
    log_sums = vocabulary.log_sums
    monkeypatch.setattr(vocabulary, "log_sums", lambda *args: met.append(len(args[0])) or log_sums(*args))
    batch = stack_packed([pack_answers(*row) for row in packs()])
    sequence_logps(tiny_llama(), batch)
    assert met == [len(batch.labels)] == [5 + 1 + 7 + 2 + 8 + 3 + 4 + 4 + 4]


def test_a_head_that_does_more_than_one_product_is_refused():
    batch = pack_answers(*packs()[0])
    model = tiny_llama()
    model.config.final_logit_softcapping = 30.0
    refused(ValueError, "model has final_logit_softcapping=30.0", lambda: sequence_logps(model, batch))
    model = tiny_llama()
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY, dtype=torch.float64))
    refused(ValueError, "LlamaForCausalLM whose head has a bias", lambda: sequence_logps(model, batch))
    refused(ValueError, "without a head of its own", lambda: sequence_logps(tiny_llama().model, batch))
    model = tiny_llama()
    model.lm_head = Adapted(model.lm_head)
    refused(ValueError, "model has a head of class Adapted", lambda: sequence_logps(model, batch))


class Adapted(torch.nn.Module):
    """A head inside an adapter's wrapper, which hands out the weight below it."""

    def __init__(self, head):
        super().__init__()
        self.base_layer, self.extra = head, torch.nn.Linear(head.in_features, head.out_features)

    @property
    def weight(self):
        return self.base_layer.weight
