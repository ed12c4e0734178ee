"""The prefix bench times methods that compute the same thing, raises for others, and its ratios are its samples'.

The figures of the quick settings judge nothing; only their arithmetic is tested here.
"""

import json
import statistics

import pytest
import torch
from support.reference import refused

from minilib.bench import prefix, report

SETTINGS = {"prompt": 40, "answer": 5, "rejected": 2, "width": 64, "layers": 1, "rounds": 3, "threads": 1}


def test_every_method_is_within_rounding_of_fp64():
    errors = prefix.equality(SETTINGS, prefix._pack(SETTINGS))
    assert set(errors) == set(prefix.METHODS)
    assert max(errors.values()) < 1e-5


def test_a_method_that_computes_something_else_is_not_timed(monkeypatch):
    def blind(model, pack):
        return prefix.answer_hidden(model, pack)[torch.arange(len(pack.labels)).flip(0)]

    monkeypatch.setitem(prefix.METHODS, "blind", blind)
    with pytest.raises(RuntimeError, match="blind: its gradients are off by"):
        prefix.measure(SETTINGS)


def test_ratios_are_those_of_the_samples():
    document = prefix.measure(SETTINGS)
    assert len(document["rounds"]) == 3
    ratios = [r["cache"]["spent"] / r[prefix.BASE]["spent"] for r in document["rounds"]]
    assert document["ratio"]["cache"]["median"] == pytest.approx(statistics.median(ratios))
    assert document["ratio"][prefix.BASE]["median"] == 1
    assert document["bars"][0]["held"] == (statistics.median(ratios) <= 0.5)
    assert all(name in report.prefix(document) for name in prefix.METHODS)


def test_the_command_writes_what_it_returns(tmp_path):
    path = tmp_path / "deep" / "prefix.json"
    document = prefix.bench_prefix(quick=True, threads=1, output=path)
    assert json.loads(path.read_text()) == document
    assert document["settings"]["prompt"] == 96


def test_bad_settings_are_refused():
    refused(ValueError, "answer is 0", lambda: prefix.bench_prefix(answer=0))
    refused(ValueError, "width is 100: give a multiple of 64", lambda: prefix.bench_prefix(width=100))
