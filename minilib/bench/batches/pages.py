"""The experiment on batch sizes as tables, figures and a verdict: from records to the page, for terminal and book.

    replicate    one draw of the data with one seed; all cells of an amount of data are compared within it
    mean         over the draws, each the mean of its seeds: seeds of one draw share its data
    interval     of a mean over n draws: mean -+ t s / sqrt(n), with Student's t of n - 1 degrees for 95 %
    behind       recall(best cell) - recall(this cell), replicate by replicate; the best by its mean
    tied         batches whose interval of `behind` holds zero: these draws do not tell them from the best
    best batch   that of the highest mean recall, and in each draw that of the highest recall

The best batch **grows** with the data where in every draw it is larger at the largest amount than at the smallest, and
does not where that is so in none; between them these runs cannot tell. A best batch that is the smallest tried at its
amount counts as larger only than one that was tried there as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from minilib.bench import report
from minilib.bench.batches import plan
from minilib.bench.batches.plan import Cell, cell_of, run_of
from minilib.teaching import plots

LEARNED = 5  # a cell has learned something where its recall is this many times that of guessing
CELLS = "pairs | batch | recall@1, test | by draw | 95 % interval | behind the best | 95 % interval"
CELL = "{pairs:,} | {batch:,} | {mean:.1%} | {by_draw:.1%} | {low:.1%} to {high:.1%} | {behind[0]:.1%} | "
CELL += "{behind[1]:.1%} to {behind[2]:.1%}"
TOOK = "pairs | batch | steps | learning rate | same caption | same outline | runs | CPU s a run"
TOOK_LINE = "{pairs:,} | {batch:,} | {steps:,} | {lr:g} | {same_caption:.0%} | {same_outline:.0%} | {runs} | "
TOOK_LINE += "{cpu_seconds:,.0f}"
BEST = "pairs | best batch | recall@1, test | best in each draw | not told apart | not at an edge"
BEST_LINE = "{pairs:,} | {batch:,} | {mean:.1%} | {by_draw:,} | {tied:,} | {interior:yes}"
MASKED = "pairs | batch | recall@1, test | masked | gained | 95 % interval | draws"
MASKED_LINE = "{pairs:,} | {batch:,} | {plain:.1%} | {masked:.1%} | {gain[0]:+.1%} | "
MASKED_LINE += "{gain[1]:+.1%} to {gain[2]:+.1%} | {draws}"
Curve = dict[tuple[int, int], float]  # recall by (draw, seed)
Runs = dict[tuple[int, int], dict[str, Any]]  # records by (draw, seed)


def summarise(document: dict[str, Any]) -> dict[str, Any]:
    """`cells`, `best` and `verdicts` of every arm, `masked` beside unmasked, and how far the plan has come."""
    settings, records = document["settings"], document["records"]
    tuned = _tuned(settings, records)
    curves = {cell: {replicate: run["test"] for replicate, run in runs.items()} for cell, runs in tuned.items()}
    found: dict[str, Any] = {"cells": {}, "best": {}, "verdicts": {}}
    for arm in dict.fromkeys((cell.data, cell.budget) for cell in curves if not cell.masked):
        mine = {cell: curve for cell, curve in curves.items() if (cell.data, cell.budget, cell.masked) == (*arm, False)}
        name, sizes = f"{arm[0]}, equal {arm[1]}", sorted({cell.pairs for cell in mine})
        parts = {pairs: {cell: c for cell, c in mine.items() if cell.pairs == pairs} for pairs in sizes}
        rows = {pairs: _cell_rows(part, tuned) for pairs, part in parts.items()}
        found["cells"][name] = [row for part in rows.values() for row in part]
        found["best"][name] = [_best_row(part, rows[pairs], settings) for pairs, part in parts.items()]
        found["verdicts"][name] = _verdict(found["best"][name], len(settings["batches"]))
    done = {run_of(record) for record in records}
    named = set(plan.wanted(settings, records))
    found["masked"] = _masked_rows(curves)
    if found["masked"]:
        found["verdicts"]["false negatives masked"] = _masked_verdict(found["masked"], settings["test"])
    at_limit = sum(next(iter(runs.values()))["lr"] in settings["lr_limits"] for runs in tuned.values())
    return found | {"at_limit": at_limit, "done": len(done), "known": len(named | done)}


def page(document: dict[str, Any]) -> str:
    """The whole page as Markdown."""
    machines = [{"machine": machine} for machine in document["machines"]]
    figures = {name: figure.alt_text for name, figure in figures_of(document).items()}
    return report.whole("batches", document | {"described": machines, "figures": figures, "tables": tables(document)})


def plain(document: dict[str, Any]) -> str:
    """Verdicts and tables for a terminal."""
    if "cells" not in document:
        return "No run is finished yet."
    verdicts = (f"{name}: {verdict['sentence']}" for name, verdict in document["verdicts"].items())
    return "\n\n".join([*verdicts, *(f"{title}\n\n{table}" for title, table in tables(document, report.plain).items())])


def write(folder: Path, document: dict[str, Any]) -> None:
    """batches.md and its figures, in `folder`."""
    (folder / "batches.md").write_text(page(document))
    for name, figure in figures_of(document).items():
        (folder / f"{name}.png").write_bytes(plots.to_png(figure))


def tables(document: dict[str, Any], table: report.Table = report.markdown) -> dict[str, str]:
    """For each arm its best batches and all of its cells, then masked beside unmasked, by title."""
    found = {}
    for name, rows in document["best"].items():
        found[f"The best batch, {name}"] = report.build(table, BEST, BEST_LINE, rows)
        found[f"Every cell, {name}"] = report.build(table, CELLS, CELL, document["cells"][name])
        found[f"What a run took, {name}"] = report.build(table, TOOK, TOOK_LINE, document["cells"][name])
    masked = report.build(table, MASKED, MASKED_LINE, document["masked"])
    return found | ({"False negatives masked, glyphs, equal epochs": masked} if masked else {})


def figures_of(document: dict[str, Any]) -> dict[str, Any]:
    """A picture for each arm, by the name of its file."""
    found = {}
    for name, rows in document["cells"].items():
        curves: dict[int, dict] = {}
        for row in rows:
            ends = (row["mean"] if row[end] is None else row[end] for end in ("low", "high"))
            curves.setdefault(row["pairs"], {})[row["batch"]] = (row["mean"], *ends)
        file = f"batches_{name.replace(', equal ', '_')}"
        found[file] = plots.batch_curves(curves, title=f"Recall against batch size: {name}")
    return found


def _tuned(settings: dict[str, Any], records: list[dict[str, Any]]) -> dict[Cell, Runs]:
    """The runs of every cell whose learning rate is known, at that learning rate."""
    scores = {run_of(record): record["validation"] for record in records}
    tuned: dict[Cell, Runs] = {}
    for record in records:
        cell = cell_of(record)
        if record["lr"] == plan.best_lr(cell, settings, scores):
            tuned.setdefault(cell, {})[record["draw"], record["seed"]] = record
    return dict(sorted(tuned.items()))


def _draws(curve: Curve) -> list[float]:
    """The recall of every draw, the mean of its seeds."""
    draws = sorted({draw for draw, _ in curve})
    return [float(np.mean([recall for (draw, _), recall in curve.items() if draw == this])) for this in draws]


def _means(part: dict[Cell, Curve]) -> dict[Cell, float]:
    return {cell: float(np.mean(_draws(curve))) for cell, curve in part.items()}


def _cell_rows(part: dict[Cell, Curve], tuned: dict[Cell, Runs]) -> list[dict[str, Any]]:
    means = _means(part)
    best, rows = max(means, key=means.get), []
    for cell, curve in part.items():
        low, high = _interval(curve)[1:]
        both = {replicate: part[best][replicate] - curve[replicate] for replicate in curve if replicate in part[best]}
        runs = [*tuned[cell].values()]
        row = {"pairs": cell.pairs, "batch": cell.batch, "mean": means[cell], "by_draw": _draws(curve)}
        row |= {"low": low and max(low, 0.0), "high": high and min(high, 1.0)}  # of a share
        row |= {"behind": _interval(both) if both else None, "replicates": sorted(map(list, curve))}
        row |= {"draws": len(row["by_draw"]), "runs": len(runs)}
        row |= {name: runs[0][name] for name in ("lr", "steps", "same_caption", "same_outline")}
        spent = [run["cpu_seconds"] for run in runs if run.get("machine", 0) == 0]
        rows.append(row | {"cpu_seconds": float(np.mean(spent)) if spent else None})
    return rows


def _best_row(part: dict[Cell, Curve], rows: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    best = max(rows, key=lambda row: row["mean"])
    behind = {row["batch"]: row["behind"] for row in rows if row is not best and row["behind"]}
    tied = [batch for batch, (_, low, high) in behind.items() if low is not None and low <= 0 <= high]
    cell = next(iter(part))
    tried = plan.batches(settings, cell.data, cell.pairs, cell.budget)
    interior = min(tried) < best["batch"] < max(tried) if len(part) == len(tried) else None
    return {name: best[name] for name in ("pairs", "batch", "mean")} | {
        "by_draw": _best_by_draw(part), "tied": tied, "interior": interior, "tried": tried,
    }  # fmt: skip


def _best_by_draw(part: dict[Cell, Curve]) -> list[int]:
    """The best batch in each draw, over the replicates that all cells have."""
    common = set.intersection(*(set(curve) for curve in part.values()))
    recall = np.array([_draws({r: curve[r] for r in common}) for curve in part.values()])  # (cells, draws)
    return [[*part][best].batch for best in recall.argmax(0)] if common else []


def _verdict(rows: list[dict[str, Any]], planned: int) -> dict[str, Any]:
    """Whether the best batch grows with the data, in a sentence and as the number of draws in which it does."""
    path = ", ".join(f"{row['batch']:,} at {row['pairs']:,} pairs" for row in rows)
    few = min(len(row["by_draw"]) for row in rows)
    whole = sum(row["interior"] is not None for row in rows)
    if len(rows) < 2 or whole < len(rows) or few < 3:
        sentence = f"Not settled yet ({whole} of {planned} amounts of data have all batches, draws: {few}): {path}."
        return {"larger": None, "sentence": sentence}
    grown = {row["pairs"]: _larger(rows[0], row) for row in rows[1:]}
    counts = ", ".join(f"at {pairs:,} pairs in {sum(draws)} of {len(draws)} draws" for pairs, draws in grown.items())
    larger = grown[rows[-1]["pairs"]]
    start = "These runs cannot tell whether the best batch grows with the data"
    same = sorted(set(rows[0]["by_draw"]) & set(rows[-1]["tied"]))  # a larger best batch that is no better than these
    if (all(larger) and not same) or not any(larger):
        start = f"The best batch {'grows' if all(larger) else 'does not grow'} with the data"
    if all(row["batch"] == row["pairs"] for row in rows):
        start = "The mean is highest with all pairs at once"
    sentence = f"{start}. By the mean: {path}. Larger than at {rows[0]['pairs']:,} pairs: {counts}."
    if any(larger) and same:
        alike = " and ".join(map("{:,}".format, same))
        sentence += f" At {rows[-1]['pairs']:,} pairs the best is not told apart from {alike}."
    return {"larger": sum(larger), "sentence": sentence}


def _larger(small: dict[str, Any], large: dict[str, Any]) -> list[bool]:
    """In which draws the best batch is larger at the larger amount of data, and could have come out otherwise."""
    return [
        end > start and (end > min(large["tried"]) or start in large["tried"])
        for start, end in zip(small["by_draw"], large["by_draw"])
    ]


def _masked_rows(curves: dict[Cell, Curve]) -> list[dict[str, Any]]:
    rows = []
    for cell, masked in curves.items():
        plain = curves.get(cell._replace(masked=False), {})
        pair = {name: {r: c[r] for r in set(masked) & set(plain)} for name, c in (("plain", plain), ("masked", masked))}
        if cell.masked and pair["masked"]:
            row = {"pairs": cell.pairs, "batch": cell.batch, "draws": len(_draws(pair["masked"])), **_means(pair)}
            gain = {replicate: pair["masked"][replicate] - recall for replicate, recall in pair["plain"].items()}
            rows.append(row | {"gain": _interval(gain)})
    return rows


def _masked_verdict(rows: list[dict[str, Any]], test: int) -> dict[str, Any]:
    """How much masking changes the recall of cells that learned something, and in how many cells for sure."""
    gains = [row["gain"] for row in rows if row["plain"] >= LEARNED / test]
    if not gains:
        return {"sentence": "No cell has learned anything that masking could change."}
    sure = sum(low is not None and not low <= 0 <= high for _, low, high in gains)
    means = [100 * mean for mean, *_ in gains]
    told = f"The recall changes by {min(means):+.1f} to {max(means):+.1f} points in {len(gains)} of {len(rows)} cells"
    told += f", those with at least {LEARNED} times the recall of guessing"
    widest = max(gains, key=lambda gain: gain[2] - gain[1])
    told += f"; in {sure} of them the interval leaves out zero, and the widest goes from"
    return {"sentence": f"{told} {100 * widest[1]:+.1f} to {100 * widest[2]:+.1f}."}


def _interval(curve: Curve) -> list[float | None]:
    """The mean over the draws and the ends of its interval, None where there is one draw only."""
    from scipy import stats  # slow to import, and every command would wait for it

    draws = _draws(curve)
    mean = float(np.mean(draws))
    if len(draws) < 2:
        return [mean, None, None]
    half = float(stats.t.ppf(0.975, len(draws) - 1) * np.std(draws, ddof=1) / len(draws) ** 0.5)
    return [mean, mean - half, mean + half]
