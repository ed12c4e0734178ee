"""The cost model gives the memory cells of the paper's Tables 1 and 2, and the bytes of real processes.

Three numbers were read off three cells (`cost_model.FITTED`); the others are predictions, and each stands within 10 %
or among the exceptions below, with the reason. What the paper prints has two decimals: half of the last one is allowed.
Messages and memory are counted on one to four processes over gloo.
"""

import pytest
import torch.distributed as dist
from support.ranks import results, run_ranks
from torch.profiler import ProfilerActivity, profile

from minilib.distributed.ring_comm import RingComm, Trace
from minilib.losses.contrastive_ring import ring_clip_loss
from minilib.teaching import cost_model as model
from minilib.teaching.cost_model import GB, VIT_L14, Cluster
from minilib.teaching.repro import random_features

CELLS = list(model.cells())
ROWS, DIM, TILE = 256, 2048, 64  # so that tiles are small next to a block of features


def off(cell):
    """By which share of the paper's number the prediction is off, beyond the rounding of the print."""
    return max(0.0, abs(cell.predicted - cell.paper) - 0.005) / cell.paper


def test_every_cell_of_both_tables_is_there():
    assert len([cell for cell in CELLS if cell.table == 1 and cell.what == "loss"]) == 25
    assert len([cell for cell in CELLS if cell.table == 1 and cell.what == "peak"]) == 25
    assert len([cell for cell in CELLS if cell.table == 2]) == 18


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: f"{c.table} {c.method} {c.gpus} {c.thousands}k {c.what}")
def test_a_cell_is_predicted_within_ten_percent(cell):
    assert off(cell) <= 0.10


def test_three_cells_are_fitted_and_the_rest_is_predicted():
    assert {cell[:5] for cell in CELLS if cell.fitted} == model.FITTED
    assert len(model.FITTED) == 3


def test_cells_of_clip_and_openclip_follow_from_nothing_that_was_fitted():
    losses = [c for c in CELLS if c.method in ("CLIP", "OpenCLIP") and c.what == "loss"]
    doubtful = [c for c in losses if off(c) > 0.005]
    # Table 2 prints 64.13 for 352k and again for 368k on 32 GPUs: the second is not what 368k would need.
    assert [(c.thousands, c.gpus, c.paper) for c in doubtful] == [(368, 32, 64.13)]
    assert len(losses) == 23


def test_another_reading_of_gigabyte_fits_worse():
    clip = next(c for c in CELLS if c.method == "CLIP" and c.thousands == 64)
    exact = clip.predicted * GB
    assert abs(exact / 1e9 - clip.paper) > 3
    assert abs(exact / 2**30 - clip.paper) > 1
    assert abs(exact / GB - clip.paper) < 0.005


@pytest.mark.parametrize(
    ("method", "paper", "within"), [("CLIP", 66.21, 0.01), ("OpenCLIP", 16.96, 0.01), ("Ring-CL", 4.81, 0.01),
    ("Inf-CL", 0.81, 0.12)],  # 17 blocks there, with a frozen tower: the model says 15
)  # fmt: skip
def test_the_loss_column_of_table_4_follows_too(method, paper, within):
    predicted = sum(model.loss_parts(method, 65_536, 768, 4).values()) / GB
    assert abs(predicted / paper - 1) <= within


@pytest.mark.parametrize(
    ("method", "gpus", "offload", "paper", "within"),
    [
        ("CLIP", 8, False, 64, 0.05), ("CLIP", 32, False, 64, 0.05),
        ("OpenCLIP", 32, False, 352, 0.03), ("OpenCLIP", 8, True, 184, 0.03), ("OpenCLIP", 32, True, 368, 0.03),
        ("Inf-CL", 32, False, 2048, 0.03),
        # On 8 GPUs without offload both stop 13 % earlier than memory says; we do not know why.
        ("OpenCLIP", 8, False, 152, 0.14), ("Inf-CL", 8, False, 448, 0.14),
    ],
)  # fmt: skip
def test_the_largest_batch_of_table_2_is_the_one_that_fits(method, gpus, offload, paper, within):
    thousands = model.largest_batch(method, Cluster(gpus), VIT_L14, offload=offload) / 1024
    assert abs(thousands / paper - 1) <= within
    above = model.step_parts(method, (thousands + 1) * 1024, gpus, VIT_L14, offload=offload)
    assert sum(above.values()) > 80 * GB


@pytest.mark.parametrize(("thousands", "paper"), [(32, 25.0), (64, 49.4), (128, 98.3), (256, 200.3)])
def test_seconds_grow_as_those_of_figure_4(thousands, paper):
    slow = Cluster(8, rate=37e12, bandwidth=200e9)  # what the paper's own times leave for the loss, roughly
    assert sum(model.step_seconds("Inf-CL", thousands * 1024, slow, VIT_L14).values()) == pytest.approx(paper, rel=0.03)


def counted(rank, ranks):
    """Bytes that this process sends by kind, and the most that its allocator holds above the features."""
    img, txt = (side.split(ROWS)[rank].clone().requires_grad_() for side in random_features(ROWS * ranks, DIM))
    for _ in range(2):  # the first call allocates for ever
        img.grad = txt.grad = None
        ring = RingComm(dist.group.WORLD, Trace())
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            ring_clip_loss(ring, [img], [txt], 14.3, tile_size=TILE).sum().backward()
    live = highest = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            highest = max(highest, live)
    return ring.trace.sent(rank), highest


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_real_processes_send_and_hold_what_the_model_says(ranks):
    block, tiles = 4 * ROWS * DIM, 2 * 4 * TILE * (TILE + DIM)
    predicted = model.wire_parts("ours", ROWS * ranks, DIM, ranks)
    for sent, highest in results(run_ranks(ranks, counted, ranks)):
        assert {kind: sent.get(kind, 0) for kind in predicted} == predicted
        assert set(sent) - set(predicted) <= {"terms", "upstream"}  # a few numbers that the ranks agree on
        assert highest // block == model.ring_blocks(ranks)
        # Two ranks hold most when the gradient sets out, and no tile is there then; others during the work on a block.
        assert 0 <= highest % block - (0 if ranks == 2 else tiles) < 0.05 * block  # sums


def test_a_ring_holds_the_seven_blocks_that_lesson_06_counts():
    assert [model.ring_blocks(gpus) for gpus in (1, 2, 3, 4, 1000)] == [2, 5, 7, 7, 7]


def test_bytes_are_those_of_the_formulas_of_each_scheme():
    b, d, n = 1024, 64, 4
    assert model.wire_parts("OpenCLIP", b, d, n) == {"features": 8 * 3 / 4 * b * d, "gradients": 8 * 3 / 4 * b * d}
    released = sum(model.wire_parts("Inf-CL", b, d, n).values())
    assert released == pytest.approx(8 * (2 * 3 / 4 + 1) * b * d)
    assert model.wire_parts("ours", b, d, n) == {"texts": 6 * b * d, "gradients": 3 * b * d, "columns": 8 * (b + 1)}
    assert sum(model.wire_parts("Inf-CL", b, d, 1).values()) == 0


def test_waiting_vanishes_when_a_shard_is_large_and_grows_with_latency():
    def waits(batch, **link):
        return model.step_seconds("ours", batch, Cluster(64, **link), VIT_L14)["waiting for features"]

    assert waits(64 * 65_536) == pytest.approx(0, abs=1e-9)
    assert waits(64 * 1024) > 0
    assert waits(64 * 1024, latency=1e-3) > waits(64 * 1024) > waits(64 * 1024, bandwidth=100e9)


def test_an_unknown_method_is_told_in_one_sentence():
    with pytest.raises(ValueError, match=r"method is 'Cloob': choose one of CLIP, OpenCLIP, Inf-CL, ours or Ring-CL\."):
        model.loss_parts("Cloob", 8, 4, 2)
