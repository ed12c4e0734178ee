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
from pathlib import Path

from minilib.bench import report
from minilib.bench.gpu.bars import Run, judged, result_of
from minilib.common import write_text
from minilib.kernels import HELD_ON

ROOT = Path(__file__).parents[3]
TORCH_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
BEGIN, END = "<!-- on a GPU -->", "<!-- end -->"
NOT_YET, FIGURES = "not measured yet", "[figures](book/results/on_a_gpu.md)"
NOT_RUN = "exact in Triton's interpreter and compile for sm_90, but have not run on a GPU yet, so `auto` picks tiled."


def main(root: Path = ROOT, held_on: Path = HELD_ON) -> None:
    """Write the page, the kinds of GPU on which `auto` is fused, and the sentence of the README."""
    records, results = read(root), root / "book" / "results"
    notes = results / "on_a_gpu_notes.txt"
    write_text(results / "on_a_gpu.md", of_book(records, notes.read_text(encoding="utf-8") if notes.exists() else ""))
    write_text(held_on, json.dumps(held(records), indent=1) + "\n")
    write_text(root / "README.md", told((root / "README.md").read_text(encoding="utf-8"), held(records)))


def read(root: Path = ROOT) -> dict[str, Run]:
    """The committed records by the names of their files; ValueError for one of a dry run."""
    files = sorted((root / "book" / "results").glob("on_a_gpu_*.json"))
    found = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
    for name, run in found.items():
        if run["dry"]:
            raise ValueError(f"{name} is of a dry run, whose figures mean nothing: commit one of a GPU.")
    return found


def held(records: dict[str, Run]) -> Run:
    """The dtypes in which every fused kernel held, by the name of the GPU, with the record: for `minilib.kernels`."""
    found = {}
    for name, run in records.items():  # a later record of the same GPU speaks for the kernels as they are now
        gate, machine = result_of(run, "gate"), result_of(run, "machine")
        if gate and machine:
            dtypes = [TORCH_NAMES[dtype] for dtype, right in gate["held"].items() if right]
            found[machine["machine"]["gpu"]["name"]] = {"dtypes": dtypes, "record": name}
    return {gpu: row for gpu, row in found.items() if row["dtypes"]}


def told(readme: str, gpus: Run) -> str:
    """The README with its sentence about GPUs as it is now."""
    before, found, rest = readme.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"README.md has no {BEGIN} followed by {END}: put both around the sentence about GPUs.")
    where = " and ".join(f"{gpu} ({', '.join(row['dtypes'])})" for gpu, row in gpus.items())
    proven = f"exact against fp64 on {where}:\n`auto` picks them there, and tiled elsewhere ({FIGURES})."
    return f"{before}{BEGIN}\n{proven if gpus else NOT_RUN} {END}{after}"


def of_book(records: dict[str, Run], notes: str = "") -> str:
    """The page of the book."""
    columns = {name.removesuffix(".json").removeprefix("on_a_gpu_"): run for name, run in records.items()}
    rows = [row | {"measured": None} for row in judged({"stops": []})]
    for column, run in (columns or {"measured": {"stops": []}}).items():
        for row, own in zip(rows, report.formed(judged(run))):
            row[f"run {column}"] = _cell(own)
    document = {"columns": list(columns) or ["measured"], "bars": rows, "notes": notes.strip(), "last": None}
    for name, run in list(records.items())[-1:]:
        document |= {"name": name, "last": run | {"bars": judged(run)}}
    return report.whole("on_a_gpu", document)


def of_run(run: Run) -> str:
    """One run, as far as it has come: what each stop cost, the bars, and every stop's figures."""
    return report.whole("gpu_run", run | {"bars": judged({"stops": []} if run["dry"] else run)})


def _cell(row: Run) -> str:
    if row["measured"] is None:
        return NOT_YET
    line = report.build(report.markdown, "a", "{measured:{form}}, {held:yes}", [row]).splitlines()[-1].strip("| ")
    return line + (f", {row['share']:.0%} of floor" if row.get("share") else "")


if __name__ == "__main__":
    main()
