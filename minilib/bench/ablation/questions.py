"""When does the preference term pay on the tiny model? `python -m minilib bench preference`, one run after another.

    gain = right answers beyond the window after training - before, on one draw of the haystack text

Each question of `questions.yaml` varies one thing (the text itself, the number of pairs, details in an answer, the
share of wrong chosen answers, settings of LOGO) and trains LOGO and SFT with stretched positions on the same pairs. A
draw is a seed and a selection of the sentences between the facts, for pairs and scores alike; nothing else differs.

output/pairs/DRAW-DETAILS.jsonl   pairs with three wrong answers each, as many as were needed
output/when_preference_pays.json  settings and a record for each run, which is not run again; .md is the page

A wrong chosen answer is the third wrong answer of the model; then the right one is nowhere in the pair.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import yaml
from tqdm import tqdm

from minilib.bench import device
from minilib.bench.ablation import one_run, preference_page
from minilib.bench.ablation.arms import named
from minilib.bench.records import line_by_line, opened
from minilib.common import write_text
from minilib.data import running_text
from minilib.data.haystack import haystack
from minilib.evals.longcontext import kind_scores, needle_map
from minilib.evals.perplexity import perplexity_by_position
from minilib.models.generation import make_answer_fn
from minilib.models.tiny_lm import WINDOW, tiny_lm
from minilib.preferences.build import build_pairs
from minilib.preferences.haystack_pairs import (
    CHUNK,
    CHUNKS,
    LENGTH,
    chunks_as_prompt,
    first_pairs,
    long_questions,
    repeatable,
)
from minilib.preferences.importance import exact_entities
from minilib.teaching.repro import quiet

ASKED = yaml.safe_load(Path(__file__).with_name("questions.yaml").read_text(encoding="utf-8"))
QUICK = {"pairs": 4, "steps": 2, "batch": 2, "lengths": [300], "samples": 1, "multi_lengths": [64], "multi": 2}
MOST = 640  # questions that may be asked for the pairs of a draw


class Run(NamedTuple):
    """One training; arm None is the model as it comes."""

    draw: str
    arm: str | None
    question: str = "base"
    level: str = ""


def bench_preference(output: Path = Path("runs/bench/preference"), quick: bool = False, draws: int = 10) -> dict:
    """Ask on the tiny model when LOGO's preference term pays, and whether its gain holds on ten draws of text.

    Every run is kept; the same command goes on after an interrupt. About an hour on one core.

    Args:
        output: folder for the pairs and the records.
        quick: a few steps and samples, to see that everything runs; its figures judge nothing.
        draws: at most so many draws of the haystack text for each question.
    """
    settings = ASKED["settings"] | (QUICK if quick else {})
    path = output / "when_preference_pays.json"
    (output / "pairs").mkdir(parents=True, exist_ok=True)
    found = {"benchmark": "preference", "settings": settings, "machine": device.describe(), "records": []}
    if path.exists():
        found = opened(path, settings, "records")
    done = {tuple(record["run"]) for record in found["records"]}
    for run in tqdm([run for run in planned(draws) if run not in done], unit="run"):
        found["records"].append(one(run, settings, output / "pairs"))
        write_text(path, line_by_line(found))
    found = {"summary": None} | found | {"summary": preference_page.summary(found)}  # before the records
    write_text(path, line_by_line(found))
    write_text(path.with_suffix(".md"), preference_page.page(found))
    return found


def planned(draws: int) -> list[Run]:
    """All runs, question by question; the model as it comes first on each draw."""
    runs = []
    for question, asked in ASKED["questions"].items():
        for draw in list(ASKED["draws"])[: min(draws, asked["draws"])]:
            levels = [Run(draw, arm, question, level) for level in asked["levels"] for arm in asked["arms"]]
            runs += ([] if Run(draw, None) in runs else [Run(draw, None)]) + levels
    return runs


@quiet()
def one(run: Run, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The record of one run: scores, seconds and the training curve."""
    draw, began = ASKED["draws"][run.draw], time.process_time()
    changed = ASKED["questions"][run.question]["levels"][run.level] if run.arm else {}
    settings = settings | changed
    model, tokenizer = tiny_lm()
    record: dict[str, Any] = {"run": list(run)}
    with text_of(draw), _flushed():
        if run.arm:
            arm = named([run.arm])[0]
            arm = arm._replace(options=arm.options | settings.get("options", {}))
            pairs = drawn_pairs(model, tokenizer, draw["seed"], settings, folder)
            model, _, curve = one_run.trained(arm, draw["seed"], settings, pairs, model, tokenizer)
            record["start"], record["end"] = (_logged(point) for point in (curve[0], curve[-1]))
        record["scores"] = _scores(model, tokenizer, draw["seed"] + one_run.EVALUATION, settings)
    return record | {"cpu_seconds": round(time.process_time() - began, 1)}


@contextmanager
def _flushed() -> Iterator[None]:
    """Inside, subnormal numbers are zero: pairs that are won by far have such gradients, which are slow on a CPU."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def text_of(draw: dict[str, Any]) -> Iterator[None]:
    """Inside, haystacks are made of the sentences of this draw: a third of the text, or shuffled, or both."""
    sentences = list(running_text.prose_sentences())
    if "third" in draw:
        size = len(sentences) // 3
        sentences = sentences[draw["third"] * size : (draw["third"] + 1) * size]
    if "shuffle" in draw:
        Random(draw["shuffle"]).shuffle(sentences)
    with patch.object(running_text, "prose_sentences", lambda: sentences):
        yield


def drawn_pairs(model, tokenizer, seed: int, settings: dict[str, Any], folder: Path) -> list[dict]:
    """The first pairs of a draw; those that are not there yet are made."""
    settings_of_pairs = {"chunk_size": CHUNK, "num_chunks": CHUNKS, "threshold": 0, "num_rejected": 3, "tries": 8}
    answer = make_answer_fn(model, tokenizer, temperature=1.0)
    pairs = build_pairs(
        _questions(seed, settings["details"], tokenizer), repeatable(answer), scorer=exact_entities,
        tokenizer=tokenizer, prompt_fn=chunks_as_prompt, require_right=True, seed=seed, batch_size=32, progress=False,
        path=folder / f"{seed}-{settings['details']}.jsonl", **settings_of_pairs,
    )  # fmt: skip
    return with_wrong(first_pairs(pairs, settings["pairs"]), settings["wrong"], seed)


def with_wrong(pairs: list[dict], share: float, seed: int) -> list[dict]:
    """The pairs with two rejected answers each; in a share of them the third wrong answer is the chosen one."""
    wrong = set(Random(seed).sample(range(len(pairs)), round(share * len(pairs))))
    return [
        pair | {"chosen": pair["rejected"][2] if k in wrong else pair["chosen"], "rejected": pair["rejected"][:2]}
        for k, pair in enumerate(pairs)
    ]


def _questions(seed: int, details: int, tokenizer) -> list[dict]:
    """Haystacks with one or two details in the answer; 0 is the mixture of the lesson."""
    if not details:
        return long_questions(MOST, tokenizer, seed=seed)
    kind, given = ("single", "multi")[details - 1], {"length": LENGTH, "distractors": 12, "tokenizer": tokenizer}
    return list(islice(haystack(kind=kind, seed=2 * seed, **given), MOST))


def _scores(model, tokenizer, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Right answers by length: one detail, and both of two, with the recall of two."""
    shared = {"distractors": one_run.DISTRACTORS, "seed": seed}
    needles = needle_map(model, tokenizer, lengths=settings["lengths"], samples=settings["samples"], **shared)
    both = {
        str(n): kind_scores(model, tokenizer, kind="multi", length=n, samples=settings["multi"], **shared)
        for n in settings["multi_lengths"]
    }
    kept = perplexity_by_position(model, tokenizer, length=WINDOW, bucket=WINDOW, samples=12, seed=seed)
    single = dict(zip(map(str, needles.lengths), needles.accuracy.mean(0).tolist()))
    return {"single": single, "multi": both, "perplexity": kept[0]}


def _logged(point: dict[str, float]) -> dict[str, float]:
    """What the training says at one time."""
    wanted = ("loss", "logps/chosen", "rewards/margins", "rewards/accuracies", "grad_norm", "lora_delta_norm")
    return {name: round(point[name], 4) for name in wanted if name in point}
