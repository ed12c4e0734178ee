"""A run on a GPU as Markdown, and what follows from the committed ones: python -m minilib.bench.gpu.page

    book/results/on_a_gpu_*.json    records of `python -m minilib bench gpu`, one of each kind of GPU or of each version
    book/results/on_a_gpu.md        the page: bars with a column for each record, the last record in full
    minilib/kernels/held_on.json    the kinds of GPU on which the gate held: there `auto` is fused
    README.md                       the sentence between its marks

Without a record the page says "not measured yet" everywhere. Lines of book/results/on_a_gpu_notes.txt, if it is there,
stand in the page: what was predicted, changed and measured between two runs.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from minilib.bench import report
from minilib.bench.gpu import bars
from minilib.bench.report import markdown
from minilib.common import write_text
from minilib.kernels import HELD_ON

ROOT = Path(__file__).parents[3]
TORCH_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
BEGIN, END = "<!-- on a GPU -->", "<!-- end of on a GPU -->"
NOT_YET = "not measured yet"
NOT_RUN = (
    """exact in Triton's interpreter and compile for sm_90, but have not run on a GPU yet, so `auto` picks tiled."""
)
INTRO = """# On a GPU

`python -m minilib bench gpu` measures every claim about a GPU in eight minutes, the most valuable first ([how to run
it](../how_to_use.md#measure-on-your-gpu)). This page is made from its records by `python -m minilib.bench.gpu.page`.
The bars were set for an H200 on which torch multiplies bf16 matrices at 788 TFLOP/s; those in seconds are scaled to the
rate that a GPU reaches itself. Share of floor: the fewest matmuls that give the same result, at that rate.
"""
Run = dict[str, Any]
build = partial(report.build, markdown)


def main(root: Path = ROOT, held_on: Path = HELD_ON) -> None:
    """Write the page, the kinds of GPU on which `auto` is fused, and the sentence of the README."""
    records, results = read(root), root / "book" / "results"
    notes = results / "on_a_gpu_notes.txt"
    write_text(results / "on_a_gpu.md", of_book(records, notes.read_text() if notes.exists() else ""))
    write_text(held_on, json.dumps(held(records), indent=1) + "\n")
    write_text(root / "README.md", told((root / "README.md").read_text(), held(records)))


def read(root: Path = ROOT) -> dict[str, Run]:
    """The committed records by the names of their files; ValueError for one of a dry run."""
    found = {
        file.name: json.loads(file.read_text()) for file in sorted((root / "book/results").glob("on_a_gpu_*.json"))
    }
    for name, run in found.items():
        if run["dry"]:
            raise ValueError(f"{name} is of a dry run, whose figures mean nothing: commit one of a GPU.")
    return found


def held(records: dict[str, Run]) -> Run:
    """The dtypes in which every fused kernel held, by the name of the GPU, with the record: for `minilib.kernels`."""
    found = {}
    for name, run in records.items():  # a later record of the same GPU speaks for the kernels as they are now
        gate, gpu = (result_of(run, stop) for stop in ("gate", "machine"))
        if gate and gpu:
            dtypes = [TORCH_NAMES[dtype] for dtype, right in gate["held"].items() if right]
            found[gpu["machine"]["gpu"]["name"]] = {"dtypes": dtypes, "record": name}
    return {gpu: row for gpu, row in found.items() if row["dtypes"]}


def told(readme: str, gpus: Run) -> str:
    """The README with its sentence about GPUs as it is now."""
    before, found, rest = readme.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"README.md has no {BEGIN} followed by {END}: put both around the sentence about GPUs.")
    where = " and ".join(f"{gpu} ({', '.join(row['dtypes'])})" for gpu, row in gpus.items())
    proven = f"exact against fp64 on {where}, where `auto`\npicks them ([figures](book/results/on_a_gpu.md)), and tiled elsewhere."
    return f"{before}{BEGIN}{proven if gpus else NOT_RUN}{END}{after}"


def of_book(records: dict[str, Run], notes: str = "") -> str:
    """The page of the book."""
    columns = {name.removesuffix(".json").removeprefix("on_a_gpu_"): run for name, run in records.items()}
    rows = bars.judged({"stops": []})
    for column, run in columns.items():
        for row, own in zip(rows, bars.judged(run)):
            row[column] = _cell(own)
    header = " | ".join(["claim", "must (H200)", "stretch (H200)", *(columns or ["measured"])])
    line = ["{claim}", "{must:{form}}", "{stretch:{form}}", *(f"{{{column}}}" for column in columns)]
    text = INTRO + "\n" + build(header, " | ".join(line if columns else [*line, NOT_YET]), rows) + "\n"
    if notes:
        text += f"\n## From run to run\n\n{notes.strip()}\n"
    if not columns:
        return text + f"\nNo GPU has run it: every figure above is {NOT_YET}.\n"
    name, run = list(records.items())[-1]
    return text + f"\n## [{name}]({name}) in full\n\n" + of_run(run).partition("\n")[2].strip() + "\n"


def _cell(row: Run) -> str:
    if row["measured"] is None:
        return NOT_YET
    cells = build("a", "{measured:{form}}, {held:yes}", [row]).splitlines()[-1].strip("| ")
    return cells + (f", {row['share']:.0%} of floor" if row["share"] else "")


def of_run(run: Run) -> str:
    """One run, as far as it has come: what each stop cost, the bars, and every stop's figures."""
    text = ["# A run on a GPU" + ", dry: its figures mean nothing" * run["dry"], _machine(run)]
    text.append(
        build(
            "stop | predicted s | took s | what became of it",
            "{name} | {predicted:.0f} | {seconds:.0f} | {status}. {told}",
            run["stops"],
        )
    )
    line = "{claim} | {must:{form}} | {stretch:{form}} | {measured:{form}} | {held:yes} | {share:.0%}"
    text.append(build("claim | must | stretch | measured | held | share of floor", line, bars.judged(run)))
    for stop in run["stops"]:
        if result := stop.get("result"):
            text += [
                f"## {stop['what'][0].upper()}{stop['what'][1:]}",
                f"Predicted from: {stop['how']}.",
                _figures(result),
            ]
    return "\n\n".join(part for part in text if part) + "\n"


def result_of(run: Run, name: str) -> Run | None:
    """The document of a stop, if it has one."""
    return next((stop.get("result") for stop in run["stops"] if stop["name"] == name), None)


def furthest(run: Run) -> str:
    """The stop whose bar is furthest from its floor: what is worth a profile."""
    known = [row for row in bars.judged(run) if row["stop"] and row["share"]]
    return min(known, key=lambda row: row["share"])["stop"] if known else "infonce"


def _machine(run: Run) -> str:
    found = result_of(run, "machine")
    return report.section("machine", found) if found else ""


def _figures(result: Run) -> str:
    """The tables of one stop's document."""
    kind = result["benchmark"]
    if kind == "contrastive":
        tables = [report.section("timing", result, markdown, k) for k in range(len(result["timings"]))]
        tables += [report.section(name, result, markdown) for name in ("memory", "equality", "skipped")]
        return "\n\n".join(filter(None, tables))
    if kind in ("logps", "step"):
        if not result.get(result["unit"]):
            return report.section("skipped", result)
        lines = report.section(kind, result, markdown).splitlines()
        return "\n".join(line for line in lines if not line.startswith(("Machine:", "GPU:", "System:")))
    header, line = TABLES[kind]
    return build(header, line, result["rows"]) + "".join(f"\n\nSkipped: {k}: {v}" for k, v in result["skipped"].items())


TABLES = {
    "gate": (
        "kernels | dtype | shape | tile | error | allowed | held",
        "{family} | {dtype} | {shape} | {tile} | {error:.1e} | {allowed:.0e} | {held:yes} {complaint}",
    ),
    "machine": ("what | per second", "{name} | {rate:.3e}"),
    "ring": (
        "ring | b | wall s | sent per b x d | error | right",
        "{name} | {batch:,} | {wall[median]:.4f} | {sent:.2f} | {error:.1e} | {held:yes} {complaint}",
    ),
    "profile": ("kernel | calls | ms | share", "{name} | {calls} | {seconds:ms} | {share:.0%}"),
}

if __name__ == "__main__":
    main()
