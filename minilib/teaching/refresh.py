"""python -m minilib.teaching.refresh notebooks/*.ipynb: execute lessons again and store their outputs.

A clean kernel runs each notebook from top to bottom; metadata is reduced to what readers need, so that the file holds
the lesson and nothing of the machine that ran it. Running it twice changes nothing: outputs tagged
`nbval-ignore-output` (timings, memory, training, widgets) are kept as stored unless something else in the notebook
changed; `--all` renews those as well.

The minutes in a lesson's overview, and in the table of the README, are computed. Reading: 120 words a minute and 5
seconds for a line of code, folds left out. Exercises: the minutes in their boxes, plus all folds, read in the same
way; an open task has minutes of its own. Both are rounded up to 5 minutes. `--minutes` writes
these alone and executes nothing.
"""

import argparse
import math
import os
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from tqdm.auto import tqdm

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
IGNORED = "nbval-ignore-output"
README = Path(__file__).parents[2] / "README.md"
WORDS_A_MINUTE, SECONDS_A_LINE = 120, 5
FOLD = re.compile(r"<details>.*?</details>", re.DOTALL)
BLOCK = re.compile(r"```.*?\n(.*?)```", re.DOTALL)
BOX = re.compile(r"^> \*\*Level.*importance.*?(\d+) minutes", re.MULTILINE)


def refresh(path: Path, *, renew_ignored: bool = False) -> bool:
    """Execute one notebook and write it back; True when the stored file changed."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    old, new = nbformat.reads(before, as_version=4), nbformat.reads(before, as_version=4)
    NotebookClient(new, timeout=600, kernel_name="python3", resources={"metadata": {"path": path.parent}}).execute()
    normalise(new)
    set_minutes(new)
    if not renew_ignored and _same_lesson(old, new):
        for stored, fresh in zip(old.cells, new.cells):
            if _is_ignored(fresh):
                fresh.outputs, fresh.metadata = stored.outputs, stored.metadata
    after = nbformat.writes(new) + "\n"
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


def normalise(notebook: NotebookNode) -> None:
    """Number cells and counts, drop machine-made metadata and widget models, give every picture its alt text."""
    ours = {key: value for key, value in notebook.metadata.items() if key == "minilib"}  # what a lab covers
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"}, **ours)
    count = 0
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = NotebookNode(tags=tags) if tags else NotebookNode()
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [_normalise_output(output, count) for output in _kept(cell.outputs)]
        alt_texts = [o.metadata["image/png"]["alt"] for o in cell.outputs if "image/png" in o.get("metadata", {})]
        if alt_texts:  # the key that Jupyter Book reads
            cell.metadata["mystnb"] = {"image": {"alt": " ".join(alt_texts)}}


def words(text: str) -> int:
    """How many words a reader of this Markdown reads: a formula or a name in code is one, an address none."""
    for pattern, left in (
        (BLOCK.pattern, " "),
        (r"\$\$.+?\$\$|\$[^$\n]+\$|`[^`\n]+`", " x "),
        (r"\]\([^)\s]*\)|<[^>]+>", " "),
    ):
        text = re.sub(pattern, left, text, flags=re.DOTALL)
    return len(re.findall(r"\w[\w'’.,-]*", text))


def minutes(notebook: NotebookNode) -> tuple[int, int]:
    """Minutes of reading and of exercises, by the rule above."""
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    folds, code = "\n".join(FOLD.findall(prose)), [c.source for c in notebook.cells if c.cell_type == "code"]
    reading = seconds(FOLD.sub("", prose), "\n".join(code))
    doing = 60 * sum(map(int, BOX.findall(prose))) + seconds(folds)
    return tuple(5 * math.ceil(each / 300) for each in (reading, doing))


def set_minutes(notebook: NotebookNode) -> None:
    """Write the minutes into the overview, where it has rows for them."""
    told = zip(("Reading", "Exercises"), minutes(notebook))
    for row, number in told:
        for cell in notebook.cells[:2]:
            cell.source = re.sub(rf"\| {row} \| \d+ minutes", f"| {row} | {number} minutes", cell.source)


def set_minutes_of_readme(notebooks: list[Path], readme: Path = README) -> None:
    """The last two columns of the README's table of lessons, from the overviews."""
    text = readme.read_text(encoding="utf-8")
    for path in notebooks:
        told = re.findall(r"\| (?:Reading|Exercises) \| (\d+) minutes", path.read_text(encoding="utf-8"))
        row = rf"^(\|.*\(notebooks/{re.escape(path.name)}\).*)\| \d+ \| \d+ \|$"
        if len(told) == 2:
            text = re.sub(row, rf"\g<1>| {' | '.join(told)} |", text, flags=re.MULTILINE)
    readme.write_text(text, encoding="utf-8")


def seconds(prose: str, code: str = "") -> float:
    """Seconds to read Markdown, with its blocks of code, and code, by the rule above."""
    lines = [line for source in (*BLOCK.findall(prose), code) for line in source.splitlines() if line.strip()]
    return 60 * words(prose) / WORDS_A_MINUTE + SECONDS_A_LINE * len(lines)


def _normalise_output(output: NotebookNode, count: int) -> NotebookNode:
    if output.output_type == "execute_result":
        output.execution_count = count
    return output


def _kept(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Consecutive pieces of a stream in one output (their cuts depend on timing), without warnings and sliders."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        if any("widget" in kind for kind in output.get("data", {})):
            continue  # a slider without its kernel shows nothing but its name
        if output.output_type == "stream" and joined and joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _same_lesson(old: NotebookNode, new: NotebookNode) -> bool:
    if [cell.source for cell in old.cells] != [cell.source for cell in new.cells]:
        return False
    compared = [(a, b) for a, b in zip(old.cells, new.cells) if b.cell_type == "code" and not _is_ignored(b)]
    return all(a.get("outputs") == b.outputs for a, b in compared)


def _is_ignored(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and IGNORED in cell.metadata.get("tags", [])


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute lessons again and store their outputs.")
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--all", action="store_true", help="renew timings, memory and training outputs as well")
    parser.add_argument("--minutes", action="store_true", help="compute the minutes alone, execute nothing")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("JPY_SESSION_NAME", None)  # started out of JupyterLab: pictures are stored as PNG all the same
    for path in tqdm(arguments.notebooks, desc="notebooks"):
        if arguments.minutes:
            notebook = nbformat.read(path, as_version=4)
            set_minutes(notebook)
            path.write_text(nbformat.writes(notebook) + "\n")
        else:
            print(f"{path.name}: {'refreshed' if refresh(path, renew_ignored=arguments.all) else 'unchanged'}")
    set_minutes_of_readme(arguments.notebooks)


if __name__ == "__main__":
    main()
