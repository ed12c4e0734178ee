"""What a run measures: cells of one batch and one width, in the order of their importance, within a limit of time.

    deadline of cell k = now + (end - now) share_k / sum of the shares from k on

so that a cell that is done early leaves its time to those after it, and one that takes long takes it from them. Every
cell has one round at least. Another one starts while it fits before the deadline, judged by the last one's time; the
first `FEWEST` may go beyond it, since tuning can use up the share of a cell, but never beyond the end of the run. A
cell that could not even have its first calls in the time left is skipped with a sentence.

On a CPU there is no limit: every batch has the same number of rounds.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from minilib.bench.methods import Method

CARD_SECONDS = 510.0  # for the whole run on a card, so that starting and writing stay within ten minutes
CARD_ROUNDS, FEWEST = 20, 3
LARGEST_FOR_ALL = 65_536  # beyond it the fused methods are alone
LONG_RUN = ("fused bf16", "fused bf16, forward", "fused SigLIP bf16")
WIDE_RUN = (*LONG_RUN, "dense", "open_clip ClipLoss", "inf-cl")


class Cell(NamedTuple):
    """One batch at one width: the methods in it (None for all), its share of the time, the least that it is worth."""

    batch: int
    dim: int
    names: tuple[str, ...] | None = None
    share: float = 1.0
    least: float = 0.0  # seconds

    def chosen(self, found: list[Method]) -> list[Method]:
        """Those of `found` that this cell is for."""
        return [method for method in found if self.names is None or method.name in self.names]


CARD = (
    Cell(65_536, 512, None, share=200, least=30),  # compiles and tunes the kernels of its width
    Cell(1_048_576, 512, LONG_RUN, share=100, least=50),
    Cell(16_384, 512, None, share=40, least=15),
    Cell(262_144, 512, LONG_RUN, share=30, least=10),
    Cell(65_536, 768, WIDE_RUN, share=60, least=40),  # these two tune for a width of their own
    Cell(65_536, 1_024, WIDE_RUN, share=60, least=40),
)


def cells(settings: dict[str, Any]) -> list[Cell]:
    """The cells of a run: the card's own plan where no batches were asked for."""
    if settings["batches"] is None:
        return list(CARD)
    card = settings["device"] != "cpu"
    return [
        Cell(batch, settings["dim"], LONG_RUN if card and batch > LARGEST_FOR_ALL else None)
        for batch in settings["batches"]
    ]


class Budget:
    """The time of a run: `seconds` from now on; None for no limit."""

    def __init__(self, seconds: float | None, now: Callable[[], float] = time.monotonic):
        self._now, self._end = now, math.inf if seconds is None else now() + seconds
        self._deadline = self._end

    @property
    def left(self) -> float:
        """Seconds until the end of the run."""
        return self._end - self._now()

    def begin(self, cell: Cell, later: list[Cell]) -> str | None:
        """Set the deadline of `cell`, which the cells `later` share the time with; a sentence if it must be skipped."""
        if self.left < cell.least:
            return f"{self.left:.0f} s were left and it needs about {cell.least:.0f} s: measure it in a run of its own."
        share = cell.share / sum(c.share for c in [cell, *later])
        self._deadline = self._end if math.isinf(self._end) else self._now() + self.left * share
        return None

    def allows(self, seconds: float, done: int) -> bool:
        """Whether another round of `seconds` fits when `done` rounds of this cell are done."""
        return self._now() + seconds <= (self._end if done < FEWEST else self._deadline)
