"""How we time: interleaved rounds in one process of its own, ratios taken round by round.

    ratio(A) = median over rounds k of  t_k(A) / t_k(base)

where
    t_k   CPU seconds of one call in round k, or on a GPU seconds between two events (`device`); a round calls every
          method once, in the same order, on the same numbers: what slows the machine slows the base as well

Every method is called once untimed first: allocators, thread pools and compilers warm up there. CPU seconds count all
threads and forgive neighbours on the machine, but only if waiting threads sleep instead of spinning (OMP_WAIT_POLICY);
that is decided before torch is imported, so a run has a process of its own.
"""

import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from minilib.common import write_text
from minilib.teaching.memory import measure_peak

Document = dict[str, Any]


class UnavailableError(Exception):
    """A method cannot run here; the message is one sentence with the reason and the fix."""


class Method(NamedTuple):
    """One way to compute a loss and its gradients: what it is called with, what it costs, how exact it is."""

    name: str
    step: Callable[[Any], Tensor]  # one forward and backward pass; returns the loss, leaves gradients in `.grad`
    products: float | None  # b x b x d matmuls (n x V x d for a vocabulary)
    matrices: float  # such fp32 matrices held at the peak: what would not fit is not run
    loss: str = "clip"
    tolerance: float = 1e-5  # relative norm of the error that it may have
    missing: tuple[str, ...] = ()  # inputs whose gradients it does not make
    dtype: torch.dtype = torch.float32  # of the features that it is given
    multiple: int = 1  # the width must be a multiple of it

    @property
    def gradients(self) -> int:  # of the features: 2, 1 with a frozen side, 0 for a forward pass alone
        return 2 - ("img" in self.missing) - ("txt" in self.missing)

    @property
    def floor(self) -> int:  # the fewest matmuls in which O(b) memory gives the same contrastive loss and gradients
        return 1 + self.gradients + (self.loss == "clip" and self.gradients > 0)

    @property
    def frozen(self) -> bool:  # the head of a language model
        return "weight" in self.missing


class Sample(NamedTuple):
    """One timed call."""

    spent: float  # CPU seconds of all threads, or seconds of the GPU
    wall: float
    peak: int | None = None  # bytes that the call added at its highest point, where the clock can read it


class Round(NamedTuple):
    """One call of every method, and the CPU seconds that this process (`own`) and all `others` used meanwhile."""

    samples: dict[str, Sample]
    others: float
    own: float = 0.0
    failed: dict[str, str] = {}  # noqa: RUF012, never written to: a sentence for every method that raised an error


Clock = Callable[[Callable[[], Any]], Sample]
Steps = dict[str, Callable[[Any], Any]]
Draw = Callable[[int], Callable[[str], Any]]  # the inputs of round k, a function of the method's name


def available(builders: dict[str, Callable[[], Method]]) -> tuple[list[Method], dict[str, str]]:
    """The methods that can be built here, and for each of the others a sentence that says why not."""
    found, skipped = [], {}
    for name, build in builders.items():  # a peer that is missing leaves its sentence, and the others go on
        try:
            found.append(build())
        except UnavailableError as reason:
            skipped[name] = str(reason)
    return found, skipped


def require(module: str, sentence: str) -> None:
    """UnavailableError of one sentence, the command that installs it, where a package is missing."""
    if importlib.util.find_spec(module) is None:
        raise UnavailableError(sentence)


def split(methods: list[Method], complain: Callable[[Method], str]) -> tuple[list[Method], dict[str, str]]:
    """The methods about which there is nothing to complain, and a sentence for each of the others."""
    sentences = {method.name: complain(method) for method in methods}
    return [m for m in methods if not sentences[m.name]], {name: why for name, why in sentences.items() if why}


def too_large(need: float, free: int, end: str) -> str:
    """A sentence where `need` bytes are more than nine tenths of the free ones, else nothing."""
    return f"it needs about {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free{end}" if need > 0.9 * free else ""


def settings_of(defaults: dict[str, Any], asked: dict[str, Any], quick: dict[str, Any] | None) -> dict[str, Any]:
    """The defaults, what was asked for (None: nothing), one thread for each usable core; `quick` outdoes all."""
    asked = {name: value for name, value in asked.items() if value is not None}
    return defaults | {"threads": usable_cores()} | asked | (quick or {})


def validate_at_least_one(settings: dict[str, Any], *names: str) -> None:
    for name in names:
        if settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}: give a whole number of at least 1.")


def usable_cores() -> int:
    """Cores that this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quiet_environment(threads: int) -> dict[str, str]:
    """Environment variables of a measuring process: fixed threads that sleep while they wait (GNU and LLVM OpenMP)."""
    sleep = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **sleep}


def run_apart(module: str, settings: dict[str, Any], output: Path) -> Document:
    """Run `module.measure(settings, output)` in a fresh, quiet process; return the document that it wrote to `output`.

    RuntimeError of one sentence when it fails.
    """
    with tempfile.TemporaryDirectory() as cache:  # compiled code of earlier runs would hide the time to compile
        environment = os.environ | quiet_environment(settings["threads"])
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment["TORCHINDUCTOR_CACHE_DIR"] = cache
        environment["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"  # dense matrices must not break up memory
        command = [sys.executable, "-m", "minilib.bench", module, json.dumps(settings), str(output)]
        # A session of its own: Ctrl-C reaches this process only, which passes it on exactly once.
        child = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            status = child.wait()
        except KeyboardInterrupt:
            child.terminate() if os.name == "nt" else child.send_signal(signal.SIGINT)  # Windows sends none to a child
            status = child.wait()
        finally:
            child.kill()  # without effect on a process that has ended
    if status == 2:
        sys.exit(2)  # it has said what is wrong
    if status not in (0, 130):
        raise RuntimeError(f"the measuring process ended with status {status}: its message stands above.")
    return json.loads(Path(output).read_text(encoding="utf-8"))


def opened(name: str, settings: dict[str, Any], at: Any) -> Document:
    """A document without figures; torch gets its threads."""
    torch.set_num_threads(settings["threads"])
    document = {"benchmark": name, "settings": settings, "unit": at.unit, "machine": at.describe()}
    return document | {"error": {}, "skipped": {}}


def finish(document: Document, output: str | Path | None, text: str = "") -> Document:
    """Write the document to its file, whole at any moment, and print `text`; without a file, neither."""
    if output is not None:
        write_text(Path(output), json.dumps(document, indent=1))
        print(text, end="\n" if text else "", flush=True)
    return document


def clock(call: Callable[[], Any]) -> Sample:
    """Time one call in CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Sample(time.process_time() - cpu, time.perf_counter() - wall)


def one_round(steps: Steps, inputs: Callable[[str], Any], number: int, bar: tqdm, clock: Clock = clock) -> Round:
    """Call every method once, in order, each on its own fresh inputs, made outside the clock; round 0 warms up."""
    samples, failed = {}, {}
    busy, own = _busy_seconds(), time.process_time()
    for name, step in steps.items():
        bar.set_postfix_str(f"round {number}: {name}" if number else f"warm-up: {name}")
        try:
            fresh = inputs(name)
            samples[name] = clock(lambda step=step, fresh=fresh: step(fresh))
        except Exception as error:  # a peer may fail in any way, memory may run out in any round: the others go on
            failed[name] = f"{f'round {number}' if number else 'its first call'} failed ({describe(error)})."
        bar.update()
    own = time.process_time() - own
    return Round(samples, max(0.0, _busy_seconds() - busy - own), own, failed)


def interleave(steps: Steps, draw: Draw, count: int, clock: Clock = clock, title: str = "") -> Iterator[Round]:
    """The warm-up, then `count` rounds; what fails is taken out of `steps`, and so may the caller do."""
    with tqdm(total=len(steps) * (count + 1), desc=title, unit="call", leave=False, disable=None) as bar:
        for number in range(count + 1):
            this = one_round(steps, draw(number), number, bar, clock)
            for name in this.failed:
                del steps[name]  # it would fail again and cost the time of the others
            yield this


def run_bench(
    document: Document, steps: Steps, base: dict[str, str], draw: Draw, clock: Clock = clock,
    wrong: Callable[[], dict[str, str]] = dict,
) -> None:  # fmt: skip
    """Time `steps`; medians and spreads, ratios to `base` and every raw sample go to the document.

    What fails leaves a sentence under "skipped", as does what `wrong()` names once every method has been called.
    """
    done = []
    for this in interleave(steps, draw, document["settings"]["rounds"], clock, document["benchmark"]):
        document["skipped"] |= this.failed
        done.append(this)
        for name, sentence in (wrong() if len(done) == 1 else {}).items():
            document["skipped"][name] = sentence
            del steps[name]
    done, samples = done[1:], {name: [r.samples[name] for r in done[1:]] for name in steps}
    document |= {
        document["unit"]: {name: spread([s.spent for s in found]) for name, found in samples.items()},
        "wall": {name: spread([s.wall for s in found]) for name, found in samples.items()},
        "ratio": {name: spread(ratios(done, name, base[name])) for name in steps},
        "rounds": [{name: sample._asdict() for name, sample in r.samples.items()} for r in done],
        "others": share_of_others(done),
    }


def peaks(rounds: list[dict[str, Any]], names) -> dict[str, int]:
    """Peak extra bytes that a GPU's clock has read: medians over the rounds."""
    return {name: int(statistics.median(r[name]["peak"] for r in rounds)) for name in names}


def peaks_of(document: Document, setup: Callable[[str], str], call: str) -> dict[str, int]:
    """Peak extra bytes of one call of every timed method: those of a GPU's rounds, or each in a process of its own.

    Such a process runs `setup(name)` first; none is started where the settings do not ask for memory.
    """
    if document["unit"] == "gpu":
        return peaks(document["rounds"], document["gpu"])
    todo, threads = document["cpu"] if document["settings"]["memory"] else (), document["settings"]["threads"]
    bar = tqdm(todo, desc="memory", unit="process", leave=False, disable=None)
    return {name: measure_peak(setup(name), call, threads=threads) for name in bar}


def ratios(rounds: list[Round], name: str, base: str | None) -> list[float]:
    """Seconds that `name` spends over those of `base`, one value per round; empty when either was not timed."""
    both = [r.samples for r in rounds if {name, base} <= r.samples.keys()]
    return [samples[name].spent / samples[base].spent for samples in both]


def spread(values: list[float]) -> dict[str, float] | None:
    """Median, smallest and largest value; None when there is none."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)} if values else None


def share_of_others(done: list[Round]) -> float:  # of the CPU time during the rounds
    own, others = sum(r.own for r in done), sum(r.others for r in done)
    return others / (own + others) if own + others else 0.0


def describe(error: BaseException) -> str:
    """An error's type and the first line of its message, for a sentence."""
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _busy_seconds() -> float:
    # CPU seconds that the whole machine has worked since it started; guests are in `user` already.
    if importlib.util.find_spec("psutil") is None:  # a machine with a GPU may have little but torch
        return 0.0
    import psutil

    times = psutil.cpu_times()
    return sum(times) - times.idle - sum(getattr(times, kind, 0.0) for kind in ("iowait", "guest", "guest_nice"))
