"""The bench of log-probabilities times methods that compute the same thing; ratios and bars are those of its samples.

The figures of these small settings judge nothing; only their arithmetic is tested here.
"""

import json
import statistics

import pytest
import torch
from support.reference import refused
from torch.utils.flop_counter import FlopCounterMode

from minilib.bench import device, harness, logps, report, targets
from minilib.bench import logps_methods as ways
from minilib.bench.baselines import backward

SETTINGS = {"tokens": 64, "dim": 16, "words": 128, "rounds": 3, "threads": 1, "memory": False}
SETTINGS |= {"device": "cpu", "dtype": "fp32"}


def test_every_method_is_within_rounding_of_fp64():
    found, skipped = ways.available()
    assert {m.name for m in found} >= {"dense", "tiled", "margin sweep", "dense, frozen head", "tiled, frozen head"}
    assert all(reason.endswith(".") for reason in skipped.values())
    for method in found:
        assert logps.error(method) < logps.TOLERANCE[torch.float32], method.name


def test_every_method_says_its_products():
    inputs = ways.make_inputs(512, 16, 1024)
    for method in ways.available()[0]:
        if method.products and method.name != "Liger SimPO":  # counted in Liger's case by reading, not by the mode
            with FlopCounterMode(display=False) as counter:
                method.step(ways.fresh(inputs, method.frozen))
            counted = counter.get_total_flops() / (2 * 512 * 16 * 1024)
            assert counted == pytest.approx(method.products, abs=5e-3), method.name


def test_a_method_that_computes_something_else_is_not_timed(monkeypatch):
    wrong = harness.Method("wrong", lambda x: backward(1.001 * ways.pair_loss(ways.token_logps(*x))), 4, 0)
    monkeypatch.setattr(ways, "available", lambda device, base=ways.available: ([*base(device)[0], wrong], {}))
    document = logps.measure(SETTINGS)
    assert "differs from fp64 by 1.0e-03" in document["skipped"]["wrong"]
    assert "wrong" not in document["cpu"]


def test_ratios_and_bars_are_those_of_the_samples():
    document = logps.measure(SETTINGS)
    rounds = document["rounds"]
    assert len(rounds) == 3
    for (name, base), bar in zip(targets.LOGPS, document["bars"][::2]):
        expected = statistics.median(r[name]["spent"] / r[base]["spent"] for r in rounds)
        assert document["ratio"][name]["median"] == pytest.approx(expected)
        assert bar["measured"] == pytest.approx(expected)
        assert bar["held"] == (expected <= targets.LOGPS[name, base])
    assert all(bar["held"] is None for bar in document["bars"][1::2])  # memory was not measured
    assert all(name in report.logps(document, report.plain) for name in document["cpu"])


def test_what_does_not_fit_into_memory_is_not_run(monkeypatch):
    monkeypatch.setattr(device, "available_bytes", lambda: 4 * 64 * 128 * 2)
    document = logps.measure(SETTINGS)
    assert "dense" not in document["cpu"]
    assert "are free." in document["skipped"]["dense"]
    assert document["bars"][0]["held"] is None


def test_the_command_writes_what_it_returns(tmp_path):
    path = tmp_path / "deep" / "logps.json"
    document = logps.bench_logps(quick=True, threads=1, memory=False, output=path)
    assert json.loads(path.read_text()) == document
    assert document["settings"]["tokens"] == 512
    assert torch.get_num_threads() == 1


def test_bad_settings_are_refused():
    refused(ValueError, "rounds is 0", lambda: logps.bench_logps(rounds=0))
    refused(ValueError, "tokens is 33: give an even number", lambda: logps.bench_logps(tokens=33))
