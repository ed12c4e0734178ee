"""The benchmark compares like with like, and says what it left out.

A benchmark can mislead in a few known ways: a wrong method is fast, a neighbour slows one method and not the other, a
missing peer goes unmentioned, a lost run leaves half a file. Each test here takes one of these ways and shows that it
is closed. Sizes are tiny and no test looks at how fast anything is. The compiled loss needs half a minute to compile;
the benchmark itself puts it through the gate.
"""

import importlib.util
import json
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from tqdm import tqdm

from minilib.bench import bars, gate, harness, machine, memory, methods, peers, tables, timing
from minilib.bench.contrastive import bench_contrastive, measure
from minilib.bench.harness import Round, Sample
from minilib.bench.methods import Method, backward
from minilib.losses.contrastive import clip_loss

TINY = {"batches": [48], "dim": 16, "rounds": 2, "scale": 14.3, "threads": 1, "gate_batch": 32, "memory_batches": []}
OURS_ONLY = TINY | {"others": False}


def silent_bar():
    return tqdm(disable=True)


def rounds_of(*cpu_seconds):
    """Rounds from dicts of CPU seconds by method."""
    return [Round({name: Sample(cpu, 2 * cpu) for name, cpu in seconds.items()}, 0.0) for seconds in cpu_seconds]


def named(name):
    return next(method for method in methods.ours() if method.name == name)


# Time


def test_ratios_are_taken_round_by_round():
    slow_machine_in_round_two = rounds_of({"a": 1.0, "b": 2.0}, {"a": 10.0, "b": 20.0}, {"a": 3.0, "b": 4.0})
    assert harness.ratios(slow_machine_in_round_two, "a", "b") == [0.5, 0.5, 0.75]
    assert harness.ratios(slow_machine_in_round_two, "a", "absent") == []


def test_a_spread_is_the_median_between_the_extremes():
    assert harness.spread([3.0, 1.0, 20.0]) == {"median": 3.0, "min": 1.0, "max": 20.0}
    assert harness.spread([]) is None


def test_rounds_are_interleaved_and_inputs_are_fresh_for_every_call():
    calls, handed_out = [], iter(range(100))
    steps = {name: lambda x, name=name: calls.append((name, x)) for name in "ab"}
    harness.warm_up(steps, lambda: next(handed_out), silent_bar())
    for number in (1, 2):
        harness.one_round(steps, lambda: next(handed_out), number, silent_bar())
    assert calls == [("a", 0), ("b", 1), ("a", 2), ("b", 3), ("a", 4), ("b", 5)]


def test_cpu_seconds_do_not_count_sleep():
    sample = harness.clock(lambda: time.sleep(0.2))
    assert sample.wall >= 0.2
    assert sample.cpu < 0.1


def test_a_method_that_fails_in_its_warm_up_is_named_and_the_others_go_on():
    def broken(_):
        raise MemoryError("no room\nfor details")

    first, failed = harness.warm_up({"broken": broken, "fine": lambda _: None}, lambda: None, silent_bar())
    assert list(first) == ["fine"]
    assert failed == {"broken": "its first call failed (MemoryError: no room)."}


def test_waiting_threads_sleep_and_threads_are_fixed():
    environment = harness.quiet_environment(3)
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert environment["GOMP_SPINCOUNT"] == "0"
    assert environment["OMP_NUM_THREADS"] == "3"


def test_the_share_of_the_product_rate_counts_products():
    batch, dim, method = 100, 10, Method("mine", lambda x: None, products=4, matrices=0)
    product = 2 * batch**2 * dim
    # torch.mm did 1,000 products in 1 s; the method took 8 ms for its four, twice the time that mm would take.
    done = rounds_of({timing.PRODUCT: 1.0, "mine": 0.008, "dense": 0.016})
    result = timing.summarise(done, [method], batch, dim, operations=1000 * product)
    assert result["summary"]["mine"]["share"]["median"] == pytest.approx(0.5)
    assert result["summary"]["mine"]["ratios"]["dense"]["median"] == pytest.approx(0.5)
    assert result["product_rate"]["median"] == pytest.approx(1000 * product / 1e9)


def test_the_product_step_does_the_operations_it_claims():
    from torch.utils.flop_counter import FlopCounterMode

    multiply, operations = machine.product_step(batch=64, dim=16)
    with FlopCounterMode(display=False) as counter:
        multiply(None)
    assert counter.get_total_flops() == operations


# Equality before speed


@pytest.mark.parametrize("method", [*methods.ours(), methods.row_chunks()], ids=lambda method: method.name)
def test_every_method_of_ours_passes_the_gate(method):
    verdict = gate.judge(method, batch=96, dim=256)
    assert verdict.equal, verdict


@pytest.mark.parametrize("name", [name for name in peers.PEERS if name != "compiled dense"])
def test_every_installed_peer_passes_the_gate(name):
    found, skipped = peers.available((name,))
    if skipped:
        pytest.skip(skipped[name])
    verdict = gate.judge(found[0], batch=96, dim=256)
    assert verdict.equal, verdict


def wrong_loss(x):
    return backward(clip_loss(x.img, x.txt, x.scale, backend="dense") * (1 + 1e-4))


def half_the_batch(x):
    half = len(x.img) // 2
    return backward(clip_loss(x.img[:half], x.txt[:half], x.scale, backend="dense"))


def frozen_scale(x):
    return backward(clip_loss(x.img, x.txt, x.scale.detach(), backend="dense"))


def not_a_number(x):
    loss = backward(clip_loss(x.img, x.txt, x.scale, backend="dense"))
    x.txt.grad[3, 5] = float("nan")
    return loss


def raises(x):
    raise RuntimeError("out of order")


@pytest.mark.parametrize("step", [wrong_loss, half_the_batch, frozen_scale, not_a_number, raises])
def test_a_wrong_method_does_not_pass_the_gate(step):
    verdict = gate.judge(Method("wrong", step, products=3, matrices=4), batch=64, dim=128)
    assert not verdict.equal
    assert ("out of order" in verdict.complaint) == (step is raises)


def test_a_wrong_method_is_reported_and_never_timed(tmp_path, monkeypatch):
    wrong = Method("fast but wrong", half_the_batch, products=3, matrices=4)
    monkeypatch.setattr(methods, "row_chunks", lambda: wrong)
    document = measure(OURS_ONLY, str(tmp_path / "bench.json"))
    assert "differ from fp64" in document["skipped"]["fast but wrong"]
    assert "fast but wrong" not in document["timings"][0]["summary"]
    assert "WRONG" in tables.report(document)


# What is left out is said


def test_a_missing_library_is_skipped_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found, skipped = peers.available(("open_clip ClipLoss", "open_clip SigLipLoss", "sentence-transformers cached"))
    assert found == []
    assert len(skipped) == 3
    assert all("pip install" in sentence and sentence.endswith(".") for sentence in skipped.values())


def test_an_older_torch_is_skipped_with_the_version_that_has_the_loss(monkeypatch):
    monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    found, skipped = peers.available(("F.linear_cross_entropy, twice",))
    assert found == []
    assert "torch 2.13" in skipped["F.linear_cross_entropy, twice"]


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (subprocess.TimeoutExpired("python", 1), "took longer than"),
        (subprocess.CalledProcessError(1, "python", stderr=b"trace\nno compiler found"), "no compiler found"),
    ],
)
def test_a_compiler_that_fails_or_dawdles_is_skipped(monkeypatch, failure, sentence):
    def run(*arguments, **options):
        raise failure

    monkeypatch.setattr(subprocess, "run", run)
    assert sentence in peers.available(("compiled dense",))[1]["compiled dense"]


def test_a_matrix_that_does_not_fit_is_refused_before_it_is_made():
    fitting, refused = methods.split_by_memory(methods.ours(), batch=16384, dim=512, free=2 * 10**9)
    assert "tiled" in [method.name for method in fitting]
    assert "4.6 GB" in refused["dense"]
    assert "2.0 GB are free" in refused["dense"]


def test_the_square_methods_are_not_asked_for_memory_beyond_their_batch():
    assert [method.name for method in memory.meant_for(methods.ours(), 16384)] == ["dense", "tiled"]
    assert [method.name for method in memory.meant_for(methods.ours(), 32768)] == ["tiled"]


def test_extra_memory_is_split_into_gradients_and_the_rest():
    found = memory.peak_bytes(named("tiled"), batch=2048, dim=512, scale=14.3, threads=1)
    assert found["gradients"] == 2 * 2048 * 512 * 4
    assert found["besides"] == found["peak"] - found["gradients"]
    assert 0 < found["besides"] < 4 * 2048**2  # less than one matrix


# The bars


def document_with(ratio, peak):
    summary = {"tiled": {"ratios": {"dense": {"median": ratio}}}}
    row = {"method": "tiled", "batch": 8192, "dim": 512, "peak": peak, "besides": peak}
    return {"settings": {"dim": 512}, "timings": [{"batch": 8192, "summary": summary}], "memory": [row]}


def verdicts(document):
    return {bar["claim"]: bar["held"] for bar in bars.judge(document)}


def test_a_bar_holds_up_to_its_limit_and_not_beyond():
    at, beyond = verdicts(document_with(0.75, 80e6)), verdicts(document_with(0.7501, 80e6 + 1))
    for claim in ("b = 8,192: tiled / dense", "b = 8,192: tiled, extra memory"):
        assert at[claim] is True
        assert beyond[claim] is False


def test_a_bar_that_was_not_measured_is_neither_held_nor_broken():
    assert verdicts(document_with(0.5, 1e6))["b = 16,384: tiled / dense"] is None
    other_width = document_with(0.5, 1e6) | {"settings": {"dim": 64}, "memory": []}
    assert set(verdicts(other_width).values()) == {None}


# The document


def test_the_document_carries_every_sample_and_the_machine(tmp_path):
    output = tmp_path / "bench.json"
    measure(OURS_ONLY, str(output))
    document = json.loads(output.read_text())
    assert document["complete"]
    assert document["machine"]["libraries"]["torch"] == torch.__version__
    names = {method.name for method in [*methods.ours(), methods.row_chunks()]}
    for one_round in document["timings"][0]["rounds"]:
        assert set(one_round) == names | {timing.PRODUCT}
    first, second = (r["tiled"]["cpu"] for r in document["timings"][0]["rounds"])
    assert document["timings"][0]["summary"]["tiled"]["cpu"]["median"] == pytest.approx((first + second) / 2)


def test_an_interrupted_run_keeps_what_it_measured(tmp_path, monkeypatch):
    calls = []

    def interrupted_in_round_two(x):
        calls.append(x)
        if len(calls) == len(gate.CASES) + 3:  # the gate, the warm-up, round one, and then
            raise KeyboardInterrupt
        return backward(clip_loss(x.img, x.txt, x.scale, backend="dense"))

    method = Method("interrupted", interrupted_in_round_two, products=3, matrices=4)
    monkeypatch.setattr(methods, "row_chunks", lambda: method)
    monkeypatch.setattr("minilib.bench.contrastive.signal.signal", lambda *_: None)  # Ctrl-C still ends the test run
    measure(OURS_ONLY, str(tmp_path / "bench.json"))
    document = json.loads((tmp_path / "bench.json").read_text())
    assert not document["complete"]
    assert len(document["timings"][0]["rounds"]) == 1
    assert document["timings"][0]["summary"]["tiled"]["cpu"]["median"] > 0


def test_the_command_measures_in_a_process_of_its_own(tmp_path, capfd):
    document = bench_contrastive(
        batches=[32], dim=16, rounds=1, threads=1, memory=False, others=False, output=tmp_path / "deep" / "bench.json"
    )
    assert document["complete"]
    assert document["machine"]["threads"] == 1
    printed = capfd.readouterr().out
    assert "CPU / dense" in printed
    assert "not measured" in printed


def test_a_measuring_process_that_breaks_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")  # a program that fails at once
    with pytest.raises(RuntimeError, match="ended with status 1"):
        bench_contrastive(batches=[32], output=tmp_path / "bench.json")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"batches": []}, "batches is empty"),
        ({"batches": [64, 0]}, "batches holds 0"),
        ({"dim": 0}, "dim is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"scale": -3.0}, "scale is -3.0"),
    ],
)
def test_arguments_that_do_not_fit_get_one_sentence(arguments, name, tmp_path):
    with pytest.raises(ValueError, match=name):
        bench_contrastive(**arguments, output=tmp_path / "bench.json")


def test_tables_are_aligned_and_have_a_markdown_twin():
    header, rows = ["method", "s"], [["a", "1.0"], ["longer name", "10.0"]]
    assert len({len(line) for line in tables.plain(header, rows).splitlines()}) == 1
    assert tables.markdown(header, rows).splitlines()[1:3] == ["| --- | ---: |", "| a | 1.0 |"]
