"""Runs every arm under every seed, several at a time, each in a fresh process; goes on where it stopped.

output/pairs/SEED.jsonl          the pairs of a seed, the same for all arms
output/records/ARM-SEED.json     one finished run; one that is there, with the same settings, is not run again
output/alignment.json            all records, means, spread and verdicts
output/alignment.md, *.png       the page and its figures
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minilib.bench import device, harness
from minilib.bench.ablation import one_run, pages
from minilib.bench.ablation.arms import Arm, named
from minilib.bench.real_alignment.campaign import real_alignment
from minilib.bench.records import line_by_line
from minilib.common import write_text
from minilib.models.loading import is_tiny

FULL = {
    "rows": 640, "pairs": 160, "steps": 200, "batch": 8, "lr": 1e-3, "rank": 16, "modules": ["q_proj", "k_proj"],
    "target": 1_000, "samples": 80, "lengths": [128, 224, 352, 480, 608, 736, 864, 992],
    "multi_lengths": [224, 480, 992],
}  # fmt: skip
CURVE = ("step", "loss", "rewards/margins", "rewards/chosen", "rewards/rejected", "rewards/accuracies")
CURVE += ("logps/chosen", "lora_delta_norm")
QUICK = {"rows": 12, "pairs": 4, "steps": 2, "batch": 2, "samples": 5, "lengths": [64, 300], "multi_lengths": [64]}


def bench_alignment(
    arms: list[str] | None = None, seeds: tuple[int, ...] = (1, 2, 3), workers: int | None = None, quick: bool = False,
    output: Path | None = None, model: str = "tiny", budget: float | None = None,
    texts: dict[str, int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compare LOGO with its neighbours and without each of its parts on the tiny model; about an hour on two cores.

    The same command goes on after an interrupt. With model "smollm2" other arms on a real model, an hour a run.

    Args:
        arms: names of arms to run, by default all; "base" always runs along, the others are compared with it.
        seeds: of pairs, training and scores; three or more give a spread worth reading.
        workers: runs at a time, by default one for each usable core.
        quick: a few steps and samples, to see that everything runs; its figures judge nothing.
        output: folder for pairs, records, the document, the page and its figures, by default one for each model.
        model: "tiny", or a real one that answers in chats, "smollm2".
        budget: seconds after which a real model's runs stop, each with a checkpoint; by default none.
        texts: tokens and how many texts a real model is asked about, by default those of the campaign.
    """
    output = output or Path("runs/bench") / ("alignment" if is_tiny(model) else f"alignment_{Path(model).name}")
    if not is_tiny(model):
        return real_alignment(model, arms, tuple(seeds), workers, quick, output, budget, texts)
    if texts or budget:
        raise ValueError("model is 'tiny' and has no texts or budget: leave them out, or give --model smollm2.")
    settings = FULL | (QUICK if quick else {})
    wanted = named(None if arms is None else ["base", *(name for name in arms if name != "base")])
    for folder in ("pairs", "records"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    reports = _all(workers, "pairs", [(one_run.make_pairs, s, settings, _pairs(output, s)) for s in seeds])
    records = _all(workers, "runs", [(_record, arm, s, settings, output) for s in seeds for arm in wanted])
    order = [arm.name for arm in wanted]
    records.sort(key=lambda record: (order.index(record["arm"]), record["seed"]))
    document = {"benchmark": "alignment", "settings": settings, "seeds": list(seeds), "machine": device.describe()}
    document |= {"pairs": sorted(reports, key=lambda report: report["seed"])}
    document |= pages.summarise(records) | {"records": [_slim(record) for record in records]}
    write_text(output / "alignment.json", line_by_line(document))
    pages.write(output, document)
    print(pages.plain(document))
    return document


def _record(arm: Arm, seed: int, settings: dict[str, Any], output: Path) -> dict[str, Any]:
    """The record of one run, from its file if an earlier campaign with the same settings has finished it."""
    name = re.sub(r"[^a-z0-9]+", "_", arm.name.lower()).strip("_")
    path = output / "records" / f"{name}-{seed}.json"
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["settings"] == settings:
            return record
    record = one_run.run(arm, seed, settings, _pairs(output, seed))
    write_text(path, json.dumps(record, indent=1) + "\n")
    return record


def _slim(record: dict[str, Any]) -> dict[str, Any]:
    """The record as the document keeps it: of the training curve what a picture shows."""
    curve = [{name: round(point[name], 4) for name in CURVE if name in point} for point in record.get("curve", ())]
    return record | ({"curve": curve} if curve else {})


def _all(workers: int | None, title: str, jobs: list[tuple]) -> list[Any]:
    """The results of the jobs (function, *arguments), each in a process of its own, `workers` at a time."""
    spawn, workers = multiprocessing.get_context("spawn"), workers or harness.usable_cores()
    os.environ |= harness.quiet_environment(1)  # read by the processes when they start
    with ProcessPoolExecutor(workers, mp_context=spawn, max_tasks_per_child=1) as pool:
        futures = [pool.submit(*job) for job in jobs]
        try:
            return [f.result() for f in tqdm(as_completed(futures), total=len(futures), desc=title, unit="run")]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _pairs(output: Path, seed: int) -> Path:
    return output / "pairs" / f"{seed}.jsonl"
