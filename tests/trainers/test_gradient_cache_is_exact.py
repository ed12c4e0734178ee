"""Two passes in micro-batches give the gradient of the whole batch, dropout included; accumulation does not.

The judge is plain backward through the whole batch at once. For dropout the judge replays the very draws of pass 1. Two
real ranks show that towers wrapped in DistributedDataParallel exchange their gradients once per step.
"""

from collections import Counter

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support.ranks import results, run_ranks
from support.toys import ToyPairs, ToyTowers
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from minilib import clip_loss
from minilib.trainers import cached_backward
from minilib.trainers.grad_cache import _random_state, _set_random_state

PAIRS = ToyPairs(24)


def pieces(size):
    return [PAIRS[indices] for indices in torch.arange(24).split(size)]


def encoders(model):
    return [lambda rows: model.encode_image(rows["image"]), lambda rows: model.encode_text(rows["caption"])]


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-11, atol=1e-13, msg=name)


def whole_batch(model):
    loss = clip_loss(
        model.encode_image(PAIRS.images.double()), model.encode_text(PAIRS.captions.double()), model.logit_scale.exp()
    )
    loss.backward()
    return loss.detach(), gradients(model)


def cached(model, size, frozen=None):
    rows = [{name: column.double() for name, column in piece.items()} for piece in pieces(size)]
    loss = cached_backward(encoders(model), rows, lambda i, t: clip_loss(i, t, model.logit_scale.exp()), frozen=frozen)
    return loss, gradients(model)


@given(st.integers(1, 24))
def test_micro_batches_of_any_size_give_the_gradient_of_the_whole_batch(size):
    loss, expected = whole_batch(ToyTowers(dropout=0.0).double())
    cached_loss, got = cached(ToyTowers(dropout=0.0).double(), size)
    torch.testing.assert_close(cached_loss, loss)
    assert_same(got, expected)


def test_dropout_draws_the_same_masks_in_both_passes():
    model = ToyTowers(dropout=0.5).double()
    start = _random_state()
    _, got = cached(model, 5)
    model.zero_grad()
    _set_random_state(start)
    rows = [{name: column.double() for name, column in piece.items()} for piece in pieces(5)]
    features = [[encode(piece) for encode in encoders(model)] for piece in rows]  # the same order of draws, one graph
    clip_loss(*(torch.cat(side) for side in zip(*features)), model.logit_scale.exp()).backward()
    assert_same(got, gradients(model))


def test_the_random_state_goes_on_after_the_batch():
    model = ToyTowers(dropout=0.5).double()
    cached(model, 5)
    first = torch.rand(3)
    cached(model, 5)
    assert not torch.equal(first, torch.rand(3))


def test_accumulated_micro_batches_give_another_gradient():
    _, expected = whole_batch(ToyTowers(dropout=0.0).double())
    model = ToyTowers(dropout=0.0).double()
    for piece in pieces(6):
        img, txt = model.encode_image(piece["image"].double()), model.encode_text(piece["caption"].double())
        (clip_loss(img, txt, model.logit_scale.exp()) / 4).backward()
    difference = model.image_tower[1].weight.grad - expected["image_tower.1.weight"]
    assert difference.norm() > 0.1 * expected["image_tower.1.weight"].norm()


@pytest.mark.parametrize("side", [0, 1])
def test_a_frozen_tower_is_encoded_once_and_gets_no_gradient(side):
    model = ToyTowers(dropout=0.0).double()
    calls = []
    tower = [model.image_tower, model.text_tower][side]
    tower.register_forward_hook(lambda *_: calls.append(1))
    _, got = cached(model, 6, frozen=[side == 0, side == 1])
    name = ["image_tower.1.weight", "text_tower.1.weight"][side]
    assert name not in got
    assert len(calls) == 4
    _, expected = whole_batch(ToyTowers(dropout=0.0).double())
    assert_same(got, {key: g for key, g in expected.items() if not key.startswith(name[:5])})


# Towers wrapped in DistributedDataParallel


def deep_towers():
    torch.manual_seed(3)
    return [nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8)).double() for _ in range(2)]


def through(towers, rows):
    return [F.normalize(tower(rows[name].double())) for tower, name in zip(towers, ("image", "caption"))]


def counted(tower, side, exchanges):
    """The tower wrapped, in several buckets; each exchange of a bucket is counted under (side, bucket), by step."""

    def count(state, bucket):
        exchanges[-1][side, bucket.index()] += 1
        done = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True).get_future()
        return done.then(lambda future: future.value()[0])

    wrapper = DistributedDataParallel(tower, bucket_cap_mb=0.001)
    wrapper.register_comm_hook(None, count)
    return wrapper


def steps_of_wrapped_towers(rank, frozen):
    """Two steps over the same 24 pairs, 13 here in 3 pieces and 11 there in 6; returns gradients and exchanges."""
    towers, exchanges = deep_towers(), []
    wrapped = [counted(tower, side, exchanges) for side, tower in enumerate(towers)]
    mine = torch.arange(24).split([13, 11])[rank]
    rows = [PAIRS[indices] for indices in mine.split([5, 2][rank])]
    encode = [
        lambda piece, side=side, name=name: F.normalize(wrapped[side](piece[name].double()))
        for side, name in enumerate(("image", "caption"))
    ]
    for _ in range(2):
        exchanges.append(Counter())
        for tower in towers:
            tower.zero_grad()
        cached_backward(
            encode, rows, lambda i, t: clip_loss(i, t, 14.3, group=dist.group.WORLD), frozen=frozen, wrapped=wrapped
        )
    return [p.grad for tower in towers for p in tower.parameters()], exchanges


@pytest.mark.parametrize("frozen", [[False, False], [True, False]], ids=["both", "frozen images"])
def test_wrapped_towers_exchange_each_bucket_once_per_step(frozen):
    towers = deep_towers()
    clip_loss(*through(towers, PAIRS[torch.arange(24)]), 14.3).backward()
    expected = [p.grad for tower in towers for p in tower.parameters()]
    for got, exchanges in results(run_ranks(2, steps_of_wrapped_towers, frozen, timeout=20)):
        for step in exchanges:
            assert {side for side, _ in step} == {side for side, skip in enumerate(frozen) if not skip}
            assert set(step.values()) == {1}
        for number, (mine, true) in enumerate(zip(got, expected)):
            if frozen[number // 4]:
                assert mine is None
            else:
                torch.testing.assert_close(mine, true, rtol=1e-11, atol=1e-13)


def test_a_module_that_is_not_wrapped_is_refused():
    with pytest.raises(TypeError, match="wrapped holds a Linear: give DistributedDataParallel modules only"):
        cached_backward([], [], clip_loss, wrapped=[nn.Linear(2, 2)])


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_tower_that_the_caller_has_frozen_is_trained_around(tower):
    """Its weights ask for no gradient, and nobody has told `frozen`."""
    model, judge = (ToyTowers(dropout=0.0).double() for _ in range(2))
    for towers in (model, judge):
        getattr(towers, f"{tower}_tower").requires_grad_(False)
    loss, got = cached(model, 8)
    expected, wanted = whole_batch(judge)
    torch.testing.assert_close(loss, expected)
    assert_same(got, wanted)
