"""`bench gpu` spends a few minutes of a GPU well: what fits, in the order of worth, and no stop can break another.

There is no GPU here. Its plan is walked on a CPU at toy sizes, once; how the run treats its stops is shown with stops
that fail in every way.
"""

import importlib
import inspect
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
import types
import zipfile
from functools import partial

import pytest
import torch
from support.gpu_stops import __name__ as STOPS_MODULE
from support.reference import refused

from minilib import kernels
from minilib.bench import baselines, correctness, logps_methods, step_methods, step_models
from minilib.bench import baselines_peers as peers
from minilib.bench.gpu import __main__ as command
from minilib.bench.gpu import bars, gate, page, plan, run
from minilib.bench.gpu.plan import STOPS, Stop
from minilib.bench.harness import Method
from minilib.cli.doctor import diagnosis
from minilib.losses.validation import resolve_backend

BENCH_GPU = run.bench_gpu
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TRITON_INTERPRET": "1"}


def stops(*kinds):
    return tuple(Stop(kind, f"it will {kind}", STOPS_MODULE, 1.0, "nothing", {"do": kind}, {}) for kind in kinds)


def read(output):
    return json.loads(output.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


# The plan


def test_the_plan_costs_at_most_420_seconds_and_says_what_its_predictions_are_made_of():
    assert sum(stop.seconds for stop in STOPS) <= 420
    assert sum(stop.seconds for stop in STOPS) + plan.RESERVE <= run.BUDGET
    assert all(stop.how and stop.seconds > 0 for stop in STOPS)


def test_the_most_valuable_stops_come_first():
    names = [stop.name for stop in STOPS]
    wanted = [
        "machine",
        "gate",
        "infonce",
        "infonce peers",
        "million",
        "siglip",
        "head",
        "head peers",
        "logo",
        "memory",
    ]
    assert names == [*wanted, "precision", "ring", "profile"]


def test_every_stop_asks_for_what_is_there():
    contrastive = {m.name for m in baselines.gpu_methods()} | set(peers.GPU_PEERS)
    head = {m.name for m in logps_methods.ours("cuda")} | {"Liger SimPO", "cut-cross-entropy"}
    known = {"minilib.bench.contrastive": contrastive, "minilib.bench.logps": head}
    for stop in STOPS:
        assert callable(importlib.import_module(stop.module).measure)
        assert set(stop.settings.get("names", ())) <= known.get(stop.module, set())
        for cell in stop.settings.get("cells", ()):
            assert set(cell[2] or ()) <= set(stop.settings["names"])
    assert {bar["stop"] for bar in bars.judged({"stops": []}) if bar.get("stop")} == {"infonce", "siglip", "head"}


@pytest.mark.slow
def test_a_dry_run_walks_the_whole_plan(tmp_path):
    pytest.importorskip("triton", reason="the fused kernels need triton, which this machine does not have")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run.bench_gpu(dry=True, budget=3000, output=tmp_path / "gpu.json")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 120
    found, text = read(tmp_path / "gpu.json"), (tmp_path / "gpu.md").read_text()
    assert found["complete"]
    assert {stop["name"]: stop["status"] for stop in found["stops"]} == {stop.name: "done" for stop in STOPS}, text
    results = {stop["name"]: stop["result"] for stop in found["stops"]}
    assert results["gate"]["held"] == {"fp32": True, "fp16": True}
    assert "interpreter cannot multiply it" in results["gate"]["skipped"]["bf16"]
    assert list(results["million"]["timings"][0]["summary"]) == ["fused fp16"]
    assert set(results["head"]["gpu"]) >= {"margin sweep", "three bare matmuls", "fused"}
    assert results["logo"]["adapters"] == "our own"
    assert set(results["logo"]["cpu"]) == {"shared, M = 2", "concatenated, M = 2"}
    assert [row["held"] for row in results["ring"]["rows"]] == [True, True], results["ring"]["rows"]
    assert results["profile"]["rows"][0]["share"] > 0
    assert "dry: its figures mean nothing" in text
    assert all(stop.how in text for stop in STOPS)


# The run


def test_a_stop_that_raises_dies_or_hangs_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "STOPS", stops("raise", "die", "hang", "end well"))
    monkeypatch.setattr(plan, "limit", lambda stop, left: 1.0 if stop.name == "hang" else 60.0)
    output = tmp_path / "gpu.json"
    run.bench_gpu(dry=True, output=output)
    found = {stop["name"]: stop for stop in read(output)["stops"]}
    assert [stop["status"] for stop in found.values()] == ["failed", "failed", "failed", "done"]
    assert "CUDA out of memory. Tried to allocate 68 GiB" in found["raise"]["told"]
    assert f"status {-signal.SIGKILL}" in found["die"]["told"]
    assert "ended after 1 s" in found["hang"]["told"]
    assert found["raise"]["result"] is None
    # What a stop had written before its end is kept, and a number that is none is nothing.
    assert [found[name]["result"]["rows"] for name in ("die", "hang")] == [
        [{"name": name, "error": None}] for name in ("die", "hang")
    ]
    assert "CUDA out of memory" in output.with_suffix(".md").read_text()


def test_a_budget_runs_only_what_fits_and_names_the_rest(tmp_path, monkeypatch):
    watch = types.SimpleNamespace(now=1000.0)
    known = {stop.name: stop for stop in STOPS}

    def took_as_predicted(module, settings, part, seconds, cache):
        watch.now += known[part.name.split(".")[1].replace("_", " ")].seconds

    monkeypatch.setattr(run, "time", types.SimpleNamespace(monotonic=lambda: watch.now))
    monkeypatch.setattr(run, "_run_apart", took_as_predicted)
    found = run.bench_gpu(budget=60, dry=True, output=tmp_path / "gpu.json")
    status = {stop["name"]: stop["status"] for stop in found["stops"]}
    assert [name for name, word in status.items() if word == "done"] == ["machine", "infonce", "memory"]
    assert set(status.values()) == {"done", "left out"}
    assert watch.now - 1000 <= 60 - plan.RESERVE
    told = next(stop["told"] for stop in found["stops"] if stop["name"] == "gate")
    assert told == "It was not begun: it needs about 60 s and 37 s were left."


def test_the_whole_plan_fits_into_its_budget(tmp_path, monkeypatch):
    left = run.BUDGET - plan.RESERVE
    for stop in STOPS:
        assert plan.too_late(stop, left) is None
        assert stop.seconds < plan.limit(stop, left) <= left
        left -= stop.seconds


def test_a_killed_run_leaves_valid_json_of_what_was_done(tmp_path):
    output = tmp_path / "gpu.json"
    script = "from minilib.bench.gpu import run\nfrom minilib.bench.gpu.plan import Stop\n"
    script += f"run.STOPS = {stops('end well', 'hang')}\nrun.bench_gpu(dry=True, output={str(output)!r})"
    killed = subprocess.Popen([sys.executable, "-c", script], env=ENVIRONMENT, stdout=subprocess.PIPE)
    waited = time.monotonic()
    while not output.exists() or read(output)["stops"][1].get("status") != "running":
        assert time.monotonic() - waited < 300
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    found = read(output)
    assert not found["complete"]
    assert [stop["status"] for stop in found["stops"]] == ["done", "running"]
    assert found["stops"][0]["result"]["rows"][0]["name"] == "end well"
    assert "end well" in output.with_suffix(".md").read_text()


def test_an_interrupted_run_keeps_what_its_stop_had_written(tmp_path, monkeypatch):
    def interrupted(module, settings, part, seconds, cache):
        part.write_text('{"benchmark": "ring", "rows": [{"name": "half"}], "skipped": {}}')
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "STOPS", stops("end well"))
    monkeypatch.setattr(run, "_run_apart", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.bench_gpu(dry=True, output=tmp_path / "gpu.json")
    (stop,) = read(tmp_path / "gpu.json")["stops"]
    assert (stop["status"], stop["result"]["rows"]) == ("interrupted", [{"name": "half"}])


def test_every_run_draws_its_own_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "STOPS", ())
    seeds = {run.bench_gpu(dry=True, output=tmp_path / f"{k}.json")["seed"] for k in range(4)}
    assert len(seeds) == 4


def test_peers_come_from_wheels_next_to_the_run_and_are_not_installed(tmp_path, monkeypatch):
    (tmp_path / "wheels").mkdir()
    refused(ValueError, "which holds none", lambda: run._add_wheels(tmp_path / "wheels", tmp_path / "peers"))
    with zipfile.ZipFile(tmp_path / "wheels" / "a_peer_of_ours-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a_peer_of_ours.py", "speed = 42")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert run._add_wheels(tmp_path / "wheels", tmp_path / "peers") == ["a_peer_of_ours-1.0-py3-none-any.whl"]
    assert importlib.import_module("a_peer_of_ours").speed == 42
    assert run._add_wheels(None, tmp_path / "peers") == []


def test_arguments_that_do_not_fit_are_refused_in_one_sentence(tmp_path, capsys):
    refused(ValueError, "only names 'lunch'", lambda: run.bench_gpu(dry=True, only=["lunch"]))
    for budget in (0.0, -3.0, math.nan, math.inf):
        refused(ValueError, f"budget is {budget}", lambda budget=budget: run.bench_gpu(dry=True, budget=budget))
    if not torch.cuda.is_available():
        refused(ValueError, "torch finds no CUDA GPU here", lambda: run.bench_gpu(output=tmp_path / "gpu.json"))
    with pytest.raises(SystemExit) as ended:
        command.main(["--speed", "9"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --speed 9" in capsys.readouterr().err


def test_both_command_lines_know_the_same_flags(monkeypatch):
    given = {}
    monkeypatch.setattr(run, "bench_gpu", lambda **flags: given.update(flags))
    command.main([])
    known = inspect.signature(BENCH_GPU).parameters
    assert given == {name: known[name].default for name in known}


BARE = """
import runpy, sys
MISSING = {"jsonargparse", "peft", "datasets", "sklearn", "psutil", "PIL", "matplotlib", "accelerate", "pandas", "trl"}
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in MISSING else self.finder.find_spec(name, *rest)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
sys.argv = ["minilib", "bench", "gpu", "--dry", "--only", "machine", "logo", "--output", sys.argv[1]]
runpy.run_module("minilib", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_it_starts_where_little_more_than_torch_and_transformers_is_installed(tmp_path):
    output = tmp_path / "gpu.json"
    arguments = [sys.executable, "-c", BARE, str(output)]
    result = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = read(output)
    assert [stop["told"] for stop in found["stops"] if stop["status"] != "done"] == []
    assert found["stops"][1]["result"]["adapters"] == "our own"


# The gate


def row(dtype="bf16", error=1e-3, right=True, tile=None, complaint=""):
    return {"dtype": dtype, "error": error, "held": right, "tile": tile, "complaint": complaint}


TILE = {"tile": (256, 128), "right": False}


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([], False),
        ([row(), row("fp32", right=False)], True),
        ([row(), row(error=0.5, right=False)], False),
        ([row(), row(error=None, right=False)], False),
        ([row(), row(error=None, complaint="OutOfResources: shared memory", **TILE)], True),  # the tuner skips it
        ([row(), row(error=None, complaint="AcceleratorError: illegal memory access", **TILE)], False),
        ([row(), row(error=0.5, **TILE)], False),
        ([row(), row(error=math.inf, **TILE)], False),
    ],
)
def test_the_gate_holds_where_every_kernel_is_right(rows, verdict):
    assert gate.held(rows, "bf16") is verdict


def one_job(job):
    if job.family == "dies":
        os._exit(3)
    return [{"family": job.family, "dtype": job.dtype, "error": 0.0, "held": True, "tile": None}]


def test_a_kernel_that_kills_its_process_is_a_row_of_the_gate(tmp_path):
    jobs = [gate.Job("lives", "bf16"), gate.Job("dies", "bf16"), gate.Job("lives", "fp32")]
    lives, dies, other = (rows for (rows,) in gate._apart(jobs, one_job, str(tmp_path / "gate")))
    assert (lives["held"], other["held"]) == (True, True)
    assert (dies["held"], dies["complaint"]) == (False, "its process ended with status 3")
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_reads_what_nobody_has_written_is_caught():
    def careless(x):
        true = baselines.clip_step("tiled")(x)
        with torch.no_grad():
            x.img.grad += 0 * torch.empty_like(x.img)  # right wherever memory happens to hold numbers
        return true

    method = Method("careless", careless, 4, 0)
    assert not correctness.judge(method, 32, 16).equal
    assert correctness.judge(method._replace(step=baselines.clip_step("tiled")), 32, 16).equal
    assert not torch.are_deterministic_algorithms_enabled()


def test_every_case_of_a_run_has_numbers_of_its_own():
    seen = []
    method = Method("looks", lambda x: seen.append(x.img.detach().sum().item()), 3, 0)
    for seed in (0, 100):
        correctness.judge(method, 8, 4, seed=seed)
    assert len(set(seen)) == 2 * len(correctness.CASES)


# LoRA of our own


def test_plain_adapters_compute_what_those_of_peft_compute():
    pytest.importorskip("peft")
    theirs, ours = (step_models.build("toy", plain=plain) for plain in (False, True))
    copies = dict(ours.named_modules())
    for name, module in theirs.get_base_model().named_modules():
        if hasattr(module, "lora_A"):
            with torch.no_grad():
                copies[name].a.copy_(module.lora_A["default"].weight)
                copies[name].b.copy_(module.lora_B["default"].weight)
    ids = torch.arange(12)[None] * 7
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    torch.testing.assert_close(ours(**given).logits, theirs(**given).logits)
    trained = [name for name, p in ours.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * sum(1 for _, p in theirs.named_parameters() if p.requires_grad) // 2
    assert all(name.endswith((".a", ".b")) for name in trained)


def test_the_gate_of_a_step_holds_with_plain_adapters():
    errors, complaints = step_methods.gate("auto", "cpu", False, with_trl=False, rejected=(2,), plain=True)
    assert complaints == {}
    assert list(errors) == ["shared, M = 2"]


# Bars, pages, and what `auto` makes of them


def measured_run(**changed):
    """A made-up run on a GPU that reaches half of what the bars were set for."""
    spread = lambda value: {"median": value, "min": value, "max": value}  # noqa: E731
    figures = {"rate": bars.SET_FOR / 2, "infonce": 0.060, "head": 0.080, "name": "GPU of 2030"} | changed
    rows = [{"name": "torch.mm bf16", "dtype": "bf16", "rate": figures["rate"]}]
    gpu = {"name": figures["name"], "memory_bytes": 10**11, "capability": "9.0", "multiprocessors": 132, "cuda": "13"}
    known = {
        "cpu": "a CPU",
        "vectors": "none",
        "usable_cores": 16,
        "threads": 8,
        "memory_bytes": 10**11,
        "system": "Linux",
    }
    known |= {"python": "3.12", "libraries": {"torch": "2.11.0"}, "gpu": gpu}
    summary = {"fused bf16": {"gpu": spread(figures["infonce"]), "ratios": {}, "dense": "dense", "wall": spread(1.0)}}
    timing = {"batch": 65_536, "dim": 512, "summary": summary, "rounds": [{}], "product_rates": {}, "first_call": {}}
    contrastive = {"benchmark": "contrastive", "unit": "gpu", "settings": {"dim": 512, "scale": 14.3, "gate_batch": 8}}
    contrastive |= {"timings": [timing | {"skipped": {}}], "memory": [], "equality": [], "skipped": {}}
    head = {
        "benchmark": "logps",
        "unit": "gpu",
        "settings": {**bars.targets.LOGPS_GPU_SIZE, "rounds": 5, "dtype": "bf16"},
    }
    head |= {"gpu": {"margin sweep": spread(figures["head"])}, "memory": {}, "ratio": {}, "skipped": {}, "rounds": []}
    head |= {"machine": known, "others": 0.0, "bars": []}
    verdict = {"benchmark": "gate", "rows": [], "skipped": {}, "held": {"fp32": True, "fp16": False, "bf16": True}}
    results = {"machine": {"benchmark": "machine", "rows": rows, "machine": known, "skipped": {}}, "gate": verdict}
    results |= {"infonce": contrastive, "head": head}
    told = {"what": "a stop", "predicted": 1.0, "seconds": 1.0, "how": "nothing", "status": "done", "told": ""}
    found = [told | {"name": name, "result": result} for name, result in results.items()]
    return {"benchmark": "gpu", "dry": False, "complete": True, "wheels": [], "stops": found}


def test_bars_in_seconds_are_scaled_to_what_the_gpu_reaches_and_tell_the_share_of_the_floor():
    found = {row["claim"]: row for row in bars.judged(measured_run())}
    infonce = found["b = 65,536: fused bf16, forward and backward"]
    assert (infonce["limit"], infonce["best"], infonce["held"]) == (pytest.approx(0.072), pytest.approx(0.056), True)
    assert infonce["share"] == pytest.approx(4 * 2 * 65_536**2 * 512 / (bars.SET_FOR / 2) / 0.060)
    sweep = found["margin sweep, T = 8,192, H = 4,096, V = 128,256"]
    assert (sweep["held"], sweep["limit"]) == (True, pytest.approx(0.104))
    assert not next(r for r in bars.judged(measured_run(infonce=0.073)) if r["claim"] == infonce["claim"])["held"]
    assert {row["held"] for row in bars.judged({"stops": []})} == {None}


def test_what_is_furthest_from_its_floor_is_profiled():
    assert bars.furthest(measured_run()) == "infonce"
    assert bars.furthest(measured_run(head=0.8)) == "head"
    assert bars.furthest({"stops": []}) == "infonce"


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "book" / "results").mkdir(parents=True)
    (tmp_path / "README.md").write_text(f"they are {page.BEGIN}\nold {page.END}\nafter")
    return tmp_path


def test_without_a_record_nothing_is_claimed(repository):
    page.main(repository, repository / "held_on.json")
    text = (repository / "book" / "results" / "on_a_gpu.md").read_text()
    assert "No GPU has run it: every figure above is not measured yet." in text
    assert text.count("not measured yet") == len(bars.judged({"stops": []})) + 1
    assert read(repository / "held_on.json") == {}
    assert "have not run on a GPU yet, so `auto` picks tiled." in (repository / "README.md").read_text()


def test_records_make_the_page_the_sentence_of_the_readme_and_the_choice_of_auto(repository):
    results = repository / "book" / "results"
    for name, infonce in (("on_a_gpu_1.json", 0.060), ("on_a_gpu_2.json", 0.058)):
        (results / name).write_text(json.dumps(measured_run(infonce=infonce)))
    (results / "on_a_gpu_notes.txt").write_text("Tiles of 128 x 256: 2 ms predicted, 1 ms measured.\n")
    page.main(repository, repository / "held_on.json")
    text, readme = (results / "on_a_gpu.md").read_text(), (repository / "README.md").read_text()
    assert "| claim | at most | at best | 1 | 2 |" in text
    assert "60.0 ms, yes, 74% of floor | 58.0 ms, yes, 77% of floor" in text
    assert "Tiles of 128 x 256: 2 ms predicted" in text
    assert "GPU: GPU of 2030" in text
    proven = {"GPU of 2030": {"dtypes": ["float32", "bfloat16"], "record": "on_a_gpu_2.json"}}
    assert read(repository / "held_on.json") == proven
    assert "exact against fp64 on GPU of 2030 (float32, bfloat16)" in readme
    assert "old" not in readme
    assert readme.endswith(f"{page.END}\nafter")


def test_a_dry_run_is_no_record(repository):
    (repository / "book" / "results" / "on_a_gpu_1.json").write_text(json.dumps(measured_run() | {"dry": True}))
    refused(ValueError, "on_a_gpu_1.json is of a dry run", lambda: page.main(repository, repository / "held_on.json"))


def test_the_page_the_readme_and_the_choice_of_auto_are_those_of_the_committed_records():
    records, results = page.read(), page.ROOT / "book" / "results"
    notes = results / "on_a_gpu_notes.txt"
    made = page.of_book(records, notes.read_text() if notes.exists() else "")
    assert (results / "on_a_gpu.md").read_text() == made, "run python -m minilib.bench.gpu.page"
    assert json.loads(kernels.HELD_ON.read_text()) == page.held(records)
    readme = (page.ROOT / "README.md").read_text()
    assert page.told(readme, page.held(records)) == readme


@pytest.fixture
def proven(monkeypatch):
    known = {"GPU of 2030": {"dtypes": ["bfloat16"], "record": "on_a_gpu_1.json"}}
    monkeypatch.setattr(kernels, "gate_of", known.get)
    monkeypatch.setattr("minilib.cli.doctor.gate_of", known.get)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return partial(monkeypatch.setattr, torch.cuda, "get_device_name")


def on_a_gpu(dtype):
    return types.SimpleNamespace(is_cuda=True, device="cuda:0", dtype=dtype)


def test_auto_is_fused_where_the_gate_has_held_on_this_kind_of_gpu_and_in_this_dtype(proven):
    proven(lambda *device: "GPU of 2030")
    assert resolve_backend("auto", operand=on_a_gpu(torch.bfloat16)) == "fused"
    assert resolve_backend("auto", operand=on_a_gpu(torch.float32)) == "tiled"
    assert resolve_backend("ring", operand=on_a_gpu(torch.bfloat16)) == "tiled"
    assert resolve_backend("dense", operand=on_a_gpu(torch.bfloat16)) == "dense"
    assert resolve_backend("auto") == resolve_backend("auto", operand=torch.zeros(1)) == "tiled"
    proven(lambda *device: "GPU of 2020")
    assert resolve_backend("auto", operand=on_a_gpu(torch.bfloat16)) == "tiled"


def test_the_doctor_says_which_backend_auto_picks_on_a_gpu_and_why(proven, monkeypatch):
    monkeypatch.setattr("minilib.cli.doctor.comm_backend", lambda: "gloo")
    monkeypatch.setattr("minilib.cli.doctor.machine_lines", lambda: [])
    proven(lambda *device: "GPU of 2030")
    told = next(line for line in diagnosis() if line.startswith("backends"))
    assert "auto picks fused in bfloat16 and else tiled on this GPU of 2030" in told
    assert "book/results/on_a_gpu_1.json" in told
    proven(lambda *device: "GPU of 2020")
    told = next(line for line in diagnosis() if line.startswith("backends"))
    assert "auto picks tiled, as no gate of the fused kernels has held on a GPU of 2020 yet" in told
