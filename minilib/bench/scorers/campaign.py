"""Four scorers of chunks, from recall to the aligned model: part after part, each kept; it goes on where it stopped.

    OUTPUT                  settings, machine, one entry for each finished part; the page scorers.md lies next to it
    OUTPUT's .npz           what lesson 15 reads: features of chunks and questions, 8 bits a number
    runs/scorers/           checkpoints of the tuning, pairs, adapters

Pairs are made as on real documents, where nobody knows the right answers: the scorer alone decides, no answer is
judged. Afterwards all are judged by rule. Their words are those that no tuning has seen; the aligned models are asked
about other words again. "told the places" is the ceiling. Exact entities find nobody whom the question calls otherwise.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from minilib.bench import device
from minilib.bench.real_alignment import one_run
from minilib.bench.real_alignment.answers import answers_about
from minilib.bench.real_alignment.arms import ARMS
from minilib.bench.records import line_by_line, opened
from minilib.bench.scorers import encoder, lesson, pages, people, recall
from minilib.common import write_text
from minilib.models.generation import IN_SHORT
from minilib.preferences import build_pairs
from minilib.preferences.chunking import count_words
from minilib.preferences.haystack_pairs import prompt_for, repeatable, separator_for
from minilib.preferences.importance import exact_entities, rare_words
from minilib.teaching.repro import quiet

FULL: dict[str, Any] = {
    "quick": False, "model": "smollm2", "length": 400, "chunk": 20, "text_seed": 11, "texts": 20,
    "tuning_pairs": 4_096, "tuning_words": 12, "tuning_seed": 0, "tuning_steps": 4, "batches": [1_024, 64],
    "micro_batch": 256, "lr": 2e-4, "pairs": 24, "rows": 80, "chunks": 5, "seeds": [1, 2, 3], "asked_texts": 10,
    "asked_length": 200, "answer_tokens": 32,
    "training": {"accumulate": 4, "lr": 3e-4, "rank": 16, "alpha": 32, "target": 8_192, "save_every": 2},
}  # fmt: skip
QUICK: dict[str, Any] = {
    "quick": True, "texts": 2, "length": 160, "tuning_pairs": 64, "tuning_steps": 2, "batches": [32, 8],
    "micro_batch": 16, "pairs": 2, "rows": 30, "chunks": 3, "seeds": [1], "asked_texts": 1, "asked_length": 80,
    "answer_tokens": 3, "training": FULL["training"] | {"accumulate": 2, "rank": 2},
}  # fmt: skip
WORK = Path("runs/scorers")
CEILING = "told the places"
PAIR_MAKERS = (CEILING, "rare words", "MiniLM", pages.TUNED)  # exact entities find nobody here


def bench_scorers(
    output: Path = Path("runs/bench/scorers.json"), budget: float | None = None, quick: bool = False, work: Path = WORK
) -> dict[str, Any]:
    """Let four scorers choose LOGO's chunks, one of them an encoder tuned with the tiled loss: over an hour.

    The same command goes on after an interrupt; every finished part is kept.

    Args:
        output: JSON file with every part; the page scorers.md is written next to it.
        budget: seconds after which no further part begins, by default none; 0 makes the page of what is there.
        quick: random models and tiny texts, to see in a minute that everything runs; its figures judge nothing.
        work: folder for checkpoints and pairs.
    """
    if budget is not None and not 0 <= budget < math.inf:
        raise ValueError(f"budget is {budget}: give the seconds as a number of at least 0, or leave it out.")
    output, settings = Path(output), FULL | (QUICK if quick else {})
    document = _opened(output, settings)
    deadline = None if budget is None else time.time() + budget
    left = {
        n: p for n, p in _parts(settings, Path(work), output, document, deadline).items() if n not in document["parts"]
    }
    with quiet(), suppress(one_run.OutOfTimeError):
        for name, part in left.items():
            one_run.check_time(deadline)
            began = time.process_time()
            found = part()
            document["parts"][name] = found | {"cpu_seconds": round(time.process_time() - began, 1)}
            document["machine"] = device.describe()
            write_text(output, line_by_line(document))
    if missing := len(left.keys() - document["parts"].keys()):
        print(f"{output}: {missing} parts are left, the same command goes on")
    document |= pages.summarised(document)
    write_text(output, line_by_line(document))
    write_text(output.with_suffix(".md"), pages.page(document))
    print(pages.plain(document))
    return document


def _opened(output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What the file holds, or an empty document; ValueError where it was begun with other settings."""
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        return {"benchmark": "scorers", "settings": settings, "machine": None, "parts": {}}
    return opened(output, settings, "parts")


def _parts(settings, work: Path, output: Path, document, deadline) -> dict[str, Callable[[], dict[str, Any]]]:
    """All parts by name, in the order in which they run."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {}

    def tuning(batch: int) -> dict[str, Any]:
        return encoder.tune(batch, settings, work / f"tuned-{batch}", deadline)

    large, small = settings["batches"]
    smaller = f"{pages.TUNED}, batch {small:,}"
    for name in ("exact entities", "rare words", "MiniLM"):
        parts[f"recall, {name}"] = lambda n=name: _recall(_scorer(n, settings, work), settings)
    parts["features for the lesson"] = lambda: _features(settings, output)
    parts[f"tuning, batch {large}"] = lambda: tuning(large)
    parts[f"recall, {pages.TUNED}"] = lambda: _recall(_scorer(pages.TUNED, settings, work), settings)
    for name in PAIR_MAKERS:
        parts[f"pairs, {name}"] = lambda n=name: _pairs(n, settings, work, document, deadline)
    for seed in settings["seeds"]:
        for name in PAIR_MAKERS if "aligned, base" in parts else ("base", *PAIR_MAKERS):
            part = "aligned, base" if name == "base" else f"aligned, {name}, {seed}"
            parts[part] = lambda n=name, s=seed: _aligned(n, s, settings, work, deadline)
        parts[f"tuning, batch {small}"] = lambda: tuning(small)  # after the first seed
        parts[f"recall, {smaller}"] = lambda: _recall(_scorer(smaller, settings, work), settings)
    return parts


def _scorer(name: str, settings: dict[str, Any], work: Path) -> recall.Scorer:
    """The scorer of this name; the tuned ones from the folder of their tuning."""
    known = {CEILING: recall.told_places, "exact entities": exact_entities, "rare words": rare_words}
    if name in known:
        return known[name]
    model = encoder.load_encoder(settings["quick"])
    if name != "MiniLM":
        batch = settings["batches"][0 if name == pages.TUNED else 1]
        folder = work / f"tuned-{batch}"
        if not (folder / "encoder.pt").exists():  # the work folder is lost, the record is not: the same weights again
            encoder.tune(batch, settings, folder, None)
        model.load_state_dict(torch.load(folder / "encoder.pt", weights_only=True))
    return encoder.CosineScorer(model)


def _features(settings: dict[str, Any], output: Path) -> dict[str, Any]:
    lesson.write(encoder.load_encoder(settings["quick"]), settings, output.with_suffix(".npz"))
    return {"setting": lesson.CELL}


def _recall(scorer: recall.Scorer, settings: dict[str, Any]) -> dict[str, Any]:
    """Recall in all settings, and the threshold."""
    found: dict[str, Any] = {}
    for cell in recall.CELLS:
        texts = recall.asked_texts(cell, settings)
        if isinstance(scorer, encoder.CosineScorer):  # all at once, which is quicker
            scorer.features(
                [t for text in texts for t in (*text["chunks"], *(row["question"] for row in text["rows"]))]
            )
        scores = recall.scored(texts, scorer)
        found[cell] = recall.recalls(texts, scores)
        if cell == "other words, seen":
            found["threshold"] = recall.best_threshold(texts, scores)
    return found


def _pairs(name: str, settings: dict[str, Any], work: Path, document, deadline: float | None) -> dict[str, Any]:
    """Pairs by this scorer's chunks until there are enough, and what they are worth."""
    scorer = _scorer(name, settings, work)
    threshold = 0 if name == CEILING else document["parts"][f"recall, {name}"]["threshold"]
    model, tokenizer = one_run.loaded(settings["model"], settings)
    stream = people.documents(length=settings["length"], seed=settings["text_seed"] + 1, measure=count_words, part=1)
    rows = [text[k % people.PEOPLE] for k, text in zip(range(settings["rows"]), stream)]
    path = _file(work, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = build_pairs(
        rows, repeatable(one_run.asking(model, tokenizer, temperature=0.5)), scorer=scorer,
        prompt_fn=prompt_for(tokenizer, IN_SHORT), is_right=None, path=path, chunk_size=settings["chunk"],
        threshold=threshold, num_chunks=settings["chunks"], num_rejected=2, seed=settings["text_seed"], batch_size=4,
        separator=separator_for(tokenizer),
    )  # fmt: skip
    kept: list[dict] = []
    for pair in made:
        kept.append(pair)
        if len(kept) == settings["pairs"]:
            break
        one_run.check_time(deadline)
    return {"report": made.report.to_dict()} | judged_pairs(kept, rows)


def judged_pairs(pairs: list[dict], rows: list[dict]) -> dict[str, Any]:
    """What nobody knew at the time: shares of right chosen and of wrong rejected answers; None without pairs."""
    values = [rows[pair["row"]]["values"] for pair in pairs]
    right = [people.all_right(pair["chosen"], mine) for pair, mine in zip(pairs, values)]
    facts = [r for pair, mine in zip(pairs, values) for r in people.judged(pair["chosen"], mine)["right"]]
    wrong = [not people.all_right(answer, mine) for pair, mine in zip(pairs, values) for answer in pair["rejected"]]
    held = [
        fact["text"] in "".join(pair["chunks"])  # of two chunks, too, that the prompt joins
        for pair in pairs
        for fact in rows[pair["row"]]["facts"]
        if fact["asked"]
    ]
    shares = {"chosen_right": right, "chosen_facts": facts, "rejected_wrong": wrong, "facts_in_prompt": held}
    return {"pairs": len(pairs)} | {name: sum(all_) / len(all_) if all_ else None for name, all_ in shares.items()}


def _file(work: Path, name: str) -> Path:
    return work / f"pairs-{name.replace(' ', '-')}" / "pairs.jsonl"


def _aligned(name: str, seed: int, settings: dict[str, Any], work: Path, deadline: float | None) -> dict[str, Any]:
    """LOGO on the pairs of this scorer, and the answers of the model that comes out, about other people."""
    found: dict[str, Any] = {"chunks_by": name, "seed": seed}
    if name != "base" and not _file(work, name).read_text(encoding="utf-8"):
        return found | {"texts": []}  # no pair, no training
    model, tokenizer = one_run.loaded(settings["model"], settings)
    if name != "base":
        folder = _file(work, name).parent / f"run-{seed}"
        folder.mkdir(exist_ok=True)

        def rows() -> list[dict]:
            return [json.loads(line) for line in open(_file(work, name), encoding="utf-8")][: settings["pairs"]]

        model, noted = one_run.train(
            ARMS["LOGO, plain positions"], seed, settings["training"], folder, model, tokenizer, rows, deadline
        )
        found |= noted
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    stream = people.documents(
        length=settings["asked_length"], seed=settings["text_seed"] + 2, measure=count_words, part=0
    )
    make, texts = prompt_for(tokenizer, IN_SHORT), []
    for text in islice(stream, settings["asked_texts"]):
        prompts = [make([row["context"]], row["question"]) for row in text]
        answers = answers_about(model, tokenizer, prompts, settings["answer_tokens"])
        texts.append([{"answer": a} | people.judged(a, row["values"]) for a, row in zip(answers, text)])
    return found | {"texts": texts}
