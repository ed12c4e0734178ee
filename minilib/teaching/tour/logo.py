"""The tour's second half: LOGO and SFT align the tiny language model from one start, and what each of them gains.

    pairs      the model answers from the right chunks of a long text and from wrong ones
    align      LOGO, SFT, and SFT at LOGO's positions: same start, same answers, same steps
    needles    what is found, by depth and length, before and after; what the window keeps
    answers    held-out questions, answered side by side

where
    SFT              trains on the chosen answers at plain positions: the comparison that LOGO's paper makes
    stretched SFT   the same answers at LOGO's stretched positions, which the paper leaves out: the fair control
    margin           mean log-probability of a token, chosen less rejected answers, on held-out pairs over whole texts

Every stop takes (output folder, size, metrics so far) and returns its metrics. Training goes on from its last
checkpoint. All of it takes one thread of the CPU: on steps this small a second one costs more than it gives.
"""

import math
from pathlib import Path

from torch import nn
from tqdm.auto import tqdm

from minilib.data.facts import as_prompt
from minilib.evals import longcontext
from minilib.models import generation as answering
from minilib.models.tiny_lm import WINDOW, tiny_lm
from minilib.preferences.haystack_pairs import LENGTH, long_questions
from minilib.teaching import plots
from minilib.teaching.plots.longcontext import in_reach
from minilib.teaching.repro import quiet
from minilib.teaching.tour.alignment import (
    METHODS,
    NUM_REJECTED,
    TARGET,
    aligned,
    held_out_pairs,
    train,
    training_pairs,
)
from minilib.teaching.tour.report import save_figure

HELD_OUT = 7  # the seed of everything that is measured; the pairs of training come from seed 0
SHOWN = 10  # answers that the report prints, the first ones
SIZES = {
    # questions: asked for pairs; watched: held-out pairs of the margin; needles: of the map; asked: held-out questions;
    # kept: questions within the window
    "full": {
        "questions": 400, "align_steps": 200, "watched": 24, "watch_every": 20, "asked": 200, "kept": 100,
        "needles": {"lengths": (128, 224, 480, 736, 992), "depths": longcontext.DEPTHS, "samples": 20},
    },
    "small": {
        "questions": 24, "align_steps": 4, "watched": 2, "watch_every": 2, "asked": 6, "kept": 10,
        "needles": {"lengths": (128, 480), "depths": (0.0, 1.0), "samples": 2},
    },
}  # fmt: skip


@quiet()
def pairs(output: Path, size: dict, metrics: dict) -> dict:
    """Let the model answer from the right chunks of long texts and from wrong ones."""
    built = training_pairs(output, size["questions"], progress=True)
    rows = list(built)
    shown = {name: rows[0][name] for name in ("question", "prompt", "chosen", "rejected", "answer")}
    return {"report": built.report.to_dict(), "told": str(built.report), "example": shown}


@quiet()
def align(output: Path, size: dict, metrics: dict) -> dict:
    """Train on these answers by SFT and by LOGO, from one start."""
    rows, watched = list(training_pairs(output, size["questions"])), held_out_pairs(size["watched"], seed=HELD_OUT)
    settings = {"steps": size["align_steps"], "every": size["watch_every"]}
    runs = {name: train(output, name, rows, watched, **settings) for name in METHODS}
    curves = {name: tuple(zip(*run["margins"])) for name, run in runs.items()}
    save_figure(output, "margins", plots.margin_curves(curves))
    told = {"pairs": len(rows), "steps": size["align_steps"], "watched": len(watched), "text": LENGTH}
    return told | {"num_rejected": NUM_REJECTED, "target": TARGET, "runs": runs}


@quiet()
def needles(output: Path, size: dict, metrics: dict) -> dict:
    """Look for the facts at every depth and length, before and after."""
    models, tokenizer = _models(output)
    maps, kept = {}, {}
    for name, model in tqdm(models.items(), desc="needle maps", unit="model"):
        maps[name] = longcontext.needle_map(model, tokenizer, seed=HELD_OUT, **size["needles"])
        kept[name] = longcontext.retention(model, tokenizer, window=WINDOW, samples=size["kept"], seed=HELD_OUT)
    save_figure(output, "needles", plots.needle_maps(maps, WINDOW))
    inside = in_reach(size["needles"]["depths"], size["needles"]["lengths"], WINDOW, question=10)
    shares = {name: found.accuracy.numpy() for name, found in maps.items()}
    return {
        "window": WINDOW, "lengths": list(size["needles"]["lengths"]), "samples": size["needles"]["samples"],
        "inside": {name: float(share[inside].mean()) for name, share in shares.items()},
        "beyond": {name: float(share[~inside].mean()) for name, share in shares.items()},
        "maps": {name: share.tolist() for name, share in shares.items()}, "retention": kept,
    }  # fmt: skip


@quiet()
def answers(output: Path, size: dict, metrics: dict) -> dict:
    """Ask all of them the same held-out questions about long texts."""
    models, tokenizer = _models(output)
    rows = long_questions(size["asked"], tokenizer, seed=HELD_OUT)
    prompts = [as_prompt(row["context"], row["question"]).strip() for row in rows]
    said = {}
    for name, model in tqdm(models.items(), desc="answers", unit="model"):
        said[name] = answering.make_answer_fn(model, tokenizer)(prompts)
    right = {name: [longcontext.is_right(a, row) for a, row in zip(texts, rows)] for name, texts in said.items()}
    shown = [
        {"question": row["question"], "truth": row["answer"], "said": {name: said[name][k] for name in said},
         "right": {name: right[name][k] for name in said}}
        for k, row in enumerate(rows[:SHOWN])
    ]  # fmt: skip
    contrasts = {
        f"{one} - {other}": paired_gain(right[one], right[other])
        for one, other in (("LOGO", "base"), ("LOGO", "SFT"), ("LOGO", "stretched SFT"), ("stretched SFT", "SFT"))
    }
    share = {name: sum(flags) / len(flags) for name, flags in right.items()}
    return {"asked": len(rows), "text": LENGTH, "shown": shown, "right": share, "contrasts": contrasts}


def paired_gain(one: list[bool], other: list[bool]) -> dict[str, float]:
    """How much more often `one` is right than `other` on the same questions, with its 95 % interval (normal)."""
    change = [int(a) - int(b) for a, b in zip(one, other, strict=True)]
    mean = sum(change) / len(change)
    spread = math.sqrt(sum((c - mean) ** 2 for c in change)) / len(change)  # the standard error of the mean
    return {"gain": mean, "low": mean - 1.96 * spread, "high": mean + 1.96 * spread}


def _models(output: Path) -> tuple[dict[str, nn.Module], object]:
    """The model as it was and as each method has left it; and its tokenizer."""
    base, tokenizer = tiny_lm()
    return {"base": base} | {name: aligned(output, name) for name in METHODS}, tokenizer
