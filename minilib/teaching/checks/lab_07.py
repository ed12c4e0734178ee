"""Checks of lab 7, choose the negatives: a batch from one topic, and a memory of other documents' previous windows.

The judges are the counts of a few hundred drawn batches, and the memory written out document by document.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from minilib.teaching.checks.contract import compare, run, untouched

SIZES = (40, 10, 10, 4)  # items of each topic, shuffled below
DRAWS, LEAST, MOST = 400, 60, 145  # of each topic 100 are expected, with a spread of 9


def check_topic_batch(learner: Callable[[Tensor, int, torch.Generator], Tensor]) -> None:
    """Exercise: `topic_batch(topics, b, generator)`, the indices of up to b different items of one topic."""
    cases = {
        "for batches of six": partial(_batch, b=6),
        f"for {DRAWS} batches of six": _topics,
        "for batches of two": _items,
    }
    run(untouched(learner), cases, "every topic has the same chance, and no item is its own negative")


def check_previous_windows(learner: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> None:
    """Exercise: `previous_windows(keys, n)`, what each window finds in the memory, and where there is something."""
    cases = {
        "for one document a memory": lambda fn: _memory(fn, b=3, w=4, n=1),
        "for three documents a memory": lambda fn: _memory(fn, b=5, w=4, n=3),
        "for all documents in each memory": lambda fn: _memory(fn, b=4, w=3, n=4),
    }
    run(
        untouched(learner),
        cases,
        "the negatives are other documents' past, never their future, and the own past comes first",
    )


def _items_of_topics() -> Tensor:
    topics = torch.repeat_interleave(torch.tensor([7, 1, 4, 2]), torch.tensor(SIZES))
    return topics[torch.randperm(len(topics), generator=torch.Generator().manual_seed(7))]


def _drawn(fn: Callable, b: int, draws: int) -> list[Tensor]:
    generator, topics = torch.Generator().manual_seed(1), _items_of_topics()
    return [torch.as_tensor(fn(topics.clone(), b, generator)) for _ in range(draws)]


def _batch(fn: Callable, b: int) -> str | None:
    topics, first = _items_of_topics(), _drawn(fn, b, 60)
    for items in first:
        if items.ndim != 1:
            return f"the shape is {tuple(items.shape)} and should be (b,)"
        if len(topics[items].unique()) > 1:
            return "items of several topics are in one batch"
        if len(items.unique()) < len(items):
            return "a pair is twice in one batch, as its own negative: draw without replacement"
        if len(items) != min(b, there := int((topics == topics[items[0]]).sum())):
            return f"the batch has {len(items)} items of a topic of {there}: take b of them, or all if there are fewer"
    again = all(torch.equal(one, other) for one, other in zip(first, _drawn(fn, b, 60), strict=True))
    return None if again else "one seed gave two answers: use the generator for every draw"


def _topics(fn: Callable) -> str | None:
    topics = _items_of_topics()
    counts = Counter(topics[items[0]].item() for items in _drawn(fn, 6, DRAWS))
    if counts[7] > MOST:
        return "the largest topic swamps the others: draw a topic first, then items of it"
    uneven = any(not LEAST < counts[topic] < MOST for topic in (7, 1, 4, 2))
    return "some topics hardly come: each should have the same chance, the small ones too" if uneven else None


def _items(fn: Callable) -> str | None:
    drawn = Counter(item for items in _drawn(fn, 2, DRAWS) for item in items.tolist())
    missing = sum(SIZES) - len(drawn)
    return f"{missing} items never came: draw items at random, not the first of a topic" if missing > 3 else None


def _memory(fn: Callable, b: int, w: int, n: int, m: int = 2, d: int = 3) -> str | None:
    keys = torch.randn(b, w, m, d, generator=torch.Generator().manual_seed(b), dtype=torch.float64)
    there = (torch.arange(w) > 0)[None, :, None].expand(b, w, n * m)

    def memory(document, window):
        """The memory when slot j of document i, window t holds `keys[document(i, j), window(t, j)]`."""
        found = torch.zeros(b, w, n * m, d, dtype=keys.dtype)
        for i, t, j in ((i, t, j) for i in range(b) for t in range(w) for j in range(n)):
            if 0 <= (source := window(t, j)) < w:
                found[i, t, j * m : (j + 1) * m] = keys[document(i, j) % b, source]
        return found

    def right(i, j):
        return i + j

    want = memory(right, lambda t, j: t - 1)
    slips = {
        "the memory holds the windows themselves: shift by one window": memory(right, lambda t, j: t),
        "a neighbour's present window is in the memory: shift every document": memory(right, lambda t, j: t - (j == 0)),
        "a document sees the next window: does the first output move when the last window changes?": memory(
            right, lambda t, j: t + 1
        ),
        "a neighbour's next window is in the memory: does the first output move when the last window changes?": memory(
            right, lambda t, j: t - 1 if j == 0 else t + 1
        ),
        "the own document is missing: slot 0 is its own": memory(lambda i, j: i + j + 1, lambda t, j: t - 1),
        "the neighbours are i - 1, i - 2, ...: roll the other way": memory(lambda i, j: i - j, lambda t, j: t - 1),
    }
    wrapped = memory(right, lambda t, j: (t - 1) % w)
    suspects = {
        "the first window has no memory: its mask has to be False": (want, there | True),
        "the first window finds the last one, its own future: nothing stands before it": (wrapped, there | True),
        "the first window's memory is masked, but not zero: it still holds the last window": (wrapped, there),
    }
    suspects |= {hint: (answer, there) for hint, answer in slips.items()}
    got = fn(keys.clone(), n)
    if isinstance(got, tuple) and len(got) == 2 and n > 1:
        again = [fn(keys.clone(), n)[0] for _ in range(5)]
        if any(not torch.equal(got[0], other) for other in again):
            return "two calls gave two memories: roll the batch, do not shuffle it"
    return compare(got, (want, there), suspects)
