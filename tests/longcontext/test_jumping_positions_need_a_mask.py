"""The silent trap of synthesised positions: without a mask, transformers cuts attention at every jump.

Given position ids that jump, no attention mask and no cache, as in training, transformers takes each jump for the
border of a packed document. Nothing fails: the loss looks normal and nothing is learned at long range. These tests hold
the trap open to see, prove that any explicit mask closes it, and fail if ours were ever dropped.
"""

import pytest
import torch
from support.tiny_llama import VOCABULARY, causal_mask, separate_hidden, tiny_llama

from minilib.longcontext import answer_hidden, pack_answers, synthesize_positions

LENGTHS = (8, 8, 8)


@pytest.fixture
def model():
    return tiny_llama()


def text():
    """Three chunks of random tokens, far apart."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(VOCABULARY, (sum(LENGTHS),), generator=generator)
    positions = synthesize_positions(LENGTHS, 600, generator=generator)
    assert (positions.diff() > 1).sum() == 2
    return ids, positions


def hidden(model, ids, positions, mask):
    out = model.get_decoder()(input_ids=ids[None], position_ids=positions[None], attention_mask=mask, use_cache=False)
    return out.last_hidden_state[0]


def test_an_explicit_mask_of_ones_is_plain_causal_attention(model):
    ids, positions = text()
    judge = hidden(model, ids, positions, causal_mask(len(ids)))
    torch.testing.assert_close(hidden(model, ids, positions, torch.ones_like(ids)[None]), judge, rtol=1e-10, atol=1e-10)


def test_without_a_mask_the_last_chunk_sees_nothing_but_itself(model):
    # Should this fail, transformers has closed the trap: good news, and the warnings in longcontext/ can go.
    ids, positions = text()
    judge = hidden(model, ids, positions, causal_mask(len(ids)))
    trapped = hidden(model, ids, positions, None)
    assert (trapped - judge)[LENGTHS[0] :].abs().max() > 0.1
    alone = hidden(model, ids[-8:], positions[-8:], causal_mask(8))
    torch.testing.assert_close(trapped[-8:], alone, rtol=1e-10, atol=1e-10)


def test_positions_without_a_jump_hide_the_trap(model):
    ids, _ = text()
    plain = torch.arange(len(ids))
    judge = hidden(model, ids, plain, causal_mask(len(ids)))
    torch.testing.assert_close(hidden(model, ids, plain, None), judge, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("route", ["auto", "mask", "cache"])
@pytest.mark.parametrize("answers", [1, 3])
def test_our_routes_see_across_the_jumps(model, route, answers):
    ids, positions = text()
    ys = [ids[:4] + a for a in range(answers)]
    judge = separate_hidden(model, ids, ys, positions)
    torch.testing.assert_close(
        answer_hidden(model, pack_answers(ids, ys, positions), route), judge, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("route", ["mask", "cache"])
def test_no_call_of_ours_goes_without_a_mask(model, route):
    # The cache route is safe today even without one, because the trap asks for a missing cache too; not for ever.
    masks = []
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    ids, positions = text()
    answer_hidden(model, pack_answers(ids, [ids[:4], ids[4:9]], positions), route)
    assert len(masks) == (2 if route == "cache" else 1)
    assert all(mask is not None for mask in masks)
