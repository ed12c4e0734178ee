"""The bench of a training step times methods that compute the same loss and gradients, and judges its bars rightly.

All runs here are of a toy Llama or of a short prompt, on a CPU; a stand-in with a clock that reads peaks takes the
place of a GPU. No figure of these runs means anything; only their arithmetic is tested.
"""

import json
import statistics

import pytest
import torch
from support.reference import refused

from minilib.bench import device, harness, report, step, step_models, targets
from minilib.bench import step_methods as ways
from minilib.bench.device import Device
from minilib.bench.step_methods import CONCATENATED, SHARED, TRL, Bench, Way

SETTINGS = step_models.Size(96, 8, 768, rounds=3)._asdict()
SETTINGS |= {"model": "toy", "rejected": [1, 2, 3, 8], "threads": 1, "memory": False}
GPU = {"name": "stand-in", "memory_bytes": 10**11, "capability": "9.0", "multiprocessors": 132, "cuda": "13"}
FREE = 50 * 10**9
needs_trl = pytest.mark.skipif(
    ways.available([1])[0][0].kind != TRL, reason="trl is not installed, so its step is not compared"
)


def stand_in():
    counted = iter(range(10**9, 10**12, 10**6))
    clock = lambda call: harness.clock(call)._replace(peak=next(counted))  # noqa: E731
    return Device("cpu", "gpu", clock, lambda: FREE, device.product_step, GPU)


@pytest.fixture(autouse=True)
def _toy_has_a_size(monkeypatch):
    monkeypatch.setitem(step_models.SIZES, "toy", step_models.SIZES["tiny"])


# The gate


@needs_trl
@pytest.mark.parametrize("checkpointing", [False, True])
def test_shared_concatenated_and_trl_have_one_loss_and_one_gradient(checkpointing):
    errors, complaints = ways.gate("auto", "cpu", checkpointing, with_trl=True)
    assert set(errors) == {f"{SHARED}, M = 1", f"{SHARED}, M = 3", f"{TRL}, M = 1"}
    assert max(errors.values()) < 1e-5
    assert complaints == {}


def test_the_gate_compares_gradients_that_are_there():
    bench = Bench(step_models.build("toy"))
    row = ways.make_row(bench.vocab, **ways.GATE, count=2, uneven=True)
    gradients = bench.outcome(Way(SHARED, 1), bench.batch(Way(SHARED, 1), row))[1:]
    assert len(gradients) == 2 * 4 * 2  # layers, projections, factors of LoRA
    assert all(gradient.norm() > 0 for gradient in gradients)
    assert [len(answer) for answer in row.answers] == [12, 11]


@pytest.mark.parametrize("mistake", ["loss", "failure"])
def test_a_way_that_is_wrong_or_breaks_is_named_and_not_timed(mistake, monkeypatch):
    def wrong(self, method, batch, right=Bench.loss):
        if method.kind == SHARED and mistake == "failure":
            raise RuntimeError("no kernel for this\nshape")
        return right(self, method, batch) * (1.001 if method.kind == SHARED else 1.0)

    monkeypatch.setattr(Bench, "loss", wrong)
    document = step.measure(SETTINGS | {"rejected": [2], "rounds": 1})
    words = {"loss": "differ by 1.0e-03 (M = 3), so", "failure": "it failed (RuntimeError: no kernel for this), so"}
    assert words[mistake] in document["skipped"]["shared, M = 2"]
    assert list(document["cpu"]) == ["concatenated, M = 2"]


def test_answers_that_see_each_other_are_noticed(monkeypatch):
    """A mask that hides nothing but the future is the mistake that a shared prompt invites."""
    blind = lambda segments, start=0: torch.ones(1, 1, segments.shape[1], segments.shape[1]).tril().bool()[:, :, start:]  # noqa: E731
    monkeypatch.setattr("minilib.longcontext.shared_prefix.dense_mask", blind)
    assert SHARED in ways.gate("auto", "cpu", False, with_trl=False)[1]


def test_losses_that_part_at_full_size_are_noticed():
    by_name = {m.name: m for m in (Way(SHARED, 2), Way(CONCATENATED, 2), Way(TRL, 1))}
    losses = {"shared, M = 2": 3.1, "concatenated, M = 2": 3.0, "TRL CPOTrainer, M = 1": 9.0}
    found = step._disagreeing(losses, by_name, 1e-2)
    assert found == {"shared, M = 2": "its loss is 3.1000 where full sequences give 3.0000, so it was not timed."}
    assert step._disagreeing(losses, by_name, 5e-2) == {}
    assert step._disagreeing(losses | {"shared, M = 2": float("nan")}, by_name, 5e-2)


# A step


def test_a_step_leaves_the_weights_as_they_are_and_no_gradient_behind():
    bench = Bench(step_models.build("toy"))
    before = [parameter.clone() for parameter in bench.trained]
    row = ways.make_row(bench.vocab, **ways.GATE, count=3)
    first, second = (bench.step(Way(SHARED, 2), bench.batch(Way(SHARED, 2), row)) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(now, then) for now, then in zip(bench.trained, before))
    assert all(parameter.grad is None for parameter in bench.trained)
    assert all(bench.optimizer.state[parameter]["exp_avg"].norm() > 0 for parameter in bench.trained)


def test_only_the_shared_prompt_on_a_gpu_goes_through_flexattention(monkeypatch):
    bench, asked = Bench(step_models.build("toy"), "flex"), []
    monkeypatch.setattr(
        type(bench.model.get_base_model()), "set_attn_implementation", lambda _, name: asked.append(name)
    )
    row = ways.make_row(bench.vocab, **ways.GATE, count=2)
    for method in (Way(CONCATENATED, 1), Way(SHARED, 1)):
        with pytest.raises(ValueError, match="flex") if method.kind == SHARED else torch.enable_grad():
            bench.loss(method, bench.batch(method, row))
    assert asked == ["sdpa", "flex_attention"]


def test_prompts_are_stretched_and_longer_lists_of_answers_begin_with_the_shorter():
    row = ways.make_row(100, 100, 8, 768, count=9)
    assert len(row.positions) == 100
    assert 400 < int(row.positions[-1]) < 768 - 8
    bench = Bench(step_models.build("toy"))
    few, many = (bench.batch(Way(SHARED, count), row) for count in (1, 8))
    assert torch.equal(few.labels, many.labels[:16])
    assert [Way(way, 2).tokens(100, 8) for way in (SHARED, CONCATENATED)] == [124, 324]


# A run


@needs_trl
def test_ratios_and_tokens_are_those_of_the_samples():
    document = step.measure(SETTINGS)
    assert len(document["cpu"]) == 9
    rounds = document["rounds"]
    expected = statistics.median(r["shared, M = 2"]["spent"] / r["concatenated, M = 2"]["spent"] for r in rounds)
    assert len(rounds) == 3
    assert document["ratio"]["shared, M = 2"]["median"] == pytest.approx(expected)
    assert document["ratio"]["concatenated, M = 8"]["median"] == 1
    assert document["tokens"]["TRL CPOTrainer, M = 1"] == document["tokens"]["concatenated, M = 1"] == 208
    assert document["loss"]["shared, M = 3"] == pytest.approx(document["loss"]["concatenated, M = 3"], rel=1e-4)
    printed = report.step(document, report.plain)
    assert all(name in printed for name in document["cpu"])
    assert "| shared, M = 8 |" in report.step(document)


def test_a_gpu_is_read_in_the_rounds_and_what_it_leaves_free_is_told():
    document = step.measure(SETTINGS | {"rejected": [2], "checkpointing": True}, at=stand_in())
    peaks = [r["shared, M = 2"]["peak"] for r in document["rounds"]]
    assert document["unit"] == "gpu"
    assert document["peak"]["shared, M = 2"] == statistics.median(peaks)
    assert document["spare"]["shared, M = 2"] == FREE - statistics.median(peaks)
    printed = report.step(document, report.plain)
    assert all(word in printed for word in ("left free", "GPU s", "GPU: stand-in"))


def test_peak_memory_is_measured_in_a_process_of_its_own():
    tiny = step_models.SIZES["tiny"]._asdict() | step.QUICK | {"model": "tiny", "rejected": [1], "threads": 1}
    document = {"unit": "cpu", "cpu": ["shared, M = 1"], "settings": tiny | {"memory": True}}
    peaks = harness.peaks_of(document, lambda name: step.setup(Way(SHARED, 1), tiny), step.CALL)
    assert list(peaks) == ["shared, M = 1"]
    assert 10**5 < peaks["shared, M = 1"] < 10**8


# The bars


def made_up(model, ratio=0.4, peaks=(10, 14), spare=31e9, **settings):
    return {
        "settings": step_models.SIZES[model]._asdict() | {"model": model} | settings,
        "ratio": {"shared, M = 2": {"median": ratio}},
        "peak": dict(zip(("shared, M = 1", "shared, M = 8"), peaks)),
        "spare": {"shared, M = 8": spare},
    }


@pytest.mark.parametrize(
    ("document", "held"),
    [
        (made_up("tiny"), [True, True]),
        (made_up("tiny", ratio=0.51), [False, True]),
        (made_up("tiny", peaks=(10, 15.1)), [True, False]),
        (made_up("tiny", peaks=()), [True, None]),
        (made_up("tiny", prompt=64), [None, None]),
        (made_up("8b", ratio=1 / 2.31), [True, True]),
        (made_up("8b", ratio=1 / 2.29), [False, True]),
        (made_up("8b", spare=29e9), [True, False]),
        (made_up("100m"), []),
    ],
)
def test_bars_are_judged_by_their_sense_and_at_their_own_size(document, held):
    assert [bar["held"] for bar in targets.step(document, step.at_size(document["settings"]))] == held


# The command


def test_the_8b_model_has_the_shape_of_llama_3():
    with torch.device("meta"):
        model = step_models.random_llama(step_models.SHAPES["8b"], 65_536, "meta", "bfloat16")
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_030_261_248
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.max_position_embeddings == 65_536


def test_the_model_is_chosen_by_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert step_models.chosen("auto") == "tiny"
    refused(ValueError, "torch finds no CUDA GPU here: choose 'tiny' or '100m'", lambda: step.bench_step("8b"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for size, name in ((80 * 10**9, "8b"), (24 * 10**9, "tiny")):
        gpu = type("Gpu", (), {"total_memory": size})
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number, gpu=gpu: gpu)
        assert step_models.chosen("auto") == name


def test_bad_settings_are_refused():
    refused(ValueError, "model is 'large': choose one of", lambda: step.bench_step("large"))
    refused(ValueError, "prompt is 8: give at least 16 tokens", lambda: step.bench_step("tiny", prompt=8))
    refused(ValueError, "rejected is [0, 2]: give numbers", lambda: step.bench_step("tiny", rejected=[0, 2]))
    refused(ValueError, "rounds is 0", lambda: step.bench_step("tiny", rounds=0))


def test_the_command_writes_what_it_returns(tmp_path):
    path = tmp_path / "deep" / "step.json"
    document = step.bench_step("tiny", rejected=[2], quick=True, threads=1, memory=False, output=path)
    assert json.loads(path.read_text()) == document
    assert document["settings"]["prompt"] == 64
    assert [bar["held"] for bar in document["bars"]] == [None, None]
