"""A ring of ranks gives the loss and the gradients of one process with all pairs, and sends what the formulas say.

Local ranks, a thread each, carry the theory: any number of them, any shards, any tile, both losses, both local
backends. Real processes over gloo then show the distributed convention: the average over ranks, of the value and of
every parameter's gradient, is that of one process, the scale's included. The judge is the dense loss in fp64.
"""

import functools

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support.ranks import results, run_ranks
from support.reference import FUSED_TOLERANCE, TOLERANCE, assert_close, refused, unit_rows, value_and_grads
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from minilib import clip_loss, siglip_loss
from minilib.distributed.ring_comm import Comm, LocalRing, RingComm, Trace
from minilib.losses.contrastive_ring import ring_clip_loss, ring_siglip_loss
from minilib.teaching.ring_bytes import bytes_sent

LOSSES = ("clip", "siglip")
SHARDS = {1: [10], 2: [7, 5], 3: [4, 1, 8], 4: [6, 6, 6, 6], 5: [1, 1, 2, 1, 1]}


def on_local_ranks(loss, counts, ring=None, **options):
    """The loss as a function of all pairs, computed on local ranks with these shards; its ring is in `.ring`."""

    def call(img, txt, *numbers):
        call.ring = ring or LocalRing(len(counts))
        shares = {"clip": ring_clip_loss, "siglip": ring_siglip_loss}[loss]
        return shares(call.ring, img.split(counts), txt.split(counts), *numbers, **options).mean()

    return call


def dense(loss):
    return functools.partial({"clip": clip_loss, "siglip": siglip_loss}[loss], backend="dense")


def inputs(loss, batch, dim, scale, dtype):
    numbers = [torch.tensor(scale, dtype=dtype), torch.tensor(-10.0, dtype=dtype)]
    return [unit_rows(batch, dim, 1, dtype), unit_rows(batch, dim, 2, dtype), *numbers[: 1 + (loss == "siglip")]]


def judged(loss, tensors):
    return value_and_grads(dense(loss), *[t.double() for t in tensors])


@given(
    st.sampled_from(LOSSES), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 7), st.integers(1, 12),
    st.sampled_from([1.0, 14.3, 100.0, 300.0]),
)  # fmt: skip
def test_any_shards_on_any_number_of_local_ranks_agree_with_dense(loss, counts, dim, tile, scale):
    tensors = inputs(loss, sum(counts), dim, scale, torch.float64)
    got = value_and_grads(on_local_ranks(loss, counts, tile_size=tile), *tensors)
    assert_close(got, judged(loss, tensors), TOLERANCE[torch.float64])


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("counts", SHARDS.values(), ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_local_ranks_in_fp32_stay_within_two_millionths(loss, counts, scale):
    tensors = inputs(loss, sum(counts), 64, scale, torch.float32)
    assert_close(value_and_grads(on_local_ranks(loss, counts), *tensors), judged(loss, tensors), 2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_fused_kernels_work_on_the_blocks_of_a_ring(loss, dtype):
    pytest.importorskip("triton", reason="the fused backend needs triton, which this system lacks")
    tensors = inputs(loss, 140, 40, 14.3, dtype)
    tensors[2:] = [t.float() for t in tensors[2:]]
    got = value_and_grads(on_local_ranks(loss, [70, 5, 65], backend="fused"), *tensors)
    assert_close(got, judged(loss, tensors), FUSED_TOLERANCE[dtype])


def test_half_precision_features_travel_as_they_are_and_are_summed_in_fp32():
    call, tensors = on_local_ranks("clip", [8, 6]), inputs("clip", 14, 16, 14.3, torch.bfloat16)
    tensors[2] = tensors[2].float()
    assert_close(value_and_grads(call, *tensors), judged("clip", tensors), 4e-3)
    assert call.ring.trace.sent(0) == {**bytes_sent([8, 6], 0, 16, 2), "terms": 96, "upstream": 8}


@pytest.mark.parametrize("length", [1.0, 3.0], ids=["scale 300", "long rows"])
def test_logits_too_large_for_one_shift_take_the_pairs(length):
    tensors = inputs("clip", 12, 8, 300.0 if length == 1 else 14.3, torch.float64)
    tensors[:2] = [length * side for side in tensors[:2]]
    call = on_local_ranks("clip", [5, 3, 4])
    assert_close(value_and_grads(call, *tensors), judged("clip", tensors), TOLERANCE[torch.float64])
    assert "maxima" in call.ring.trace.sent(0)


def test_sums_that_vanish_under_the_shift_are_taken_again_as_pairs():
    # At scale 115 the shift is 55; logits near -115 underflow under it in fp32, and every rank must notice.
    north = torch.eye(1, 8)
    sides = [F.normalize(way * north + 0.1 * unit_rows(6, 8, k, torch.float32)) for k, way in ((1, 1), (2, -1))]
    call, tensors = on_local_ranks("clip", [2, 3, 1]), [*sides, torch.tensor(115.0)]
    assert_close(value_and_grads(call, *tensors), judged("clip", tensors), 2e-5)
    assert "maxima" in call.ring.trace.sent(0)


@pytest.mark.parametrize("side", [0, 1], ids=["row", "column"])
def test_one_sum_that_vanishes_on_one_rank_sends_every_rank_to_the_pairs(side):
    # All features look north but one image (or text): its row (or column) underflows, and no other sum does.
    north, counts = torch.eye(1, 8), [2, 3, 1]
    sides = [F.normalize(north + 0.1 * unit_rows(6, 8, k, torch.float32)) for k in (1, 2)]
    sides[side][4] *= -1
    call, tensors = on_local_ranks("clip", counts), [*sides, torch.tensor(115.0)]
    assert_close(value_and_grads(call, *tensors), judged("clip", tensors), 2e-5)
    assert all("maxima" in call.ring.trace.sent(rank) for rank in range(3))


def test_all_ranks_share_one_shift_whatever_the_length_of_their_rows():
    # The longest rows live on rank 1; its bound of 115 asks for a shift of 55, those of the others for less.
    tensors, counts = inputs("clip", 12, 8, 80.0, torch.float32), [5, 3, 4]
    lengths = torch.tensor([0.7] * 5 + [1.2] * 3 + [1.0] * 4)[:, None]
    tensors[:2] = [lengths * side for side in tensors[:2]]
    call = on_local_ranks("clip", counts)
    assert_close(value_and_grads(call, *tensors), judged("clip", tensors), 4e-6)
    assert "maxima" not in call.ring.trace.sent(0)


@given(st.permutations(range(4)))
def test_the_order_of_the_ranks_does_not_matter(order):
    img, txt, scale = inputs("clip", 16, 5, 14.3, torch.float64)
    images, texts = ([side.split(4)[k] for k in order] for side in (img, txt))
    got = ring_clip_loss(LocalRing(4), images, texts, scale).mean()
    assert abs(got - dense("clip")(img, txt, scale)) < 1e-12


def test_a_second_backward_gives_the_same():
    for loss in LOSSES:
        leaves = [t.requires_grad_() for t in inputs(loss, 9, 4, 14.3, torch.float64)]
        value = on_local_ranks(loss, [4, 5])(*leaves)
        first = torch.autograd.grad(value, leaves, retain_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(value, leaves)))


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            self.numel = max(self.numel, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
        return out


class WatchedRing(LocalRing):
    """A ring that notes the largest tensor of every rank, each on its own thread."""

    def run(self, function, *per_rank):
        self.largest = getattr(self, "largest", [])

        def watched(comm, *args):
            with LargestTensor() as largest:
                result = function(comm, *args)
            self.largest.append(largest.numel)
            return result

        return super().run(watched, *per_rank)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_rank_ever_holds_more_than_a_tile_or_a_block_of_features(loss):
    ranks, rows, dim = 4, 64, 4
    tensors = inputs(loss, ranks * rows, dim, 14.3, torch.float32)
    call = on_local_ranks(loss, [rows] * ranks, ring=WatchedRing(ranks), tile_size=16)
    value_and_grads(call, *tensors)
    assert len(call.ring.largest) == 2 * ranks  # every rank, forward and backward
    assert max(call.ring.largest) < rows * rows  # the matrix of one block, which would be the next thing to avoid


def test_shares_that_are_scaled_differently_are_refused():
    img, txt, scale = inputs("clip", 6, 4, 14.3, torch.float64)
    shares = ring_clip_loss(LocalRing(2), img.requires_grad_().split(3), txt.split(3), scale)
    words = "upstream factor is 1 on rank 0 and 2 on rank 1: scale the loss by the same factor"
    refused(ValueError, words, lambda: (shares * torch.tensor([1.0, 2.0])).sum().backward())


# What is sent


def messages(trace, rank):
    """Number of messages from rank to rank that `rank` sent."""
    return sum(entry.rank == rank and entry.to is not None for entry in trace)


@pytest.mark.parametrize("wanted", [True, False], ids=["both towers", "frozen texts"])
@pytest.mark.parametrize("counts", SHARDS.values(), ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_trace_counts_the_bytes_of_the_formula(loss, counts, wanted):
    img, txt, *numbers = inputs(loss, sum(counts), 16, 14.3, torch.float32)
    call = on_local_ranks(loss, counts)
    call(img.requires_grad_(), txt.requires_grad_(wanted), *numbers).backward()
    for rank in range(len(counts)):
        found = call.ring.trace.sent(rank)
        small = found.pop("terms", 0) + found.pop("upstream", 0)
        assert found == bytes_sent(counts, rank, 16, 4, loss=loss, txt_wanted=wanted)
        assert small == (104 if len(counts) > 1 else 0)


def test_four_ranks_send_nine_bytes_per_element_where_the_released_scheme_sends_twenty():
    ranks, batch, dim = 4, 256, 512
    call = on_local_ranks("clip", [batch // ranks] * ranks)
    value_and_grads(call, *inputs("clip", batch, dim, 14.3, torch.float32))
    released = 8 * (2 * (ranks - 1) / ranks + 1)
    for rank in range(ranks):
        per_element = sum(call.ring.trace.sent(rank).values()) / (batch * dim)
        assert per_element == pytest.approx(9, abs=0.03)
        assert per_element <= 11 < released == 20


@pytest.mark.parametrize(("loss", "passes"), [("clip", 3), ("siglip", 2)])
def test_each_rank_sends_its_messages_and_one_rank_none(loss, passes):
    for ranks in (1, 2, 5):
        call = on_local_ranks(loss, [3] * ranks)
        value_and_grads(call, *inputs(loss, 3 * ranks, 4, 14.3, torch.float64))
        assert [messages(call.ring.trace, rank) for rank in range(ranks)] == [passes * (ranks - 1)] * ranks


def test_every_ring_step_is_posted_before_the_work_on_the_block_begins():
    call = on_local_ranks("clip", [3] * 4)
    value_and_grads(call, *inputs("clip", 12, 4, 14.3, torch.float64))
    for rank in range(4):
        entries = [e for e in call.ring.trace if e.rank == rank and e.step is not None]
        for place, entry in enumerate(entries):
            if entry.what == "texts":
                following = entries[place + 1]
                assert following.what.startswith("work on")
                assert (following.step, following.owner) == (entry.step, entry.owner)


def test_every_rank_meets_every_text_once_and_keeps_its_own_for_the_start():
    for ranks in range(1, 7):
        for rank in range(ranks):
            comm = Comm(rank, ranks, None)
            held = [comm.owner(step) for step in range(ranks)]
            assert held[0] == rank == comm.owner(ranks)
            assert sorted(held) == list(range(ranks))


# Real processes


class Towers(nn.Module):
    """Two linear towers and a log scale: what a rank trains."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.image, self.text = nn.Linear(24, 16), nn.Linear(24, 16)
        self.log_scale, self.bias = nn.Parameter(torch.tensor(14.3).log()), nn.Parameter(torch.tensor(-10.0))

    def forward(self, images, captions):
        img, txt = (F.normalize(tower(x)) for tower, x in ((self.image, images), (self.text, captions)))
        return img, txt, self.log_scale.exp(), self.bias * 1


def pairs(batch, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(batch, 24, generator=generator).to(dtype) for _ in range(2)]


def share_and_grads(rank, counts, loss, scaled, wrap):
    """A rank's share and its parameters' gradients, averaged over ranks as DistributedDataParallel does or by it."""
    start, group = sum(counts[:rank]), dist.group.WORLD
    model = Towers()
    with torch.no_grad():
        model.log_scale += torch.tensor(scaled).log() - model.log_scale
    encode = DistributedDataParallel(model) if wrap else model
    img, txt, scale, bias = encode(*(side[start : start + counts[rank]] for side in pairs(sum(counts))))
    numbers = (scale, bias)[: 1 + (loss == "siglip")]
    function = {"clip": clip_loss, "siglip": siglip_loss}[loss]
    value = function(img, txt, *numbers, group=group) + (0 if loss == "siglip" else 0 * bias)
    value.backward()
    grads, value = [p.grad.clone() for p in model.parameters()], value.detach()
    for tensor in [value, *([] if wrap else grads)]:
        dist.all_reduce(tensor)
        tensor /= len(counts)
    return [value, *grads]


def all_cases(rank, counts):
    return {
        (loss, scale, wrap): share_and_grads(rank, counts, loss, scale, wrap)
        for loss in LOSSES
        for scale in (1.0, 14.3, 100.0)
        for wrap in (False, True)
    }


def one_process(counts, loss, scaled):
    model = Towers().double()
    with torch.no_grad():
        model.log_scale += torch.tensor(scaled).log().double() - model.log_scale
    img, txt, scale, bias = model(*(side.double() for side in pairs(sum(counts))))
    value = dense(loss)(img, txt, *(scale, bias)[: 1 + (loss == "siglip")]) + (0 if loss == "siglip" else 0 * bias)
    value.backward()
    return [value.detach(), *[p.grad for p in model.parameters()]]


@pytest.mark.parametrize("counts", [[10], [40, 23], [33, 1, 20], [16, 16, 16, 16], [5, 30, 2, 17]], ids=str)
def test_averages_over_processes_are_those_of_one(counts):
    for found in results(run_ranks(len(counts), all_cases, counts)):
        for (loss, scale, wrap), got in found.items():
            judge = one_process(counts, loss, scale)
            for name, mine, true in zip(["value", *dict(Towers().named_parameters())], got, judge):
                size = max(true.norm().item(), 1e-3 if true.ndim == 0 else 0.0)
                off = (mine.double() - true).norm().item()
                assert off <= 2e-6 * size, f"{loss}, scale {scale}, DDP {wrap}: {name} is off by {off / size:.2g}"


def bytes_of_a_step(rank, counts):
    img, txt = (unit_rows(counts[rank], 16, 10 * k + rank, torch.float32).requires_grad_() for k in (1, 2))
    ring = RingComm(dist.group.WORLD, Trace())
    ring_clip_loss(ring, [img], [txt], 14.3).sum().backward()
    return ring.trace.sent(rank), messages(ring.trace, rank)


def test_processes_send_what_local_ranks_send():
    counts = [5, 2, 7]
    for rank, (sent, messages) in enumerate(results(run_ranks(3, bytes_of_a_step, counts))):
        assert sent == {**bytes_sent(counts, rank, 16, 4), "terms": 96, "upstream": 8}
        assert messages == 3 * 2


def in_a_part_of_the_world(rank):
    groups = [dist.new_group([0, 2]), dist.new_group([1])]
    mine = groups[rank % 2]
    img, txt = pairs(12, torch.float64)
    rows = {0: slice(0, 5), 1: slice(0, 12), 2: slice(5, 12)}[rank]
    value = clip_loss(F.normalize(img[rows]), F.normalize(txt[rows]), 14.3, group=mine)
    dist.all_reduce(value, group=mine)
    return (value / dist.get_world_size(mine)).item()


def test_a_part_of_the_world_is_a_ring_of_its_own():
    img, txt = pairs(12, torch.float64)
    expected = clip_loss(F.normalize(img), F.normalize(txt), 14.3, backend="dense").item()
    assert results(run_ranks(3, in_a_part_of_the_world)) == pytest.approx([expected] * 3, abs=1e-12)
