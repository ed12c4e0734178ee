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
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tqdm import tqdm

from minilib.bench import baselines, contrastive, correctness, device, harness, report, ring, targets
from minilib.bench import baselines_peers as peers
from minilib.bench import contrastive_cells as timing
from minilib.bench.baselines import backward
from minilib.bench.contrastive import bench_contrastive, measure
from minilib.bench.harness import Method, Round, Sample
from minilib.losses.contrastive import clip_loss

TINY = {"batches": [48], "dim": 16, "rounds": 2, "scale": 14.3, "threads": 1, "gate_batch": 32, "memory_batches": []}
TINY |= {"device": "cpu", "seconds": None, "ranks": []}
MM = timing.product_name(torch.float32)
OURS_ONLY = TINY | {"others": False}


def silent_bar():
    return tqdm(disable=True)


def rounds_of(*cpu_seconds):
    """Rounds from dicts of CPU seconds by method."""
    return [Round({name: Sample(cpu, 2 * cpu) for name, cpu in seconds.items()}, 0.0) for seconds in cpu_seconds]


def named(name):
    return next(method for method in baselines.ours() if method.name == name)


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
    for number in (0, 1, 2):
        harness.one_round(steps, lambda name: next(handed_out), number, silent_bar())
    assert calls == [("a", 0), ("b", 1), ("a", 2), ("b", 3), ("a", 4), ("b", 5)]


def test_cpu_seconds_do_not_count_sleep():
    sample = harness.clock(lambda: time.sleep(0.2))
    assert sample.wall >= 0.2
    assert sample.spent < 0.1


def test_a_method_that_fails_in_its_warm_up_is_named_and_the_others_go_on():
    def broken(_):
        raise MemoryError("no room\nfor details")

    steps = {"broken": broken, "fine": lambda _: None}
    first = harness.one_round(steps, lambda name: None, 0, silent_bar())
    assert list(first.samples) == ["fine"]
    assert first.failed == {"broken": "its first call failed (MemoryError: no room)."}


def test_waiting_threads_sleep_and_threads_are_fixed():
    environment = harness.quiet_environment(3)
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert environment["GOMP_SPINCOUNT"] == "0"
    assert environment["OMP_NUM_THREADS"] == "3"


def test_the_share_of_the_product_rate_counts_products():
    batch, dim, method = 100, 10, Method("mine", lambda x: None, products=4, matrices=0)
    product = 2 * batch**2 * dim
    # torch.mm did 1,000 products in 1 s; the method took 8 ms for its four, twice the time that mm would take.
    done = rounds_of({MM: 1.0, "mine": 0.008, "dense": 0.016})
    result = timing.summarise(done, [method], batch, dim, operations={torch.float32: 1000 * product})
    assert result["summary"]["mine"]["share"]["median"] == pytest.approx(0.5)
    assert result["summary"]["mine"]["ratios"]["dense"]["median"] == pytest.approx(0.5)
    assert result["summary"]["mine"]["rate"]["median"] == pytest.approx(4 * product / 0.008 / 1e9)
    assert result["product_rates"]["fp32"]["median"] == pytest.approx(1000 * product / 1e9)


def test_the_floor_counts_the_fewest_products_whatever_the_method_takes():
    wasteful = Method("mine", lambda x: None, products=10, matrices=0)
    done = rounds_of({MM: 1.0, "mine": 1.0, "dense": 1.0})
    result = timing.summarise(done, [wasteful], 100, 10, operations={torch.float32: 10 * 2 * 100**2 * 10})
    assert result["summary"]["mine"]["share"]["median"] == pytest.approx(1.0)
    assert result["summary"]["mine"]["floor"]["median"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("loss", "missing", "floor"),
    [
        ("clip", (), 4),
        ("clip", ("txt",), 3),
        ("clip", ("scale",), 4),
        ("clip", ("img", "txt", "scale", "bias"), 1),
        ("siglip", (), 3),
        ("siglip", ("txt",), 2),
        ("siglip", ("img", "txt", "scale", "bias"), 1),
    ],
)
def test_the_fewest_products_depend_on_the_gradients_wanted(loss, missing, floor):
    assert Method("any", lambda x: None, 0, 0, loss=loss, missing=missing).floor == floor


def test_the_product_step_does_the_operations_it_claims():
    from torch.utils.flop_counter import FlopCounterMode

    multiply, operations = device.product_step(batch=64, dim=16)
    with FlopCounterMode(display=False) as counter:
        multiply(None)
    assert counter.get_total_flops() == operations


# Equality before speed


@pytest.mark.parametrize("method", baselines.ours(), ids=lambda method: method.name)
def test_every_method_of_ours_passes_the_gate(method):
    verdict = correctness.judge(method, batch=96, dim=256)
    assert verdict.equal, verdict


@pytest.mark.parametrize("name", [name for name in peers.PEERS if name not in ("compiled dense", "inf-cl")])
def test_every_installed_peer_passes_the_gate(name):
    found, skipped = peers.available((name,))
    if skipped:
        pytest.skip(skipped[name])
    verdict = correctness.judge(found[0], batch=96, dim=256)
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


def doubled_scale_gradient(x):
    loss = backward(clip_loss(x.img, x.txt, x.scale, backend="dense"))
    x.scale.grad *= 2
    return loss


def raises(x):
    raise RuntimeError("out of order")


@pytest.mark.parametrize(
    "step", [wrong_loss, half_the_batch, frozen_scale, not_a_number, doubled_scale_gradient, raises]
)
def test_a_wrong_method_does_not_pass_the_gate(step):
    verdict = correctness.judge(Method("wrong", step, products=3, matrices=4), batch=64, dim=128)
    assert not verdict.equal
    assert ("out of order" in verdict.complaint) == (step is raises)


@pytest.mark.parametrize("step", [half_the_batch, frozen_scale, not_a_number, doubled_scale_gradient])
def test_the_gate_of_half_precision_lets_no_wrong_method_through_either(step):
    half = {"dtype": torch.bfloat16, "tolerance": baselines.ROUNDED}
    assert correctness.judge(Method("right", baselines.clip_step("tiled"), 3, 4, **half), batch=256, dim=128).equal
    assert not correctness.judge(Method("wrong", step, 3, 4, **half), batch=256, dim=128).equal


def test_the_gate_asks_for_no_gradient_that_a_method_does_not_make():
    frozen = Method("frozen", lambda x: backward(clip_loss(x.img, x.txt.detach(), x.scale)), 3, 0)
    assert not correctness.judge(frozen, batch=64, dim=128).equal
    assert correctness.judge(frozen._replace(missing=("txt",)), batch=64, dim=128).equal


def test_a_wrong_method_is_reported_and_never_timed(tmp_path, monkeypatch):
    wrong = Method("fast but wrong", half_the_batch, products=3, matrices=4)
    monkeypatch.setattr(baselines, "row_chunks", lambda: wrong)
    document = measure(OURS_ONLY, str(tmp_path / "bench.json"))
    assert "differ from fp64" in document["skipped"]["fast but wrong"]
    assert "fast but wrong" not in document["timings"][0]["summary"]
    assert "WRONG" in report.contrastive(document)


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
    fitting, refused = harness.split(baselines.ours(), lambda method: timing.large(method, 16384, 512, 2 * 10**9))
    assert "tiled" in [method.name for method in fitting]
    assert "4.6 GB" in refused["dense"]
    assert "2.0 GB are free" in refused["dense"]


def test_the_square_methods_are_not_asked_for_memory_beyond_their_batch():
    assert [method.name for method in contrastive.meant_for_memory(baselines.ours(), 16384)] == [
        "dense",
        "default",
        "tiled",
    ]
    assert [method.name for method in contrastive.meant_for_memory(baselines.ours(), 32768)] == ["default", "tiled"]


def test_extra_memory_is_split_into_gradients_and_the_rest():
    found = contrastive.peak_row(named("tiled"), batch=2048, dim=512, scale=14.3, threads=1)
    assert found["gradients"] == 2 * 2048 * 512 * 4
    assert found["besides"] == found["peak"] - found["gradients"]
    assert 0 < found["besides"] < 4 * 2048**2  # less than one matrix


# The bars


def document_with(ratio, peak):
    summary = {"tiled": {"ratios": {"dense": {"median": ratio}}}}
    row = {"method": "tiled", "batch": 8192, "dim": 512, "peak": peak, "besides": peak}
    return {"settings": {"dim": 512}, "timings": [{"batch": 8192, "summary": summary}], "memory": [row]}


def verdicts(document):
    return {bar["claim"]: bar["held"] for bar in targets.contrastive(document)}


def test_a_bar_holds_up_to_its_limit_and_not_beyond():
    at, beyond = verdicts(document_with(0.75, 80e6)), verdicts(document_with(0.7501, 80e6 + 1))
    for claim in ("b = 8,192: tiled / dense", "b = 8,192: tiled, extra memory"):
        assert at[claim] is True
        assert beyond[claim] is False


def test_a_bar_that_was_not_measured_is_neither_held_nor_broken():
    assert verdicts(document_with(0.5, 1e6))["b = 16,384: tiled / dense"] is None
    other_width = document_with(0.5, 1e6) | {"settings": {"dim": 64}, "memory": []}
    assert set(verdicts(other_width).values()) == {None}


def document_of_peers(default, **peers):
    """Two rounds in which the default call and its peers spend these CPU seconds, at b = 4,096."""
    seconds = {"default": default, "tiled": 0.01, "dense SigLIP": 0.01} | peers
    summary = {name: {"cpu": {"median": s}, "ratios": {}, "dense": "dense"} for name, s in seconds.items()}
    summary["dense SigLIP"]["dense"] = "dense SigLIP"
    rounds = [{name: {"cpu": factor * s} for name, s in seconds.items()} for factor in (1, 3)]
    return {"settings": {"dim": 512}, "timings": [{"batch": 4096, "summary": summary, "rounds": rounds}], "memory": []}


def test_the_default_call_is_held_against_the_fastest_peer_of_the_run():
    figures = {"compiled dense": 1.0, "dense": 2.0, "open_clip ClipLoss": 3.0}
    for default, held in ((0.90, [True, True]), (0.95, [True, False]), (0.96, [False, False])):
        found = [b for b in targets.contrastive(document_of_peers(default, **figures)) if b["method"] == "default"]
        assert [b["held"] for b in found if b["batch"] == 4096] == held
        assert {b["held"] for b in found if b["batch"] != 4096} == {None}
        assert {b["base"] for b in found if b["batch"] == 4096} == {"compiled dense"}
    faster = document_of_peers(0.90, **figures | {"dense": 0.5})
    assert [b["base"] for b in targets.contrastive(faster) if b["method"] == "default" and b["batch"] == 4096] == [
        "dense"
    ] * 2


def test_without_the_compiled_peer_the_default_call_is_not_judged():
    found = targets.contrastive(document_of_peers(0.1, dense=1.0))
    assert {b["held"] for b in found if b["method"] == "default"} == {None}


def test_the_default_call_and_the_tiled_one_differ_in_what_they_keep(monkeypatch):
    asked = []
    monkeypatch.setattr(baselines, "clip_loss", lambda *x, **options: asked.append(options) or clip_loss(*x, **options))
    for name in ("default", "tiled"):
        named(name).step(baselines.make_inputs(8, 4, 14.3))
    assert asked[0] == {}
    assert asked[1]["cache_bytes"] == 0


# The document


def test_the_document_carries_every_sample_and_the_machine(tmp_path):
    output = tmp_path / "bench.json"
    measure(OURS_ONLY, str(output))
    document = json.loads(output.read_text())
    assert document["complete"]
    assert document["machine"]["libraries"]["torch"] == torch.__version__
    names = {method.name for method in baselines.ours()}
    for one_round in document["timings"][0]["rounds"]:
        assert set(one_round) == names | {MM}
    first, second = (r["tiled"]["cpu"] for r in document["timings"][0]["rounds"])
    assert document["timings"][0]["summary"]["tiled"]["cpu"]["median"] == pytest.approx((first + second) / 2)


def test_an_interrupted_run_keeps_what_it_measured(tmp_path, monkeypatch):
    calls = []

    def interrupted_in_round_two(x):
        calls.append(x)
        if len(calls) == len(correctness.CASES) + 3:  # the gate, the warm-up, round one, and then
            raise KeyboardInterrupt
        return backward(clip_loss(x.img, x.txt, x.scale, backend="dense"))

    method = Method("interrupted", interrupted_in_round_two, products=3, matrices=4)
    monkeypatch.setattr(baselines, "row_chunks", lambda: method)
    monkeypatch.setattr("minilib.bench.contrastive.signal.signal", lambda *_: None)  # Ctrl-C still ends the test run
    measure(OURS_ONLY, str(tmp_path / "bench.json"))
    document = json.loads((tmp_path / "bench.json").read_text())
    assert not document["complete"]
    assert len(document["timings"][0]["rounds"]) == 1
    assert document["timings"][0]["summary"]["tiled"]["cpu"]["median"] > 0


def test_the_command_measures_in_a_process_of_its_own(tmp_path, capfd):
    document = bench_contrastive(
        batches=[32],
        dim=16,
        rounds=1,
        threads=1,
        device="cpu",
        ranks=[],
        memory=False,
        others=False,
        output=tmp_path / "deep" / "bench.json",
    )
    assert document["complete"]
    assert document["machine"]["threads"] == 1
    printed = capfd.readouterr().out
    assert "CPU / dense" in printed
    assert "not measured" in printed


def test_a_measuring_process_that_breaks_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")  # a program that fails at once
    with pytest.raises(RuntimeError, match="ended with status 1"):
        bench_contrastive(batches=[32], device="cpu", output=tmp_path / "bench.json")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"batches": []}, "batches is empty"),
        ({"batches": [64, 0]}, "batches holds 0"),
        ({"dim": 0}, "dim is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"scale": -3.0}, "scale is -3.0"),
        ({"ranks": [2, 1]}, "ranks holds 1"),
        ({"device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_arguments_that_do_not_fit_get_one_sentence(arguments, name, tmp_path):
    with pytest.raises(ValueError, match=name):
        bench_contrastive(**{"device": "cpu"} | arguments, output=tmp_path / "bench.json")


def test_tables_are_aligned_and_have_a_markdown_twin():
    header, rows = ["method", "s"], [["a", "1.0"], ["longer name", "10.0"]]
    assert len({len(line) for line in report.plain(header, rows).splitlines()}) == 1
    assert report.markdown(header, rows).splitlines()[1:3] == ["| --- | ---: |", "| a | 1.0 |"]


def test_a_document_of_an_earlier_version_is_still_reported():
    root = Path(__file__).parents[2] / "book" / "results"
    document = json.loads((root / "contrastive_cpu.json").read_text())
    page = report.contrastive(document)
    for kept in (
        "| tiled | 0.825 | 0.784 to 0.856 | 0.454 | 0.80 |",
        "91 GFLOP per CPU second",
        "| 80 MB | 42 MB | yes |",
    ):
        assert kept in page


# What a CPU leaves to a GPU


def test_a_cpu_says_that_the_fused_methods_and_the_authors_package_need_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {"inf-cl": peers.PEERS["inf-cl"]})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    document = measure(TINY | {"others": True}, str(tmp_path / "bench.json"))
    assert "needs a CUDA GPU" in document["skipped"]["inf-cl"]
    assert "need a CUDA GPU" in document["skipped"]["fused methods"]
    assert "interpreter is for correctness" in report.contrastive(document)


# The ring


@pytest.mark.slow
def test_a_ring_of_processes_agrees_with_one_and_counts_its_bytes(tmp_path):
    settings = {"ring_batch": 96, "ring_gate_batch": 50, "ring_steps": 2, "ranks": [2, 3]}
    document = measure(OURS_ONLY | settings, str(tmp_path / "bench.json"))
    assert [row["ranks"] for row in document["ring"]] == [1, 2, 3], document["skipped"]
    single, two, _ = document["ring"]
    assert (single["work"], single["sent"], single["released"]) == (1.0, 0.0, 0.0)
    for row in document["ring"]:
        assert row["error"] <= baselines.EXACT
        assert len(row["raw"]) == row["ranks"]
        assert all(len(rank["wall"]) == len(rank["cpu"]) == 2 for rank in row["raw"])
    # Texts twice and gradients once past the other ranks, in fp32, and a little for the sums of the columns.
    assert two["sent"] > 6.0
    assert two["raw"][0]["sent"]["texts"] + two["raw"][0]["sent"]["gradients"] == 6 * 96 * 16
    assert two["released"] == 16.0
    assert two["sent"] < two["released"]
    assert "released ring" in report.contrastive(document)


def ranks_with(walls, cpus, error=0.0):
    return [{"wall": w, "cpu": c, "sent": {"texts": 4800}, "error": error} for w, c in zip(walls, cpus)]


RING = {"ring_batch": 12, "dim": 100}


def test_a_ring_takes_as_long_as_its_slowest_rank_and_as_much_work_as_all():
    row = ring.summarise(ranks_with([[1.0, 4.0], [3.0, 2.0]], [[1.0, 1.0], [2.0, 4.0]]), RING)
    assert (row["wall"]["min"], row["wall"]["max"]) == (3.0, 4.0)
    assert row["cpu"]["median"] == 4.0  # of 3 and 5
    assert row["sent"] == 4.0


@pytest.mark.parametrize(("ranks", "bytes_per_element"), [(1, 0.0), (2, 16.0), (4, 20.0), (8, 22.0)])
def test_the_bytes_of_the_released_ring_follow_its_formula(ranks, bytes_per_element):
    assert ring.released_bytes(ranks) == bytes_per_element


def test_a_wrong_ring_is_never_reported_as_a_time(monkeypatch):
    wrong = {1: ranks_with([[1.0]], [[1.0]]), 2: ranks_with([[1.0]] * 2, [[1.0]] * 2, error=0.5)}
    monkeypatch.setattr(ring, "run_ranks", lambda count, settings: wrong[count])
    rows = ring.measure_ring([2], RING)
    assert next(rows)["ranks"] == 1
    with pytest.raises(RuntimeError, match="ring of 2 differs from fp64"):
        next(rows)


def test_a_rank_that_fails_ends_the_ring_with_its_own_message(tmp_path):
    settings = {"ring_batch": 8, "ring_gate_batch": 8, "ring_steps": 1, "dim": 4, "scale": -1.0, "device": "nowhere"}
    with pytest.raises(RuntimeError, match=r"rank 0 of 1 failed.*nowhere"):
        ring.run_ranks(1, settings)


def test_a_single_gpu_cannot_form_a_ring(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert ring.possible([2, 4], "cpu") == ([2, 4], None)
    counts, sentence = ring.possible([2, 4], "cuda")
    assert counts == []
    assert "a GPU for each rank" in sentence
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert ring.possible([2, 4], "cuda") == ([2], None)
