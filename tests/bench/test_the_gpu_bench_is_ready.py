"""A run on a GPU is gone through without one, so that its only new part there is the GPU.

What needs a GPU is a clock, a count of free bytes and a matrix product (`minilib.bench.GPU`). Here a stand-in takes
their place: the same methods, the fused ones in Triton's interpreter, the same gate, rounds, budget, bars and report.
The interpreter multiplies fp16 and not bf16, so half precision is fp16 here. No figure of these runs means anything.
"""

import importlib.util
import json
import math
import sys
import types

import pytest
import torch
from tqdm import tqdm

from minilib.bench import baselines, contrastive, correctness, device, harness, report, targets
from minilib.bench import baselines_peers as peers
from minilib.bench import contrastive_cells as plan
from minilib.bench.contrastive import measure
from minilib.bench.contrastive_cells import Cell
from minilib.bench.device import Device
from minilib.bench.harness import Method, Sample

pytest.importorskip("triton", reason="the fused kernels need triton, which this machine does not have")

HALF = torch.float16
PEAK = 12_345_678
GPU = {"name": "stand-in", "memory_bytes": 10**11, "capability": "9.0", "multiprocessors": 132, "cuda": "13"}
SETTINGS = {"batches": [48], "dim": 32, "rounds": 2, "scale": 14.3, "threads": 1, "gate_batch": 64, "others": False}
SETTINGS |= {"memory_batches": [], "device": "cpu", "ranks": [], "half": "fp16"}


def clock_with_peak(call):
    return harness.clock(call)._replace(peak=PEAK)


def stand_in():
    return Device("cpu", "gpu", clock_with_peak, lambda: 10**9, device.product_step, GPU)


OURS = baselines.gpu_methods(HALF)


def known(name):
    return next(method for method in OURS if method.name == name)


@pytest.fixture
def half_methods(monkeypatch):
    ours = list(OURS)
    monkeypatch.setattr(baselines, "gpu_methods", lambda half: ours)
    return ours


# The methods


@pytest.mark.parametrize("method", OURS, ids=lambda method: method.name)
def test_every_method_of_a_gpu_passes_the_gate_in_the_interpreter(method):
    verdict = correctness.judge(method, batch=64, dim=96)
    assert verdict.equal, verdict


@pytest.mark.parametrize("name", ["open_clip ClipLoss", "open_clip SigLipLoss", "F.linear_cross_entropy, twice"])
def test_every_peer_of_a_gpu_passes_the_gate_in_half_precision(name):
    found, skipped = peers.available((name,), "cuda")
    if skipped:
        pytest.skip(skipped[name])
    assert found[0].dtype == torch.bfloat16
    verdict = correctness.judge(found[0], batch=256, dim=128)
    assert verdict.equal, verdict


def test_a_gpu_has_the_fused_losses_in_three_precisions_and_all_of_them_without_a_matrix():
    ours = {method.name: method for method in baselines.gpu_methods()}
    precisions = {name: ours[f"fused {name}"].dtype for name in ("bf16", "fp16", "fp32")}
    assert precisions == {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    assert ours["fused fp32"].tolerance == 1e-4
    assert ours["fused bf16, frozen texts"].floor == ours["fused bf16, frozen texts"].products == 3
    assert {method.matrices for name, method in ours.items() if name.startswith("fused")} == {0}


def test_a_frozen_side_gets_no_gradient_and_a_forward_pass_none_at_all():
    for name, with_gradient in (("fused fp16, frozen texts", {"img", "scale"}), ("fused fp16, forward", set())):
        inputs = baselines.make_inputs(48, 32, 14.3, dtype=HALF)
        known(name).step(inputs)
        found = {side for side in inputs._fields if getattr(inputs, side).grad is not None}
        assert found == with_gradient
        assert known(name).gradients == len(found & {"img", "txt"})


def test_scale_and_bias_stay_fp32_beside_half_precision():
    inputs = baselines.make_inputs(4, 8, 14.3, dtype=torch.bfloat16)
    assert [tensor.dtype for tensor in inputs] == [torch.bfloat16] * 2 + [torch.float32] * 2


# The authors' package


def fake_inf_cl(calls):
    """A module in place of inf-cl: its function's signature and meaning, in plain torch."""

    def cal_flash_loss(q, k, labels=None, scale=None, head_dim=256):
        calls.append((len(q), head_dim))
        q, k = (scale * q).float(), k.float()
        return (q @ k.T).logsumexp(1) - (q * k).sum(1)

    return types.SimpleNamespace(cal_flash_loss=cal_flash_loss, __spec__=None)


def test_the_authors_package_is_called_once_per_direction_and_averaged(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "inf_cl", fake_inf_cl(calls))
    method = peers.inf_cl()
    assert correctness.judge(method, batch=96, dim=256).equal
    assert calls == [(96, 256)] * 2 * len(correctness.CASES)


def test_the_authors_package_is_skipped_with_a_sentence(monkeypatch):
    without_gpu = peers.available(("inf-cl",), "cuda")[1]["inf-cl"] if not torch.cuda.is_available() else None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    absent = peers.available(("inf-cl",), "cuda")[1]["inf-cl"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "inf_cl", types.ModuleType("inf_cl"))  # of a version without the function
    broken = peers.available(("inf-cl",), "cuda")[1]["inf-cl"]
    assert without_gpu is None or "needs a CUDA GPU" in without_gpu
    assert "pip install inf-cl==1.2.1" in absent
    assert "cannot be imported" in broken


def test_a_width_that_the_authors_kernels_do_not_take_is_said_and_not_called_wrong():
    method = Method("inf-cl", lambda x: None, 10, 0, multiple=256)
    assert harness.split([method], lambda m: plan.narrow(m, 768)) == ([method], {})
    found, refused = harness.split([method], lambda m: plan.narrow(m, 640))
    assert found == []
    assert "multiples of 256 and d is 640" in refused["inf-cl"]


# The cells of a run


def test_a_cell_that_is_measured_once_warms_up_at_its_smaller_batch(half_methods):
    sizes = []
    half_methods[:] = [Method("sizes", lambda x: sizes.append(len(x.img)), 3, 0, dtype=HALF)]
    (timing,) = plan.time_cell(half_methods, Cell(64, 8, None, 16), SETTINGS | {"rounds": 5}, stand_in())
    assert sizes == [16, 64]
    assert len(timing["rounds"]) == 1


def test_large_batches_are_for_the_fused_methods_and_named_cells_come_first():
    settings = {"batches": [1024, 131_072], "dim": 256, "device": "cuda"}
    assert [(c.batch, c.dim, c.names) for c in plan.cells(settings)] == [
        (1024, 256, None),
        (131_072, 256, plan.LONG_RUN),
    ]
    assert plan.cells(settings | {"cells": [[8, 4, ["tiled"]]]}) == [Cell(8, 4, ["tiled"])]


# The document


def test_a_whole_run_writes_times_peaks_rates_and_bars(half_methods, tmp_path, capsys):
    output = tmp_path / "bench.json"
    measure(SETTINGS, str(output), stand_in())
    document = json.loads(output.read_text())
    assert document["complete"]
    assert document["unit"] == "gpu"
    (timing,) = document["timings"]
    names = {method.name for method in half_methods}
    assert set(timing["summary"]) == names, document["skipped"]
    assert set(timing["product_rates"]) == {"fp16", "fp32"}
    row = timing["summary"]["fused fp16"]
    assert row["gpu"]["median"] > 0
    assert row["rate"]["median"] == pytest.approx(
        row["share"]["median"] * timing["product_rates"]["fp16"]["median"], rel=1
    )
    assert row["floor"] == row["share"]  # four products of four
    assert "dense" in row["ratios"]
    for less in ("fused fp16, forward", "fused fp16, frozen texts"):
        assert timing["summary"][less]["ratios"] == {}  # less work is not the same work done faster
    memory = {r["method"]: r for r in document["memory"]}
    both, frozen, forward = (memory[f"fused fp16{kind}"]["besides"] for kind in ("", ", frozen texts", ", forward"))
    assert (both, frozen, forward) == (PEAK - 2 * 48 * 32 * 4, PEAK - 48 * 32 * 4, PEAK)
    assert memory["fused fp16"]["per_element"] == PEAK / (48 * 32)
    printed = capsys.readouterr().out
    for heading in ("TFLOP/s", "share of mm", "of floor", "/ dense", "/ inf-cl", "bytes per b x d", "set for one H200"):
        assert heading in printed
    assert "GPU: stand-in" in report.contrastive(document)


def test_all_methods_of_one_precision_get_the_same_numbers_and_others_the_same_rounded(half_methods, tmp_path):
    seen = {}

    def looks(name):
        return lambda x: seen.setdefault(name, []).append(x.img.detach().clone())

    half_methods[:] = [Method(f"{t}", looks(t), 3, 0, dtype=t) for t in (torch.float32, HALF)]
    half_methods.append(Method("again", looks("again"), 3, 0, dtype=HALF))
    inspected = Cell(16, 8)
    list(plan.time_cell(half_methods, inspected, SETTINGS, stand_in()))
    assert len(seen["again"]) == 3  # the warm-up and two rounds
    for wide, half, again in zip(seen[torch.float32], seen[HALF], seen["again"]):
        assert torch.equal(half, again)
        assert torch.equal(wide.to(HALF), half)
    assert not torch.equal(seen["again"][1], seen["again"][2])  # fresh in every round


def test_a_run_may_be_asked_for_a_few_methods_and_a_few_cells(half_methods, tmp_path):
    settings = SETTINGS | {"names": ["fused fp16", "dense"], "cells": [[48, 32, ["fused fp16"]]], "ungated": ["dense"]}
    document = measure(settings, str(tmp_path / "bench.json"), stand_in())
    assert [timing["batch"] for timing in document["timings"]] == [48]
    assert list(document["timings"][0]["summary"]) == ["fused fp16"]
    assert [row["method"] for row in document["equality"]] == ["fused fp16"]


def test_a_method_that_runs_out_of_memory_is_named_and_the_others_go_on(half_methods, tmp_path):
    def too_large(x):
        if len(x.img) == 48:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 68 GiB")
        return known("dense").step(x)

    half_methods[0] = known("dense")._replace(step=too_large)
    document = measure(SETTINGS, str(tmp_path / "bench.json"), stand_in())
    assert "CUDA out of memory" in document["timings"][0]["skipped"]["dense"]
    assert "fused fp16" in document["timings"][0]["summary"]
    assert "dense" not in document["timings"][0]["summary"]


def test_a_method_that_fails_in_a_later_round_is_dropped_and_named(half_methods, tmp_path):
    calls = []

    def fails_in_round_two(x):
        calls.append(x)
        if len(calls) == len(correctness.CASES) + 3:  # the gate, the warm-up, round one, and then
            raise torch.OutOfMemoryError("CUDA out of memory")
        return known("dense").step(x)

    half_methods[:] = [known("dense")._replace(step=fails_in_round_two), known("fused fp16")]
    document = measure(SETTINGS | {"rounds": 3}, str(tmp_path / "bench.json"), stand_in())
    (timing,) = document["timings"]
    assert "round 2 failed (OutOfMemoryError" in timing["skipped"]["dense"]
    assert list(timing["summary"]) == ["fused fp16"]
    assert len(timing["rounds"]) == 3
    assert len(calls) == len(correctness.CASES) + 3


# The bars


def summary(seconds, ratio=None):
    spread = {"median": seconds, "min": seconds, "max": seconds}
    return {"gpu": spread, "ratios": {} if ratio is None else {"inf-cl": {"median": ratio}}}


def document_with(**changed):
    figures = {"fused": 36e-3, "sigmoid": 28e-3, "ratio": 1 / 8, "million": 9.5, "besides": 0.7e9, "error": 1e-4}
    figures |= {"peer": 1.0, "peak": 0.64e9}
    figures |= changed
    own, peers_too = (
        summary(figures["fused"], figures["ratio"]),
        {"inf-cl": summary(1.0), "siglip-kernel": summary(1.0)},
    )
    both = {"fused bf16": own, "fused SigLIP bf16": summary(figures["sigmoid"]), **peers_too}
    wide = {"fused SigLIP bf16": {"ratios": {"siglip-kernel": {"median": figures["peer"]}}}, **peers_too}
    timings = [
        {"batch": 65_536, "dim": 512, "summary": {"fused bf16": own}},  # without the peer: another timing has it
        {"batch": 65_536, "dim": 512, "summary": both},
        {"batch": 1_048_576, "dim": 512, "summary": {"fused bf16": summary(figures["million"])}},
        {"batch": 65_536, "dim": 1024, "summary": {"fused bf16": summary(99.0, 9.9)}},
        {"batch": 65_536, "dim": 768, "summary": wide},
    ]
    memory = [
        {"method": "fused bf16", "batch": b, "dim": 512, "besides": figures["besides"]}
        for b in (16_384, 65_536, 262_144, 1_048_576)
    ]
    memory.append({"method": "fused SigLIP bf16", "batch": 65_536, "dim": 768, "peak": figures["peak"]})
    errors = [{"method": "fused fp32", "errors": {"scale 14.3": 1e-6, "scale 100": figures["error"]}}]
    return {"unit": "gpu", "settings": {"dim": 512}, "timings": timings, "memory": memory, "equality": errors}


def test_every_bar_of_a_gpu_holds_at_its_limit():
    assert [bar["held"] for bar in targets.contrastive(document_with())] == [True] * 11


@pytest.mark.parametrize(
    ("figure", "value", "broken"),
    [
        ("fused", 36.1e-3, 1),
        ("sigmoid", 28.1e-3, 1),
        ("ratio", 0.1251, 1),
        ("million", 9.51, 1),
        ("besides", 0.71e9, 4),
        ("peer", 1.01, 1),
        ("peak", 0.65e9, 1),
        ("error", 1.1e-4, 1),
        ("error", math.nan, 1),
    ],
)
def test_each_bar_breaks_beyond_its_limit(figure, value, broken):
    held = [bar["held"] for bar in targets.contrastive(document_with(**{figure: value}))]
    assert held.count(False) == broken
    assert held.count(True) == 11 - broken


def test_a_gpu_that_measured_nothing_breaks_no_bar():
    nothing = {"unit": "gpu", "settings": {"dim": 512}, "timings": [], "memory": [], "equality": []}
    assert {bar["held"] for bar in targets.contrastive(nothing)} == {None}


def test_the_bars_are_printed_in_their_own_units():
    document = document_with() | {"machine": {"gpu": GPU}}
    document["bars"] = targets.contrastive(document)
    printed = report.section("contrastive_bars", document, report.plain)
    for figure in ("36.0 ms", "9,500.0 ms", "0.125", "700 MB", "1.0e-04"):
        assert figure in printed


# The choice of the place


def test_a_gpu_is_chosen_where_there_is_one_and_the_flag_overrides(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device.chosen(name) for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.chosen("auto") == "cpu"
    with pytest.raises(ValueError, match=r"device is 'cuda' and torch finds no CUDA GPU here.*\.$"):
        device.chosen("cuda")


def test_a_gpu_writes_to_a_file_of_its_own_and_has_its_own_batches(tmp_path, monkeypatch):
    asked = []

    def run_apart(module, settings, output):
        asked.append((settings, output))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(harness, "run_apart", run_apart)
    contrastive.bench_contrastive()
    contrastive.bench_contrastive(device="cpu")
    (gpu, gpu_file), (cpu, cpu_file) = asked
    assert (gpu["batches"], gpu["gate_batch"]) == ([16_384, 65_536], 4096)
    assert (cpu["batches"], cpu["gate_batch"]) == ([4096, 8192, 16384], 1024)
    assert [file.as_posix() for file in (gpu_file, cpu_file)] == [
        "runs/bench/contrastive_cuda.json",
        "runs/bench/contrastive.json",
    ]


def test_the_file_for_the_gpu_can_be_imported_without_one():
    assert device.GPU_OPERATIONS == 2 * 8192**3


def test_the_time_of_a_sample_may_be_the_gpus_own():
    steps = {"one": lambda _: None}
    clock = lambda call: Sample(0.25, 0.5, 7)  # noqa: E731
    done = harness.one_round(steps, lambda name: None, 1, tqdm(disable=True), clock)
    assert done.samples == {"one": Sample(0.25, 0.5, 7)}
