"""One prompt with 1 + M answers behind it gives what 1 + M separate passes give: log-probabilities and all gradients.

The judge is the naive thing, a full pass per answer with an explicit causal mask (tiny_llama.py), on a random Llama
with grouped heads that is fp64 throughout. Positions are synthesised, with jumps, unless a test says otherwise.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.reference import refused
from support.tiny_llama import VOCABULARY, logps, separate_hidden, tiny_llama, value_and_gradients

from minilib.longcontext import Packed, answer_hidden, pack_answers, stack_packed, synthesize_positions
from minilib.longcontext.packing import sees
from minilib.longcontext.shared_prefix import block_mask

ROUTES = ("mask", "cache", "separate")
PRECISION = [  # eager attention takes its softmax in fp32 whatever the dtype
    ("sdpa", torch.float64, 1e-12),
    ("sdpa", torch.float32, 1e-5),
    ("eager", torch.float64, 1e-6),
    ("eager", torch.float32, 1e-5),
]


def example(prompt=24, sizes=(5, 1, 7), seed=0, target=1000):
    """Token ids of a prompt and its answers, and synthesised positions for the prompt."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(VOCABULARY, (n,), generator=generator) for n in (prompt, *sizes)]
    thirds = [prompt // 3, prompt // 3, prompt - 2 * (prompt // 3)]
    positions = synthesize_positions(thirds, target, mode="sparse", generator=generator)
    return ids[0], ids[1:], positions


def assert_equal(got, judge, tolerance):
    values, gradients = got
    true_values, true_gradients = judge
    assert (values - true_values).norm() <= tolerance * true_values.norm()
    for mine, true in zip(gradients, true_gradients, strict=True):
        assert true.norm() > 0
        assert (mine - true).norm() <= tolerance * true.norm()


@pytest.mark.parametrize(("attention", "dtype", "tolerance"), PRECISION)
@pytest.mark.parametrize("route", ROUTES)
def test_log_probabilities_and_all_gradients_are_those_of_separate_passes(route, attention, dtype, tolerance):
    model, judge, row = tiny_llama(dtype, attention=attention), tiny_llama(), example()
    packed = pack_answers(*row)
    got = value_and_gradients(model, lambda: answer_hidden(model, packed, route), packed.labels)
    true = value_and_gradients(judge, lambda: separate_hidden(judge, *row), packed.labels)
    assert_equal(got, true, tolerance)


@pytest.mark.parametrize("route", ROUTES)
def test_a_batch_of_different_lengths_equals_its_rows_alone(route):
    model = tiny_llama()
    rows = [example(24, (5, 1, 7), 1), example(9, (2, 8, 3), 2), example(30, (1, 1, 1), 3)]
    batch = stack_packed([pack_answers(*row) for row in rows], pad_id=7)
    got = value_and_gradients(model, lambda: answer_hidden(model, batch, route), batch.labels)
    judge = value_and_gradients(model, lambda: torch.cat([separate_hidden(model, *row) for row in rows]), batch.labels)
    assert_equal(got, judge, 1e-12)


@given(
    prompt=st.integers(3, 12),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    route=st.sampled_from(ROUTES),
)
def test_any_prompt_and_any_answers_agree(prompt, sizes, seed, route):
    model, row = tiny_llama(), example(prompt, sizes, seed)
    with torch.no_grad():
        torch.testing.assert_close(
            answer_hidden(model, pack_answers(*row), route), separate_hidden(model, *row), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("route", ROUTES)
def test_padding_changes_nothing_whatever_token_it_is(route):
    model, pack = tiny_llama(), pack_answers(*example())
    alone = answer_hidden(model, pack, route)
    for pad in (0, 7):
        batch = stack_packed([pack, pack_answers(*example(60, (9, 9, 9), 5))], pad_id=pad)
        torch.testing.assert_close(answer_hidden(model, batch, route)[: len(alone)], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("route", ROUTES)
def test_answers_are_blind_to_each_other(route):
    model, (prompt, answers, positions) = tiny_llama(), example()
    other = [answers[0], (answers[1] + 1) % VOCABULARY, (answers[2] + 1) % VOCABULARY]
    packs = [pack_answers(prompt, ys, positions) for ys in (answers, other)]
    first, second = (answer_hidden(model, pack, route) for pack in packs)
    torch.testing.assert_close(first[: len(answers[0])], second[: len(answers[0])], rtol=0, atol=0)
    assert not torch.allclose(first[-1], second[-1])


def test_moving_all_positions_by_a_constant_changes_nothing():
    model, (prompt, answers, positions) = tiny_llama(), example()
    packs = [pack_answers(prompt, answers, positions + shift) for shift in (0, 300)]
    first, second = (logps(model, answer_hidden(model, pack), pack.labels) for pack in packs)
    torch.testing.assert_close(first, second, rtol=0, atol=2e-4)  # transformers rounds angles to fp32


def test_the_layout_of_a_small_example_is_this():
    packed = pack_answers([11, 12, 13], [[21, 22], [31], [41, 42, 43]], [0, 5, 9])
    assert packed.input_ids.tolist() == [11, 12, 13, 21, 22, 31, 41, 42, 43]
    assert packed.position_ids.tolist() == [0, 5, 9, 10, 11, 10, 10, 11, 12]
    assert packed.segment_ids.tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3]
    assert packed.labels.tolist() == [21, 22, 31, 41, 42, 43]
    assert packed.answer.tolist() == [0, 0, 1, 2, 2, 2]
    assert packed.predict.tolist() == [2, 3, 2, 2, 6, 7]
    assert packed.num_answers == 3
    seen = [[u for u in range(9) if packed.attention_mask[0, 0, t, u]] for t in range(9)]
    assert seen[3:] == [[0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 5], [0, 1, 2, 6], [0, 1, 2, 6, 7], [0, 1, 2, 6, 7, 8]]


def test_a_batch_counts_hidden_states_and_answers_through_all_rows():
    batch = stack_packed([pack_answers([1, 2], [[3], [4]]), pack_answers([5, 6, 7], [[8, 9], [8]])])
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 0, 0], [5, 6, 7, 8, 9, 8]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 2, 3, 4], [0, 1, 2, 3, 4, 3]]
    assert batch.segment_ids.tolist() == [[0, 0, 1, 2, -1, -1], [0, 0, 0, 1, 1, 2]]
    assert batch.predict.tolist() == [1, 1, 8, 9, 8]
    assert batch.answer.tolist() == [0, 1, 2, 2, 3]
    assert batch.num_answers == 4
    assert batch.attention_mask.shape == (2, 1, 6, 6)
    assert isinstance(batch.to("cpu"), Packed)


@given(st.integers(1, 9), st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_the_mean_over_each_answer_is_one_line(prompt, sizes):
    packed = pack_answers([1] * prompt, [[2] * n for n in sizes])
    values = torch.randn(len(packed.labels), dtype=torch.float64)
    means = torch.zeros(packed.num_answers).double().index_add(0, packed.answer, values) / packed.answer.bincount()
    torch.testing.assert_close(means, torch.stack([part.mean() for part in values.split(sizes)]))


def test_the_rule_of_flex_attention_is_the_dense_mask():
    from torch.nn.attention.flex_attention import create_mask

    batch = stack_packed([pack_answers(*example()), pack_answers(*example(60, (9, 9, 9), 5))])
    length = batch.input_ids.shape[1]
    rule = create_mask(sees(batch.segment_ids), 2, 1, length, length, device="cpu")
    assert torch.equal(rule, batch.attention_mask)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_block_mask_gives_the_same_hidden_states():
    # FlexAttention has no backward on a CPU, and its compiled forward is slow to build: forward, uncompiled.
    row = example(150, (30, 40, 20), target=4000)
    pack = pack_answers(*row)
    batch = stack_packed([pack])
    model = tiny_llama(torch.float32, attention="flex_attention")
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        out = model.get_decoder()(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=block_mask(batch.segment_ids),
            use_cache=False,
        )
    judge = separate_hidden(tiny_llama(), *row)
    assert (out.last_hidden_state[0][pack.predict] - judge).norm() <= 1e-5 * judge.norm()


class Watch:
    """Counts the calls of a decoder, the tokens it reads and the numbers in its masks."""

    def __init__(self, model):
        self.lengths, self.masks = [], []
        model.get_decoder().register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        self.lengths.append(kwargs["input_ids"].shape[1])
        self.masks.append(kwargs["attention_mask"].numel())


def test_the_prompt_is_read_once_and_the_mask_of_the_cache_route_has_the_answers_rows_only():
    model, pack = tiny_llama(), pack_answers(*example(24, (5, 1, 7)))
    watch = Watch(model)
    answer_hidden(model, pack, "cache")
    assert (watch.lengths, watch.masks) == ([24, 13], [24, 13 * 37])
    answer_hidden(model, pack, "mask")
    assert (watch.lengths[2:], watch.masks[2:]) == ([37], [37 * 37])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_auto_takes_the_cache_and_under_checkpointing_the_mask():
    model, pack = tiny_llama(), pack_answers(*example())
    watch = Watch(model)
    expected = answer_hidden(model, pack)
    assert len(watch.lengths) == 2
    model.gradient_checkpointing_enable()
    assert len(answer_hidden(model.eval(), pack)) == len(pack.labels)
    assert len(watch.lengths) == 4  # nothing is checkpointed outside training
    hidden = answer_hidden(model.train(), pack)
    assert len(watch.lengths) == 5
    torch.testing.assert_close(hidden, expected, rtol=1e-10, atol=1e-10)
    got = value_and_gradients(model, lambda: answer_hidden(model, pack), pack.labels)
    judge = tiny_llama()
    true = value_and_gradients(judge, lambda: separate_hidden(judge, *example()), pack.labels)
    assert_equal(got, true, 1e-12)
    refused(ValueError, "gradient checkpointing, which empties the cache", lambda: answer_hidden(model, pack, "cache"))


PACKS = {
    "no prompt": (([], [[1]]), ValueError, "prompt_ids is empty"),
    "no answers": (([1], []), ValueError, "answers is empty"),
    "empty answer": (([1], [[2], []]), ValueError, "answers[1] is empty"),
    "label": (([1], [[2, -100]]), ValueError, "answers[0] holds -100 at place 1"),
    "matrix": (([1], [[[2], [3]]]), TypeError, "answers[0] has shape (2, 1)"),
    "floats": (([1.5], [[2]]), TypeError, "prompt_ids has shape (1,) and dtype torch.float32"),
    "few positions": (([1, 2], [[3]], [0]), ValueError, "prompt_positions has 1 ids for 2 prompt tokens"),
    "backwards": (([1, 2, 3], [[3]], [0, 5, 4]), ValueError, "prompt_positions goes from 5 to 4 at place 2"),
    "standing": (([1, 2], [[3]], [4, 4]), ValueError, "prompt_positions goes from 4 to 4 at place 1"),
}


@pytest.mark.parametrize("case", PACKS)
def test_pack_answers_refuses(case):
    arguments, error, words = PACKS[case]
    refused(error, words, lambda: pack_answers(*arguments))


def test_an_answer_longer_than_the_window_is_refused():
    fits = pack_answers([1, 2], [[3], [4, 5]], [0, 5], window=8)
    assert fits.position_ids.max() == 7
    words = "answers[1] has 2 tokens from position 6 on and window is 7"
    refused(ValueError, words, lambda: pack_answers([1, 2], [[3], [4, 5]], [0, 5], window=7))


def test_stacks_that_do_not_fit_are_refused():
    packs = [pack_answers([1], [[2], [3]]), pack_answers([1], [[2]])]
    refused(ValueError, "packs[1] has 1 answers and packs[0] 2", lambda: stack_packed(packs))
    refused(ValueError, "packs is empty", lambda: stack_packed([]))


def test_routes_that_a_model_cannot_take_are_refused():
    pack = pack_answers(*example())
    model, flexible = tiny_llama(), tiny_llama(attention="flex_attention")
    refused(ValueError, "route 'ring' is unknown", lambda: answer_hidden(model, pack, "ring"))
    refused(ValueError, "attn_implementation='flex_attention'", lambda: answer_hidden(model, pack, "flex"))
    refused(ValueError, "attn_implementation='sdpa'", lambda: answer_hidden(flexible, pack, "mask"))
    refused(ValueError, "FlexAttention has no backward pass there", lambda: answer_hidden(flexible, pack))


def test_models_that_see_only_so_many_tokens_back_are_refused_where_it_matters():
    model, pack = tiny_llama(), pack_answers(*example())
    model.config.sliding_window = 16
    refused(ValueError, "(window 16) and the layout 37 tokens", lambda: answer_hidden(model, pack))
    model.config.sliding_window = 64
    assert len(answer_hidden(model, pack)) == len(pack.labels)
    model.config.layer_types = ["full_attention", "linear_attention"]
    refused(ValueError, "full_attention, linear_attention", lambda: answer_hidden(model, pack))
