"""One training step of preference alignment, side by side in one run: its time, its memory, the loss that all agree on.

    ratio(way, M) = median over rounds of  t(way, M) / t(concatenated, M)

where
    t   seconds of hidden states, loss, backward and optimizer for one prompt with 1 + M answers: CPU seconds of all
        threads, or on a CUDA card seconds between two events

In this order: the gate on a toy model; a first step of every method, whose losses at full size must agree too;
interleaved rounds; peak memory, on a CPU in processes of their own, on a card read by the allocator in every timed
step. The ways are in `step_methods`, the models in `step_models`, the bars in `step_bars`. `bench_step` measures in a
fresh process, in the environment of `harness.quiet_environment`. The 8b model has not run on a card yet; the same code
has been gone through on a stand-in.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minilib.bench import harness, machine, place, step_bars, step_models, tables
from minilib.bench import step_methods as ways
from minilib.bench.place import Place
from minilib.bench.step_methods import Bench, Method
from minilib.teaching.memory import measure_peak

QUICK = {"prompt": 64, "answer": 6, "target": 512, "rounds": 2}
SAME_LOSS = {"float32": 1e-3, "bfloat16": 5e-2}  # relative, at full size

_SETUP = """
import json
from minilib.bench import step
from minilib.bench.step_methods import TRL, Method
settings, method = json.loads({settings!r}), Method({way!r}, {rejected})
bench = step.make_bench(settings, with_trl=method.way == TRL)
bench.step(method, bench.batch(method, step.make_row(settings | step.QUICK, bench)))
batch = bench.batch(method, step.make_row(settings, bench))
"""


def bench_step(
    model: str = "auto",
    rejected: Sequence[int] = (1, 2, 3, 8),
    prompt: int | None = None,
    answer: int | None = None,
    target: int | None = None,
    rounds: int | None = None,
    route: str | None = None,
    threads: int | None = None,
    memory: bool = True,
    quick: bool = False,
    output: Path | None = None,
) -> dict[str, Any]:
    """Time and weigh one step of LOGO with a shared prompt, with full sequences, and TRL's; return the document.

    Args:
        model: "tiny", "100m", "8b" (a CUDA card), or "auto": 8b on a card of 70 GB or more, else tiny.
        rejected: numbers M of rejected answers; TRL takes part at M = 1.
        prompt: tokens of the prompt, at least 16; by default the model's own, as the next four.
        answer: tokens of each answer.
        target: the length that the positions reach.
        rounds: timed steps of each method; one more warms it up.
        route: how the prompt is shared, see `minilib.longcontext.answer_hidden`.
        threads: threads to compute with; by default one for each usable core.
        memory: whether a run on a CPU measures peak extra memory too, in processes of their own.
        quick: a short prompt and two rounds, to see that everything runs; its figures judge nothing.
        output: JSON file to write, its folder is made; by default runs/bench/step_MODEL.json.

    Raises:
        ValueError: one sentence, when an argument does not fit. RuntimeError: when the measuring process broke.
    """
    model = step_models.chosen(model)
    asked = {"prompt": prompt, "answer": answer, "target": target, "rounds": rounds, "route": route}
    settings = step_models.SIZES[model]._asdict() | {name: value for name, value in asked.items() if value is not None}
    settings |= {"threads": harness.usable_cores() if threads is None else threads} | (QUICK if quick else {})
    harness.refuse_below_one({name: settings[name] for name in ("answer", "rounds", "threads")})
    if settings["prompt"] < ways.CHUNKS:
        raise ValueError(f"prompt is {settings['prompt']}: give at least {ways.CHUNKS} tokens, one for each chunk.")
    if not rejected or min(rejected) < 1:
        raise ValueError(f"rejected is {list(rejected)}: give numbers of rejected answers of at least 1, such as 2.")
    settings |= {"model": model, "rejected": sorted(set(rejected)), "memory": memory}
    return harness.run_apart("minilib.bench.step", settings, Path(output or f"runs/bench/step_{model}.json"))


def measure(settings: dict[str, Any], at: Place | None = None) -> dict[str, Any]:
    """Compare, time and weigh the methods; settings, machine, errors, samples, ratios, peaks and bars as a plain dict.

    `at` is where to measure, by default the place of the device in `settings`.
    """
    torch.set_num_threads(settings["threads"])
    at = at or place.named(settings["device"])
    found, skipped = ways.available(settings["rejected"])
    errors, complaints = ways.gate(settings["route"], settings["device"], settings["checkpointing"], _has_trl(found))
    for method in list(found):
        if method.way in complaints:
            skipped[method.name] = f"{complaints[method.way]}, so it was not timed."
            found.remove(method)
    bench = make_bench(settings, with_trl=_has_trl(found))
    document = {"benchmark": "step", "settings": settings, "unit": at.unit, "error": errors}
    document["machine"] = machine.describe() | ({"card": at.card} if at.card else {})
    document |= _time(found, settings, bench, at, skipped) | {"skipped": skipped}
    if at.unit == "cpu":
        document["peak"] = _memory(document["cpu"], found, settings) if settings["memory"] else {}
    return document | {"bars": step_bars.bars(document)}


def table(document: dict[str, Any]) -> str:
    """The figures and the bars as plain text."""
    return step_bars.report(document, tables.plain)


def make_bench(settings: dict[str, Any], with_trl: bool) -> Bench:
    """The model of these settings with all that its steps need."""
    options = {name: settings[name] for name in ("device", "dtype", "checkpointing", "target")}
    return Bench(step_models.build(settings["model"], **options), settings["route"], with_trl)


def make_row(settings: dict[str, Any], bench: Bench, seed: int = 0) -> ways.Row:
    """The example that all methods of one round share."""
    sizes = {name: settings[name] for name in ("prompt", "answer", "target")}
    return ways.make_row(bench.words, **sizes, count=1 + max(settings["rejected"]), seed=seed)


def _has_trl(found: list[Method]) -> bool:
    return any(method.way == ways.TRL for method in found)


def _time(found: list[Method], settings: dict[str, Any], bench: Bench, at: Place, skipped: dict[str, str]):
    by_name, losses, done = {method.name: method for method in found}, {}, []

    def step(name):
        return lambda batch: losses.update({name: bench.step(by_name[name], batch)})

    steps = {name: step(name) for name in by_name}
    with tqdm(total=len(steps) * (settings["rounds"] + 1), desc="step", unit="call", leave=False, disable=None) as bar:
        for number in range(settings["rounds"] + 1):
            row = make_row(settings, bench, seed=number)
            inputs = lambda name, row=row: bench.batch(by_name[name], row)  # noqa: E731
            if number == 0:
                failed = harness.warm_up(steps, inputs, bar, at.clock)[1]
                first, free = {name: loss.item() for name, loss in losses.items()}, at.free_bytes()
                failed |= _disagreeing(first, by_name, SAME_LOSS[settings["dtype"]])
            else:
                done.append(harness.one_round(steps, inputs, number, bar, at.clock))
                failed = done[-1].failed
            skipped |= failed
            steps = {name: step for name, step in steps.items() if name not in failed}
    return _summary(done, [by_name[name] for name in steps], settings, first, at.unit, free)


def _disagreeing(losses: dict[str, float], by_name: dict[str, Method], most: float) -> dict[str, str]:
    """A sentence for every shared step whose loss is not that of the full sequences."""
    found = {}
    for name, loss in losses.items():
        true = losses.get(by_name[name].base)
        # TRL's positions are plain, so its loss is another one here.
        if by_name[name].way == ways.SHARED and true is not None and not abs(loss - true) <= most * abs(true):
            found[name] = f"its loss is {loss:.4f} where full sequences give {true:.4f}, so it was not timed."
    return found


def _summary(
    done: list[harness.Round],
    timed: list[Method],
    settings: dict[str, Any],
    losses: dict[str, float],
    unit: str,
    free: int,
) -> dict[str, Any]:
    own, others = sum(r.own for r in done), sum(r.others for r in done)
    values = {m.name: [r.samples[m.name] for r in done] for m in timed}
    summary = {
        "tokens": {m.name: m.tokens(settings["prompt"], settings["answer"]) for m in timed},
        "loss": {m.name: losses[m.name] for m in timed},
        unit: {name: harness.spread([s.spent for s in samples]) for name, samples in values.items()},
        "wall": {name: harness.spread([s.wall for s in samples]) for name, samples in values.items()},
        "ratio": {m.name: harness.spread(harness.ratios(done, m.name, m.base)) for m in timed},
        "rounds": [{name: sample._asdict() for name, sample in r.samples.items()} for r in done],
        "others": others / (own + others) if own + others else 0.0,
    }
    if unit == "card":  # what is free between steps, when nothing but weights and optimizer is held, less the peak
        summary["peak"] = {name: int(statistics.median(s.peak for s in samples)) for name, samples in values.items()}
        summary["spare"] = {name: free - peak for name, peak in summary["peak"].items()}
    return summary


def _memory(timed: dict[str, Any], found: list[Method], settings: dict[str, Any]) -> dict[str, int]:
    """Peak extra bytes of one step of each method."""
    peaks = {}
    for method in tqdm([m for m in found if m.name in timed], desc="memory", unit="process", leave=False, disable=None):
        setup = _SETUP.format(settings=json.dumps(settings), way=method.way, rejected=method.rejected)
        peaks[method.name] = measure_peak(setup, "bench.step(method, batch)", threads=settings["threads"])
    return peaks
