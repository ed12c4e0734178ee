"""How well a causal language model uses a long context: by depth and length, by number of facts, and in its window.

    accuracy = mean_i [ gold_i stands in answer_i ]             after normalising both (`minilib.evals.answers`)
    recall   = mean_i |gold values_i in answer_i| / |gold values_i|         for questions with several values

where
    gold_i, answer_i   what haystack i hides, and what the model says (greedy, a few tokens, so that it cannot ramble)

The same facts in the same text are asked for at every place, so that a curve over places is no noise between questions.
Intervals are Wilson's at 95 %. The paper (LOGO, arXiv 2410.18533) scores ROUGE recall on real documents.
Taught in notebooks/08_see_long_context_models_fail.ipynb.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minilib.data.haystack import haystack
from minilib.data.rows import positive_int
from minilib.evals.answers import contains
from minilib.evals.answers import contains_answer as is_right
from minilib.evals.perplexity import perplexity_by_position
from minilib.models.generation import IN_SHORT, answer_room, make_answer_fn, question_form

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


class NeedleMap(NamedTuple):
    """`accuracy[i, j]` (depths, lengths) is the share of right answers at depths[i] and lengths[j], of `samples`."""

    depths: tuple[float, ...]
    lengths: tuple[int, ...]
    accuracy: Tensor
    samples: int


class Curve(NamedTuple):
    """Accuracy by depth with its 95 % intervals (low, high), and two anchors: no document, and only the facts."""

    depths: tuple[float, ...]
    accuracy: list[float]
    intervals: list[tuple[float, float]]
    closed_book: float
    oracle: float


def needle_map(
    model: nn.Module,
    tokenizer: Callable,
    *,
    lengths: Sequence[int] = (64, 128, 224, 512, 992),
    depths: Sequence[float] = DEPTHS,
    samples: int = 20,
    kind: str = "single",
    distractors: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> NeedleMap:
    """Accuracy over depth x length, `samples` haystacks in each cell; all cells are answered in shared batches.

    lengths: tokens of the context, the question not counted. kind: of question, one of `minilib.data.facts.KINDS`.
    """
    rows = []
    for depth in depths:
        for length in lengths:
            settings = {"length": length, "kind": kind, "distractors": distractors, "seed": seed}
            rows += _rows(tokenizer, samples, depth=depth, **settings)
    right = torch.tensor(_judge(model, tokenizer, rows, progress), dtype=torch.float64)
    return NeedleMap(tuple(depths), tuple(lengths), right.view(len(depths), len(lengths), samples).mean(2), samples)


def lost_in_the_middle(
    model: nn.Module,
    tokenizer: Callable,
    *,
    length: int = 224,
    places: int = 9,
    samples: int = 100,
    distractors: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> Curve:
    """Accuracy at `places` depths from 0 to 1 in contexts of one length, the same questions at every place."""
    steps = max(positive_int(places, "places") - 1, 1)
    depths = tuple(i / steps for i in range(places))
    settings = {"length": length, "distractors": distractors, "seed": seed}
    rows = [row for depth in depths for row in _rows(tokenizer, samples, depth=depth, **settings)]
    first = rows[:samples]
    rows += [row | {"context": ""} for row in first]
    rows += [row | {"context": " ".join(fact["text"] for fact in row["facts"] if fact["asked"])} for row in first]
    right = _judge(model, tokenizer, rows, progress)
    means = [sum(right[i : i + samples]) / samples for i in range(0, len(right), samples)]
    *accuracy, closed, oracle = means
    return Curve(depths, accuracy, [wilson(mean, samples) for mean in accuracy], closed, oracle)


def kind_scores(
    model: nn.Module,
    tokenizer: Callable,
    *,
    kind: str = "multi",
    length: int = 224,
    values: int = 2,
    samples: int = 100,
    distractors: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, float]:
    """`accuracy` (the whole answer) and `recall` (mean share of the wanted values named) for one kind of question."""
    settings = {"length": length, "kind": kind, "values": values, "distractors": distractors, "seed": seed}
    rows = _rows(tokenizer, samples, **settings)
    tokens = max(4 * values, answer_room(tokenizer))
    answers = make_answer_fn(model, tokenizer, max_new_tokens=tokens, progress=progress)(_prompts(tokenizer, rows))
    whole = sum(is_right(answer, row) for answer, row in zip(answers, rows))
    wanted = [row["answer"].split(" and ") for row in rows]
    recall = sum(sum(contains(a, v) for v in vs) / len(vs) for a, vs in zip(answers, wanted))
    return {"accuracy": whole / samples, "recall": recall / samples}


def retention(
    model: nn.Module, tokenizer: Callable, *, window: int = 256, samples: int = 100, seed: int = 0
) -> dict[str, float]:
    """What must not be lost while a model learns length: `accuracy` and `perplexity` within its window."""
    rows = _rows(tokenizer, samples, length=window - 32, seed=seed)
    right = _judge(model, tokenizer, rows, False)
    buckets = perplexity_by_position(model, tokenizer, length=window, bucket=window, seed=seed)
    return {"accuracy": sum(right) / samples, "perplexity": buckets[0]}


def wilson(share: float, samples: int) -> tuple[float, float]:
    """The 95 % interval (low, high) of a share of `samples` trials."""
    z = 1.96
    middle = share + z * z / (2 * samples)
    reach = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples**2))
    return tuple(max(0.0, min(1.0, (middle + side * reach) / (1 + z * z / samples))) for side in (-1, 1))


def _rows(tokenizer: Callable, samples: int, **settings) -> list[dict]:
    return list(islice(haystack(tokenizer=tokenizer, **settings), positive_int(samples, "samples")))


def _prompts(tokenizer: Callable, rows: list[dict]) -> list[str]:
    form = question_form(tokenizer, IN_SHORT)
    return [form(row["context"], row["question"]) for row in rows]


def _judge(model: nn.Module, tokenizer: Callable, rows: list[dict], progress: bool) -> list[bool]:
    tokens = answer_room(tokenizer)
    answers = make_answer_fn(model, tokenizer, max_new_tokens=tokens, progress=progress)(_prompts(tokenizer, rows))
    return [is_right(answer, row) for answer, row in zip(answers, rows)]
