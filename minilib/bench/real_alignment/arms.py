"""What is compared on the real model; the arms stand in `arms.yaml`, in the order in which they run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Arm(NamedTuple):
    """One way to train, or with loss None not to; `pairs` is a share of the campaign's, `options` go to LogoConfig."""

    name: str
    loss: str | None
    options: dict[str, Any] = {}  # noqa: RUF012, never written to
    target: bool = False
    pairs: float = 1
    neighbour: str | None = None

    def under(self, seed: int) -> str:
        """The name of this arm's run in folders and files."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_") + f"-{seed}"


_READ = yaml.safe_load(Path(__file__).with_name("arms.yaml").read_text(encoding="utf-8"))
ARMS = {name: Arm(name, **fields) for name, fields in _READ.items()}
THREE_SEEDS = ("base", "SFT", "SFT, stretched positions", "SimPO, M = 1", "LOGO")  # which run under all seeds first


def named(names: list[str] | None) -> list[Arm]:
    """The arms of these names and the base, all by default; ValueError for a name that is unknown."""
    for name in names or ():
        if name not in ARMS:
            raise ValueError(f"arms holds {name!r}: choose among {', '.join(map(repr, ARMS))}.")
    return [arm for name, arm in ARMS.items() if names is None or name in names or name == "base"]


def in_order(arms: list[Arm], seeds: tuple[int, ...]) -> list[tuple[Arm, int]]:
    """One seed of every arm, then the five arms that matter most under the other seeds, then all others."""
    first = [(arm, seeds[0]) for arm in arms]
    later = [(arm, seed) for seed in seeds[1:] for arm in arms]
    return first + sorted(later, key=lambda job: job[0].name not in THREE_SEEDS)
