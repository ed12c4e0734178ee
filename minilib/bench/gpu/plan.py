"""The stops of a run on a GPU, in the order of their worth, with what each costs: `plan.yaml` as Python reads it.

    predicted = context of CUDA + kernels compiled + tuning + calls at half of torch.mm's rate + slack, in seconds

A stop whose prediction is longer than what is left of the budget is left out. A dry run walks the same stops on a CPU,
small, its kernels in Triton's interpreter, which takes fp16 and no bf16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

RESERVE = 15.0  # seconds of the budget for starting and for writing


class Stop(NamedTuple):
    """One measurement: `module.measure(settings, output)` in a process of its own."""

    name: str
    what: str
    module: str
    seconds: float  # predicted on an H100, everything counted
    how: str  # what the prediction is made of
    settings: dict[str, Any]
    dry: dict[str, Any]


STOPS = tuple(
    Stop(**stop) for stop in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))["stops"]
)


def settings_of(stop: Stop, seed: int, dry: bool) -> dict[str, Any]:
    """What `measure` is given: fresh numbers by the seed; at toy sizes on a CPU in a dry run."""
    common = {"device": "dry" if dry else "cuda", "threads": 1 if dry else 8, "seed": seed}
    return common | stop.settings | (stop.dry if dry else {})


def too_late(stop: Stop, left: float) -> str | None:
    """A sentence for a stop that does not fit into the seconds that are left."""
    return None if stop.seconds <= left else f"it needs about {stop.seconds:.0f} s and {max(left, 0):.0f} s were left."


def limit(stop: Stop, left: float) -> float:
    """The seconds after which a stop is ended: well beyond its prediction, never beyond what is left."""
    return min(left, 2 * stop.seconds + 20)
