"""The bench of the vocabulary head on a GPU is gone through without one: its only new part there is the GPU.

A stand-in takes the place of the GPU: a CPU with a GPU's methods, the fused kernels in Triton's interpreter, and a
clock that reads peaks. Half precision is fp16 here, which the interpreter can multiply. No figure of these runs means
anything; what is tested is that every part is reached, and that figures are judged as they should be.
"""

import importlib.util
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from support.reference import refused

from minilib.bench import device, harness, logps, report, targets
from minilib.bench import logps_methods as ways
from minilib.bench.baselines import backward
from minilib.bench.device import Device
from minilib.bench.harness import Method

pytest.importorskip("triton", reason="the fused kernels need triton, which this machine does not have")

PEAK = 12_345_678
GPU = {"name": "stand-in", "memory_bytes": 10**11, "capability": "9.0", "multiprocessors": 132, "cuda": "13"}
SETTINGS = {"tokens": 32, "dim": 32, "words": 96, "rounds": 2, "threads": 1, "memory": False, "device": "cuda"}
SETTINGS |= {"dtype": "fp16"}
OURS = (
    "dense",
    "tiled",
    "fused",
    "margin sweep",
    "margin sweep, no SFT term",
    "three bare matmuls",
    "checkpointed chunks",
    "tiled, frozen head",
    "fused, frozen head",
)


def stand_in():
    clock = lambda call: harness.clock(call)._replace(peak=PEAK)  # noqa: E731
    return Device("cpu", "gpu", clock, lambda: 10**9, device.product_step, GPU)


@pytest.fixture
def small_gate(monkeypatch):
    monkeypatch.setattr(logps, "GATE", {"tokens": 32, "words": 96, "dim": 32})


def fake_cut_cross_entropy(calls):
    """A module in place of cut-cross-entropy: its function's signature and meaning, in plain torch."""

    def linear_cross_entropy(e, c, targets, reduction="mean", filter_eps="auto"):
        calls.append(filter_eps)
        return F.cross_entropy((e @ c.T).float(), targets, reduction=reduction).to(e.dtype)

    return types.SimpleNamespace(linear_cross_entropy=linear_cross_entropy, __spec__=object())


def test_a_whole_run_times_every_method_of_a_gpu_and_reads_its_peak(small_gate):
    document = logps.measure(SETTINGS, at=stand_in())
    assert set(document["gpu"]) >= set(OURS), document["skipped"]
    assert document["unit"] == "gpu"
    assert set(document["memory"].values()) == {PEAK}
    assert document["ratio"]["fused"]["median"] > 0
    assert document["error"]["fused"] <= 2e-3
    printed = report.logps(document, report.plain)
    assert all(name in printed for name in (*OURS, "GPU s", "GPU: stand-in", "not measured"))


def test_cut_cross_entropy_is_called_without_its_filter(small_gate, monkeypatch):
    calls = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", fake_cut_cross_entropy(calls))
    method = next(m for m in ways.available("cuda")[0] if m.name == "cut-cross-entropy")
    assert logps.error(method, torch.bfloat16) < 1e-2
    assert calls == [None]


def test_peers_that_are_missing_are_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    skipped = ways.available("cuda")[1]
    assert "pip install cut-cross-entropy" in skipped["cut-cross-entropy"]
    assert "pip install liger-kernel" in skipped["Liger SimPO"]
    assert "cut-cross-entropy" not in ways.available("cpu")[1]  # it needs a GPU, so a CPU does not miss it


def test_a_method_that_is_wrong_or_breaks_is_named_and_the_others_go_on(small_gate, monkeypatch):
    def breaks(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    odd = [
        Method("half", lambda x: backward(0.5 * ways.pair_loss(ways._dense(*x))), 3, 0),
        Method("breaks", breaks, 3, 0),
    ]
    monkeypatch.setattr(ways, "available", lambda device: ([ways.ours(device)[0], *odd], {}))
    document = logps.measure(SETTINGS, at=stand_in())
    assert "differs from fp64 by 5.0e-01" in document["skipped"]["half"]
    assert "it failed (OutOfMemoryError: CUDA out of memory)" in document["skipped"]["breaks"]
    assert list(document["gpu"]) == ["dense"]


def made_up(seconds, **sizes):
    return {
        "unit": "gpu",
        "settings": targets.LOGPS_GPU_SIZE | sizes,
        "gpu": {"margin sweep": {"median": seconds}} if seconds else {},
    }


@pytest.mark.parametrize(("seconds", "held"), [(0.041, True), (0.05, True), (0.06, False), (None, None)])
def test_the_bars_of_a_gpu_are_seconds_at_one_size(seconds, held):
    bar, *others = targets.logps(made_up(seconds))
    assert (bar["limit"], bar["best"], bar["held"]) == (0.052, 0.042, held)
    assert {other["held"] for other in others} == {None}


def test_the_sweep_is_measured_against_bare_matmuls_and_by_its_memory_besides_the_gradients():
    document, gradients = made_up(0.05), 4 * 4096 * (8192 + 128_256)
    document["gpu"] |= {"three bare matmuls": {"median": 0.04}}
    document["memory"] = {"margin sweep, no SFT term": gradients + 2**30}
    _, ratio, memory = targets.logps(document)
    assert (ratio["measured"], ratio["held"]) == (pytest.approx(1.25), True)
    assert (memory["measured"], memory["held"]) == (2**30, True)


def test_another_size_judges_no_bar_of_a_gpu():
    assert {bar["held"] for bar in targets.logps(made_up(0.001, words=32_000))} == {None}


@pytest.mark.parametrize(("device", "dim", "name"), [("cpu", 512, "logps.json"), ("cuda", 4096, "logps_cuda.json")])
def test_the_size_of_a_run_is_that_of_its_device(device, dim, name, monkeypatch):
    seen = []
    monkeypatch.setattr(harness, "run_apart", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    logps.bench_logps(device=device, words=1000)
    (module, settings, output) = seen[0]
    assert (settings["dim"], settings["words"], output.name) == (dim, 1000, name)
    assert module == "minilib.bench.logps"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(ValueError, "torch finds no CUDA GPU here", lambda: logps.bench_logps(device="cuda"))
