"""All arms on a real model: pairs first, then run after run, each in a fresh process; it goes on where it stopped.

    OUTPUT/pairs.jsonl             the pairs, and pairs.jsonl.state; a finished file may be laid there, or one above
    OUTPUT/runs/, OUTPUT/records/  see `one_run`
    OUTPUT/real_alignment.json     all records and what follows from them; .md is the page

The campaign of the book goes on in book/results/smollm2, with `--output book/results/smollm2`; other texts are asked
about in a folder below: `--texts '{4000: 4, 7000: 6}' --seeds '[4,5,6]' --output book/results/smollm2/longer`.

Texts beyond the window take nearly half of the time of all scores, so they are asked about under one seed alone.
With a budget, no run begins after it and one that is under way stops with a checkpoint. A record with other settings
is an error: results of two campaigns are not mixed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from minilib.bench import harness
from minilib.bench.real_alignment import figures, one_run, pages
from minilib.bench.real_alignment.arms import Arm, in_order, named
from minilib.bench.records import line_by_line, opened
from minilib.common import write_text

FULL: dict[str, Any] = {
    "quick": False, "pairs": 160, "rows": 3_000, "length": 1_500, "text_seed": 7, "chunk": 32, "chunks": 16,
    "asked_at_once": 8, "accumulate": 4, "lr": 1e-4, "rank": 16, "alpha": 32, "target": 8_192, "save_every": 10,
    "texts": {"1000": 8, "2000": 6, "4000": 4, "7000": 2, "10000": 2, "14000": 1}, "answer_tokens": 32,
    "perplexity_tokens": 1_024, "perplexity_texts": 4, "window": 8_192,
    "beyond_seed": 3,  # the last seed, since the first is to tell about all arms soon
}  # fmt: skip
QUICK = {"quick": True, "pairs": 4, "rows": 30, "length": 600, "chunk": 64, "chunks": 3, "accumulate": 2, "lr": 1e-3}
QUICK |= {"rank": 2, "target": 512, "texts": {"220": 2, "300": 1}, "perplexity_tokens": 64, "answer_tokens": 4}
QUICK |= {"perplexity_texts": 1, "window": 256}


def real_alignment(
    model: str, arms: list[str] | None, seeds: tuple[int, ...], workers: int | None, quick: bool, output: Path,
    budget: float | None, texts: dict[str, int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run what is left of the campaign within the budget of seconds, and write document and page."""
    texts = {str(tokens): count for tokens, count in (texts or {}).items()}  # YAML reads 4000 as a number
    if wrong := [n for n, count in texts.items() if not n.isdecimal() or int(n) < 100 or count < 1]:
        raise ValueError(f"texts has {wrong[0]!r}: give tokens, 100 or more, and a number of texts, as '{{4000: 4}}'.")
    deadline = None if budget is None else time.time() + budget
    settings = FULL | (QUICK if quick else {}) | ({"texts": texts} if texts else {})
    (output / "records").mkdir(parents=True, exist_ok=True)
    done = {(record["arm"], record["seed"]) for record in _records(output, settings)}
    jobs = [(arm, seed) for arm, seed in in_order(named(arms), seeds) if (arm.name, seed) not in done]
    run_jobs = _here if quick else _in_processes
    for share in sorted({arm.pairs for arm, _ in jobs}):  # nobody waits for the pairs of the largest arm
        wanted = round(share * settings["pairs"])
        run_jobs(1, [(one_run.make_pairs, model, settings, wanted, one_run.pairs_file(output), deadline)])
        if _pairs(output) >= wanted:
            now = [job for job in jobs if job[0].pairs == share]
            run_jobs(workers, [(_run, arm, seed, model, settings, output, deadline) for arm, seed in now])
    document = write(output, settings)
    print(pages.plain(document) if document["records"] else f"{output}: no run is finished, the same command goes on")
    return document


def write(output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The document and its page, from the records that are there."""
    records = _records(output, settings)
    document = {"benchmark": "real_alignment", "settings": settings, "pairs": _pairs(output), **_prompts(output)}
    document["pairs_file"] = Path(os.path.relpath(one_run.pairs_file(output), output)).as_posix()
    document |= figures.summarised(records, settings) | {"records": records}
    write_text(output / "real_alignment.json", line_by_line(document))
    if records:
        write_text(output / "real_alignment.md", pages.page(document))
    return document


def _run(arm: Arm, seed: int, model: str, settings: dict[str, Any], output: Path, deadline: float | None) -> None:
    record = one_run.run(arm, seed, model, settings, output, deadline)
    write_text(output / "records" / f"{arm.under(seed)}.json", json.dumps(record) + "\n")
    for folder in (output / "runs" / arm.under(seed)).glob("checkpoint-*"):
        shutil.rmtree(folder)
    write(output, settings)


def _records(output: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of the finished runs; ValueError where one has other settings."""
    return [opened(path, settings, "arm") for path in sorted((output / "records").glob("*.json"))]


def _pairs(output: Path) -> int:
    path = one_run.pairs_file(output)
    return sum(1 for _ in open(path, encoding="utf-8")) if path.exists() else 0


def _prompts(output: Path) -> dict[str, Any]:
    """How many prompts were answered to get the pairs, and why how many of them gave none."""
    path = one_run.pairs_file(output).with_suffix(".jsonl.state")
    state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": 0, "counts": {"skipped": {}}}
    return {"prompts": state["rows"], "skipped": state["counts"]["skipped"]}


def _here(_workers: int | None, jobs: list[tuple]) -> None:
    """Run small jobs one after the other in this process."""
    for function, *arguments in jobs:
        with suppress(one_run.OutOfTimeError):
            function(*arguments)


def _in_processes(workers: int | None, jobs: list[tuple]) -> None:
    """Run jobs (function, *arguments) each in a fresh process; when the time is over, no further one begins."""
    spawn, workers, left = multiprocessing.get_context("spawn"), workers or harness.usable_cores(), list(jobs)
    os.environ |= harness.quiet_environment(1)  # read by the processes when they start
    with ProcessPoolExecutor(workers, mp_context=spawn, max_tasks_per_child=1) as pool:
        going = {pool.submit(*left.pop(0)) for _ in range(min(workers, len(left)))}
        while going:
            done, going = wait(going, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    future.result()
                except one_run.OutOfTimeError:
                    left.clear()
                    continue
                if left:
                    going.add(pool.submit(*left.pop(0)))
