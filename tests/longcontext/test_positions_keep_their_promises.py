"""Synthesised positions always increase, stay below their target and keep every chunk in its slot; draws are uniform.

Promises that hold for every draw are hypothesis properties, and hold again in 20,000 draws at one go. Promises about
many draws together (coverage, the 9 : 1 mixture) are counted with a fixed seed. Then come coverage against a plain
count, the rotary settings against their formulas and against transformers, and what is refused.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.reference import refused
from support.tiny_llama import VOCABULARY, causal_mask, tiny_llama
from transformers import LlamaConfig

from minilib.evals.coverage import count_distances, count_positions, share
from minilib.longcontext import (
    pack_answers,
    prompt_positions,
    rope_parameters,
    stretch_config,
    synthesize_positions,
)
from minilib.longcontext.positions import MODES

SLOTTED = ("continuous", "sparse", "mixed")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@st.composite
def requests(draw):
    """Chunk lengths, a target that has a slot for each, and a seed."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
    slot = draw(st.integers(max(lengths), 60))
    return lengths, slot * len(lengths) + draw(st.integers(0, len(lengths) - 1)), draw(st.integers(0, 10**6))


@pytest.mark.parametrize("mode", MODES)
@given(requests())
def test_positions_increase_strictly_below_the_target(mode, request_):
    lengths, target, seed = request_
    positions = synthesize_positions(lengths, target, mode=mode, generator=seeded(seed))
    assert positions.dtype == torch.long
    assert len(positions) == sum(lengths)
    assert positions[0] >= 0
    assert positions[-1] < target
    assert (positions.diff() > 0).all()


@pytest.mark.parametrize("mode", SLOTTED)
@given(requests())
def test_every_chunk_stays_in_its_slot(mode, request_):
    lengths, target, seed = request_
    positions = synthesize_positions(lengths, target, mode=mode, generator=seeded(seed))
    if target > sum(lengths):
        slots = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        assert torch.equal(positions // (target // len(lengths)), slots)


@given(requests())
def test_inside_a_continuous_chunk_positions_are_consecutive(request_):
    lengths, target, seed = request_
    positions = synthesize_positions(lengths, target, generator=seeded(seed))
    assert all((chunk.diff() == 1).all() for chunk in positions.split(lengths))


@pytest.mark.parametrize("mode", MODES)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_target_as_long_as_the_text_gives_plain_positions(mode, lengths):
    total = sum(lengths)
    assert synthesize_positions(lengths, total, mode=mode).tolist() == list(range(total))


@given(requests())
def test_equal_seeds_give_equal_positions(request_):
    lengths, target, seed = request_
    first, second = (synthesize_positions(lengths, target, mode="mixed", generator=seeded(seed)) for _ in range(2))
    assert torch.equal(first, second)


@given(
    requests(),
    st.integers(0, 9),
    st.integers(0, 9),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from(MODES),
)
def test_a_whole_prompt_leaves_room_for_answers_that_all_start_at_one_position(
    request_, head, tail, sizes, at_end, mode
):
    lengths, room, seed = request_
    target = room + head + tail + max(sizes)
    options = {"answer": max(sizes), "at_end": at_end, "mode": mode, "generator": seeded(seed)}
    positions = prompt_positions(head, lengths, tail, target, **options)
    assert len(positions) == head + sum(lengths) + tail
    assert (positions.diff() > 0).all()
    assert positions[:head].tolist() == list(range(head))
    assert positions[head] >= head
    question = positions[len(positions) - tail :]
    assert (question.diff() == 1).all()
    if tail:
        before = target - tail - max(sizes) if at_end else positions[-tail - 1] + 1
        assert question[0] == before
    packed = pack_answers([1] * len(positions), [[2] * n for n in sizes], positions, window=target)
    starts = packed.position_ids[packed.segment_ids.diff(prepend=torch.tensor([0])) > 0]
    assert starts.unique().tolist() == [int(positions[-1]) + 1]
    assert packed.position_ids.max() < target


def test_no_violation_in_twenty_thousand_draws():
    generator = seeded(0)
    lengths, target = [20, 16, 7, 20, 1, 20, 13, 20], 1024
    draws = [synthesize_positions(lengths, target, mode="mixed", generator=generator) for _ in range(20_000)]
    positions = torch.stack(draws)
    slots = torch.arange(8).repeat_interleave(torch.tensor(lengths))
    assert (positions.diff(dim=1) > 0).all()
    assert (positions >= 0).all()
    assert (positions < target).all()
    assert (positions // 128 == slots).all()


def test_equation_4_as_printed_runs_backwards_almost_always():
    # Its chunk index mended to floor(i / |C|), the tokens of chunk c still share a bias from U(1, c (K - k) / N).
    chunks, length, target, draws = 16, 32, 4096, 2_000
    step = (target - chunks * length) / chunks
    bias = 1 + torch.rand(draws, chunks, generator=seeded(0)) * (torch.arange(chunks) * step - 1).clamp(min=0)
    starts = torch.arange(chunks) * length + bias
    violated = (starts.diff(dim=1) < length).any(1)
    assert violated.double().mean() > 0.99


def test_sixty_four_samples_cover_the_target():
    generator = seeded(0)
    samples = [synthesize_positions([512] * 16, 65_536, generator=generator) for _ in range(64)]
    assert share(count_positions(samples[:1], 65_536)) == 8_192 / 65_536
    assert share(count_positions(samples, 65_536)) >= 0.95


def test_a_chunk_lies_at_every_place_of_its_slot_equally_often():
    generator, draws = seeded(0), 4_000
    starts = [synthesize_positions([3, 3], 20, generator=generator)[[0, 3]] for _ in range(draws)]
    for c, column in enumerate(torch.stack(starts).T):
        counts = torch.bincount(column - 10 * c, minlength=8)
        assert len(counts) == 8  # 10 - 3 + 1 places
        assert (counts - draws / 8).abs().max() < 5 * math.sqrt(draws / 8)


def test_every_position_of_a_sparse_slot_is_equally_likely():
    generator, draws = seeded(0), 4_000
    samples = [synthesize_positions([3], 12, mode="sparse", generator=generator) for _ in range(draws)]
    counts = count_positions(samples, 12)
    assert (counts - draws / 4).abs().max() < 5 * math.sqrt(draws / 4)


def test_one_chunk_in_ten_of_the_mixture_is_sparse():
    generator = seeded(0)
    samples = torch.stack(
        [synthesize_positions([8] * 10, 4_000, mode="mixed", generator=generator) for _ in range(400)]
    )
    gaps = (samples.view(-1, 8).diff(dim=1) > 1).any(1)  # 8 of 400 places in a row by chance: next to never
    assert abs(gaps.double().mean().item() - 0.1) < 5 * math.sqrt(0.1 * 0.9 / 4_000)


def test_pose_moves_the_second_of_two_pieces_by_one_skip():
    generator = seeded(0)
    cuts, skips = [], []
    for _ in range(300):
        positions = synthesize_positions([4, 6], 40, mode="pose", generator=generator)
        bias = positions - torch.arange(10)
        assert bias[0] == 0
        assert (bias.diff() != 0).sum() <= 1
        skips.append(int(bias[-1]))
        cuts += (bias.diff() != 0).nonzero().flatten().add(1).tolist()
    assert set(cuts) == set(range(1, 10))
    assert (min(skips), max(skips)) == (0, 30)


@given(st.sets(st.integers(0, 29), min_size=1), st.sets(st.integers(0, 29), min_size=1))
def test_counts_equal_a_plain_count(first, second):
    samples = [sorted(first), sorted(second)]
    tensors = [torch.tensor(s) for s in samples]
    positions, distances, asked = torch.zeros(30).long(), torch.zeros(30).long(), torch.zeros(30).long()
    for sample in samples:
        for p in sample:
            positions[p] += 1
            asked[sample[-1] - p] += 1
            for q in sample:
                if p >= q:
                    distances[p - q] += 1
    assert torch.equal(count_positions(tensors, 30), positions)
    assert torch.equal(count_distances(tensors, 30), distances)
    assert torch.equal(count_distances(tensors, 30, query=-1), asked)
    assert share(positions) == len(first | second) / 30


def test_spread_chunks_are_seen_from_all_distances_plain_text_is_not():
    plain = count_distances([torch.arange(512)], 4096)
    assert plain.nonzero().max() == 511
    generator = seeded(0)
    spread = [synthesize_positions([64] * 8, 4096, generator=generator) for _ in range(64)]
    assert share(count_distances(spread, 4096)) > 0.95
    assert share(plain) == 512 / 4096


WINDOW, TARGET, BASE, DIM = 128, 1024, 10_000.0, 16


def angles(method, position=0):
    """Frequencies that a transformers model computes for these settings, and its factor on cos and sin."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=WINDOW, rope_parameters=None, rope_theta=BASE
    )
    rotary = LlamaRotaryEmbedding(stretch_config(config, method, TARGET))
    rotary(torch.zeros(1), torch.tensor([[position]]))
    return rotary.inv_freq.double(), rotary.attention_scaling


def frequencies(base=BASE):
    return base ** (-torch.arange(0, DIM, 2, dtype=torch.float64) / DIM)


def test_interpolation_divides_every_frequency():
    torch.testing.assert_close(angles("interpolation")[0], frequencies() / 8, rtol=1e-6, atol=0)


def test_ntk_leaves_the_fastest_frequency_and_interpolates_the_slowest():
    found, _ = angles("ntk")
    torch.testing.assert_close(found, frequencies(BASE * 8 ** (DIM / (DIM - 2))), rtol=1e-5, atol=0)
    torch.testing.assert_close(found[[0, -1]], frequencies()[[0, -1]] / torch.tensor([1, 8]), rtol=1e-5, atol=0)


def test_dynamic_ntk_begins_beyond_the_window_and_grows_with_the_largest_position():
    torch.testing.assert_close(angles("dynamic_ntk", WINDOW - 1)[0], frequencies(), rtol=1e-6, atol=0)
    for last in (300, TARGET - 1):
        base = BASE * (8 * (last + 1) / WINDOW - 7) ** (DIM / (DIM - 2))
        torch.testing.assert_close(angles("dynamic_ntk", last)[0], frequencies(base), rtol=1e-5, atol=0)


def test_yarn_keeps_fast_frequencies_interpolates_slow_ones_and_sharpens_attention():
    found, scaling = angles("yarn")
    ratio = found / frequencies()
    rotations = WINDOW * frequencies() / (2 * math.pi)
    assert scaling == pytest.approx(0.1 * math.log(8) + 1)
    assert ratio[0] == pytest.approx(1)
    torch.testing.assert_close(ratio[rotations < 0.5], torch.full_like(ratio[rotations < 0.5], 1 / 8))
    assert (ratio.diff() <= 1e-6).all()


def test_interpolated_positions_are_divided_positions():
    model, ids = tiny_llama(), torch.arange(20)[None] % VOCABULARY
    stretched = tiny_llama()
    stretched.get_decoder().rotary_emb = type(stretched.get_decoder().rotary_emb)(
        stretch_config(model.config, "interpolation", 8 * model.config.max_position_embeddings)
    )
    with torch.no_grad():
        near, far = (
            m(input_ids=ids, position_ids=p, attention_mask=causal_mask(20), use_cache=False).logits
            for m, p in ((model, torch.arange(20)[None]), (stretched, 8 * torch.arange(20)[None]))
        )
    torch.testing.assert_close(near, far, rtol=0, atol=1e-5)  # transformers rounds angles to fp32


def test_a_stretched_config_leaves_the_old_one_as_it_was():
    config = LlamaConfig(max_position_embeddings=WINDOW)
    before = config.to_dict()
    assert stretch_config(config, "yarn", TARGET).max_position_embeddings == TARGET
    assert stretch_config(config, "dynamic_ntk", TARGET).max_position_embeddings == WINDOW
    assert rope_parameters(config, "none", TARGET) == config.rope_parameters
    assert config.to_dict() == before


CHUNKS = {
    "short target": (([64, 64], 100), ValueError, "target is 100 and the chunks have 128 tokens"),
    "long chunk": (([100, 10], 120), ValueError, "lengths[0] is 100 and a slot holds 60 positions (120 for 2 chunks)"),
    "one number": ((8, 100), TypeError, "lengths is 8: give a list"),
    "no chunks": (([], 100), ValueError, "lengths is empty"),
    "empty chunk": (([4, 0], 100), ValueError, "lengths[1] is 0"),
    "half a token": (([4, 0.5], 100), TypeError, "lengths[1] is 0.5"),
    "half a target": (([4], 100.5), TypeError, "target is 100.5"),
}


@pytest.mark.parametrize("case", CHUNKS)
def test_synthesize_positions_refuses(case):
    arguments, error, words = CHUNKS[case]
    refused(error, words, lambda: synthesize_positions(*arguments))


def test_lengths_may_come_as_a_tensor_or_from_numpy():
    for lengths in (torch.tensor([3, 4]), np.array([3, 4]), (3, 4)):
        assert synthesize_positions(lengths, 7).tolist() == list(range(7))


def test_other_bad_requests_are_refused():
    refused(ValueError, "mode 'dense' is unknown", lambda: synthesize_positions([4], 10, mode="dense"))
    refused(ValueError, "head is -1", lambda: prompt_positions(-1, [4], 2, 100))
    words = "target is 100 and prompt and answer have 102 tokens"
    refused(ValueError, words, lambda: prompt_positions(10, [64], 20, 100, answer=8))
    words = "lengths[1] is 40 and a slot holds 31 positions (62 for 2 chunks)"
    refused(ValueError, words, lambda: prompt_positions(10, [4, 40], 20, 100, answer=8))
    refused(ValueError, "samples hold positions from 3 to 9", lambda: count_positions([torch.tensor([3, 9])], 9))


def test_bad_rope_requests_are_refused():
    config = LlamaConfig(max_position_embeddings=WINDOW)
    refused(ValueError, "method 'pi' is unknown", lambda: rope_parameters(config, "pi", TARGET))
    refused(ValueError, "target is 64 and the model's window 128", lambda: rope_parameters(config, "yarn", 64))
    stretched = stretch_config(config, "yarn", TARGET)
    refused(ValueError, "config has rope_type 'yarn' already", lambda: rope_parameters(stretched, "ntk", 4096))
    config.rope_parameters = {"full_attention": {"rope_type": "default"}, "sliding_attention": None}
    refused(ValueError, "has no single set of rope_parameters", lambda: rope_parameters(config, "ntk", TARGET))
