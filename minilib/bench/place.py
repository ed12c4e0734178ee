"""Where a run measures: what tells a CPU from a card, and nothing else does.

The rounds, the gate, the ratios and the bars are the same in both places. A place brings its clock, its free memory, a
matrix product that shows what it can reach, and whether its clock reads peaks of memory too. A test brings a place of
its own, in which a card's run is gone through without one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from minilib.bench import harness, machine
from minilib.bench.harness import Clock

DEVICES = ("auto", "cpu", "cuda")


class Place(NamedTuple):
    """A device, its clock, and what it can hold and reach."""

    device: str  # as torch names it
    unit: str  # what the clock counts: "cpu" for CPU seconds, "card" for seconds of the card
    clock: Clock
    free_bytes: Callable[[], int]
    product_step: Callable[[int, int, torch.dtype], tuple[Callable[[Any], None], int]]
    card: dict[str, Any] | None = None  # the card in words


def on_cpu() -> Place:
    """This machine's CPU."""
    return Place("cpu", "cpu", harness.clock, machine.available_bytes, machine.product_step)


def chosen(device: str) -> str:
    """The device that "auto" stands for; ValueError of one sentence for a device that is not there."""
    if device not in DEVICES:
        raise ValueError(f"device is {device!r}: choose one of {', '.join(map(repr, DEVICES))}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda' and torch finds no CUDA card here: choose 'cpu', or 'auto'.")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def named(device: str) -> Place:
    """The place behind "cpu" or "cuda"."""
    if device == "cpu":
        return on_cpu()
    from minilib.bench import card

    return card.on_card()
