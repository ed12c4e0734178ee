"""One training step of preference alignment, side by side in one run: its time, its memory, the loss that all agree on.

    ratio(way, M) = median over rounds of  t(way, M) / t(concatenated, M)

where
    t   seconds of hidden states, loss, backward and optimizer for one prompt with 1 + M answers: CPU seconds of all
        threads, or on a CUDA GPU seconds between two events

In this order: the gate on a toy model; a first step of every way, whose losses at full size must agree too; interleaved
rounds; peak memory. Without peft the adapters are a few lines of our own (`step_models.PlainLora`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minilib.bench import harness, report, step_models, targets
from minilib.bench import step_methods as ways
from minilib.bench.device import Device, named
from minilib.bench.step_methods import Bench, Way

QUICK = {"prompt": 64, "answer": 6, "target": 512, "rounds": 2}
CALL = "bench.step(way, batch)"
SAME_LOSS = {"float32": 1e-3, "bfloat16": 5e-2}  # relative, at full size

_SETUP = """
from minilib.bench import step
from minilib.bench.step_methods import TRL, Way
settings, way = {settings!r}, Way({kind!r}, {rejected})
bench = step.make_bench(settings, with_trl=way.kind == TRL)
bench.step(way, bench.batch(way, step.make_row(settings | step.QUICK, bench)))
batch = bench.batch(way, step.make_row(settings, bench))
"""


def bench_step(
    model: str = "auto", rejected: Sequence[int] = (1, 2, 3, 8), prompt: int | None = None, answer: int | None = None,
    target: int | None = None, rounds: int | None = None, route: str | None = None, threads: int | None = None,
    memory: bool = True, quick: bool = False, output: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Time and weigh one step of LOGO with a shared prompt, with full sequences, and TRL's; return the document.

    Args:
        model: "tiny", "100m", "8b" (a CUDA GPU), or "auto": 8b on a GPU of 70 GB or more, else tiny.
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
    asked = {"prompt": prompt, "answer": answer, "target": target, "rounds": rounds, "route": route, "threads": threads}
    settings = harness.settings_of(step_models.SIZES[model]._asdict(), asked, QUICK if quick else None)
    harness.validate_at_least_one(settings, "answer", "rounds", "threads")
    if settings["prompt"] < ways.CHUNKS:
        raise ValueError(f"prompt is {settings['prompt']}: give at least {ways.CHUNKS} tokens, one for each chunk.")
    if not rejected or min(rejected) < 1:
        raise ValueError(f"rejected is {list(rejected)}: give numbers of rejected answers of at least 1, such as 2.")
    settings |= {"model": model, "rejected": sorted(set(rejected)), "memory": memory}
    return harness.run_apart("minilib.bench.step", settings, Path(output or f"runs/bench/step_{model}.json"))


def measure(settings: dict[str, Any], output: str | None = None, at: Device | None = None) -> dict[str, Any]:
    """Compare, time and weigh the ways `at` a device, by default that of the settings; the document as JSON has it."""
    at = at or named(settings["device"])
    document = harness.opened("step", settings, at) | {"adapters": step_models.adapters(settings.get("plain", False))}
    found, skipped = ways.available(settings["rejected"])
    options = (settings["route"], settings["device"], settings["checkpointing"])
    own = {"rejected": settings.get("gate_rejected", ways.GATE_REJECTED), "plain": settings.get("plain", False)}
    document["error"], complaints = ways.gate(*options, with_trl=_has_trl(found), **own)
    wrong = {w.name: f"{complaints[w.kind]}, so it was not timed." for w in found if w.kind in complaints}
    document["skipped"] = skipped | wrong
    right = {way.name: way for way in found if way.name not in wrong}
    free = _time(document, right, at)
    document["peak"] = peaks = harness.peaks_of(document, lambda name: setup(right[name], settings), CALL)
    if at.unit == "gpu":  # what is free between steps, when nothing but weights and optimizer is held, less the peak
        document["spare"] = {name: free - peak for name, peak in peaks.items()}
    document["bars"] = targets.step(document, at_size(settings))
    return harness.finish(document, output, report.step(document, report.plain))


def make_bench(settings: dict[str, Any], with_trl: bool) -> Bench:
    """The model of these settings with all that its steps need."""
    options = {name: settings[name] for name in ("device", "dtype", "checkpointing", "target")}
    options["plain"] = settings.get("plain", False)
    return Bench(step_models.build(settings["model"], **options), settings["route"], with_trl)


def make_row(settings: dict[str, Any], bench: Bench, seed: int = 0) -> ways.Row:
    """The example that all methods of one round share."""
    sizes = {name: settings[name] for name in ("prompt", "answer", "target")}
    return ways.make_row(bench.vocab, **sizes, count=1 + max(settings["rejected"]), seed=seed)


def setup(way: Way, settings: dict[str, Any]) -> str:
    """What a process runs before it is asked for the peak of one step of this way."""
    return _SETUP.format(settings=settings, kind=way.kind, rejected=way.rejected)


def at_size(settings: dict[str, Any]) -> bool:
    """Whether a run had the size that the targets of its model are set for."""
    own = step_models.SIZES.get(settings["model"])
    return own is not None and all(settings[name] == getattr(own, name) for name in ("prompt", "answer", "target"))


def _has_trl(found) -> bool:
    return any(way.kind == ways.TRL for way in found)


def _time(document: dict[str, Any], right: dict[str, Way], at: Device) -> int:
    """Rounds of all ways, with the tokens that they read and their first losses; returns the bytes that are free."""
    settings, losses, first = document["settings"], {}, {}
    bench = make_bench(settings, with_trl=_has_trl(right.values()))

    def draw(number: int):
        row = make_row(settings, bench, seed=settings.get("seed", 0) + number)
        return lambda name: bench.batch(right[name], row)

    def wrong() -> dict[str, str]:  # all losses of the warm-up are there: those that differ at full size go no further
        first.update({name: loss.item() for name, loss in losses.items()}, free=at.free_bytes())
        return _disagreeing({name: first[name] for name in losses}, right, SAME_LOSS[settings["dtype"]])

    steps = {n: lambda batch, n=n: losses.update({n: bench.step(right[n], batch)}) for n in right}
    harness.run_bench(document, steps, {name: way.base for name, way in right.items()}, draw, at.clock, wrong)
    tokens = {name: right[name].tokens(settings["prompt"], settings["answer"]) for name in steps}
    document |= {"tokens": tokens, "loss": {name: first[name] for name in steps}}
    return first["free"]


def _disagreeing(losses: dict[str, float], by_name: dict[str, Way], most: float) -> dict[str, str]:
    """A sentence for every shared step whose loss is not that of the full sequences."""
    found = {}
    for name, loss in losses.items():
        true = losses.get(by_name[name].base)
        # TRL's positions are plain, so its loss is another one here.
        if by_name[name].kind == ways.SHARED and true is not None and not abs(loss - true) <= most * abs(true):
            found[name] = f"its loss is {loss:.4f} where full sequences give {true:.4f}, so it was not timed."
    return found
