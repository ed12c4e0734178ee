"""One run of the experiment on batch sizes: two small towers, trained on so many pairs in batches of so many.

A draw decides the pairs; for glyphs also which characters are held out, for scenes which are scored. A seed decides the
weights and the order. The towers know the words of their training captions. Recall@1 is the mean of both directions, on
validation pairs (which choose the learning rate) and on test pairs (which are reported): of glyphs one drawing each of
characters that were never seen.

With `masked`, pairs of one outline (Latin A and Greek Alpha, or one character twice) are no negatives of each other:

    L = mean_i [ log sum_{j in N_i} exp(x_ij) - x_ii ] / 2  +  the same over columns,     N_i = {i} u {j : g_j != g_i}

where
    x_ij   s <img_i, txt_j>
    g_i    the outline of pair i

The tiled loss knows no mask, so these logits are dense, a thousand rows at a time, computed again going backward.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from minilib.bench.batches.plan import Run
from minilib.data import glyphs_dataset, render_glyphs, render_scenes, scenes_dataset
from minilib.data.glyphs import outline_numbers
from minilib.evals import evaluate_retrieval
from minilib.models import TwoTowers
from minilib.models.towers import words_of
from minilib.trainers import ContrastiveTrainer
from minilib.trainers.contrastive import batch_indices
from minilib.trainers.trainer_utils import DivergedError

ROWS = 1024  # of masked logits at a time
COUNTED = 64  # batches in which repeats are counted
APART = 1_000  # between the seeds of what is trained on, validated and tested


def train_and_score(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    """The record of this run: its cell, learning rate, draw and seed, scores, repeats and costs."""
    cell, started = run.cell, time.process_time()
    train, validation, test = _data(cell.data, cell.pairs, run.draw, *_sizes(settings))
    captions = train.captions
    torch.manual_seed(run.seed)
    words = sorted({word for caption in captions for word in words_of(caption)})
    model = TwoTowers(words, dim=settings["dim"], width=settings["width"], image_size=settings["image_size"])
    steps = settings["steps"] if cell.budget == "steps" else settings["epochs"] * (cell.pairs // cell.batch)
    prepared = time.process_time()
    trainer = _Trainer(
        model, train, batch_size=cell.batch, micro_batch_size=min(cell.batch, settings["micro_batch_size"]),
        steps=steps, lr=run.lr, warmup=max(1, steps // 10), seed=run.seed, progress=False,
    )  # fmt: skip
    trainer.groups = _groups(captions) if cell.masked else None
    try:
        trainer.train()
        scores = {name: _recall(model, pairs) for name, pairs in (("validation", validation), ("test", test))}
    except DivergedError:  # too high a learning rate is an answer, too
        scores = {"validation": 0.0, "test": 0.0, "diverged": True}
    costs = {"cpu_seconds": time.process_time() - prepared, "data_cpu_seconds": prepared - started}
    return {
        **cell._asdict(), "lr": run.lr, "draw": run.draw, "seed": run.seed, "steps": steps, **scores,
        "loss": trainer.records[-1]["loss"] if trainer.records else None, **_repeats(captions, run, steps), **costs,
    }  # fmt: skip


class _Trainer(ContrastiveTrainer):
    """ContrastiveTrainer that leaves out false negatives where it has `groups`, a number for each row of the data."""

    groups: Tensor | None = None

    def backward(self, step: int) -> Tensor:
        rows = batch_indices(step, len(self.dataset), self.settings["batch_size"], self.settings["seed"])
        self.in_batch = None if self.groups is None else self.groups[rows]
        return super().backward(step)

    def loss(self, img: Tensor, txt: Tensor) -> Tensor:
        if self.in_batch is None:
            return super().loss(img, txt)
        return masked_clip_loss(img, txt, self.model.logit_scale.exp(), self.in_batch)


def masked_clip_loss(img: Tensor, txt: Tensor, scale: Tensor, groups: Tensor) -> Tensor:
    """The contrastive loss of features `(b, d)` in which rows of equal `groups` `(b,)` are no negatives."""

    def one_way(a: Tensor, b: Tensor, rows: Tensor) -> Tensor:
        logits = scale * a[rows] @ b.T  # (rows, b)
        same = groups[rows][:, None] == groups[None]
        same[torch.arange(len(rows)), rows] = False  # the pair itself stays
        return F.cross_entropy(logits.masked_fill(same, float("-inf")), rows, reduction="sum")

    parts = torch.arange(len(img)).split(ROWS)
    both = [checkpoint(one_way, a, b, rows, use_reentrant=False) for a, b in ((img, txt), (txt, img)) for rows in parts]
    return torch.stack(both).sum() / (2 * len(img))


def _sizes(settings: dict[str, Any]) -> tuple[int, int, int]:
    return settings["validation"], settings["test"], settings["image_size"]


class _Rows:
    """Pairs in memory: a step on sixteen pairs takes less time than a `datasets` table needs to give them."""

    def __init__(self, images: Tensor, captions: list[str]):
        self.images, self.captions = images, captions

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, indices: list[int]) -> dict[str, Any]:
        return {"image": self.images[indices], "caption": [self.captions[k] for k in indices]}


@lru_cache(maxsize=2)  # runs that follow each other mostly share their data
def _data(data: str, pairs: int, draw: int, validation: int, test: int, side: int) -> tuple:
    """What is trained on, what chooses the learning rate, what is reported."""
    shared = {"image_size": side}
    if data == "glyphs":
        shared |= {"seed": draw, "fold": draw}
        held = [glyphs_dataset(validation, split="validation", unique=True, **shared)]
        held.append(glyphs_dataset(test, split="test", unique=True, **shared))
        return _Rows(*render_glyphs(pairs, **shared)), *held
    held = [scenes_dataset(n, seed=draw + k * APART, **shared) for k, n in enumerate((validation, test), start=1)]
    return _Rows(*render_scenes(pairs, seed=draw, **shared)), *held


def _recall(model: TwoTowers, pairs) -> float:
    found = evaluate_retrieval(model, pairs, ks=(1,), progress=False)
    return sum(recall[1] for recall in found.values()) / len(found)


def _groups(captions: list[str]) -> Tensor:
    """A number for each caption: of glyphs that of the outline, else equal for equal captions."""
    found = outline_numbers(captions)
    number = {caption: -2 - k for k, caption in enumerate(dict.fromkeys(captions))}
    return torch.where(found >= 0, found, torch.tensor([number[caption] for caption in captions]))


def _repeats(captions: list[str], run: Run, steps: int) -> dict[str, float]:
    """Share of the pairs of a batch that have their own caption, or their own outline, there once more."""
    number = {caption: k for k, caption in enumerate(dict.fromkeys(captions))}
    kinds = {"same_caption": torch.tensor([number[c] for c in captions]), "same_outline": _groups(captions)}
    batches = [batch_indices(k, len(captions), run.cell.batch, run.seed) for k in range(min(steps, COUNTED))]
    found = {}
    for name, numbers in kinds.items():
        counts = [numbers[rows].unique(return_counts=True)[1] for rows in batches]
        found[name] = sum(float(c[c > 1].sum() / c.sum()) for c in counts) / len(counts)
    return found
