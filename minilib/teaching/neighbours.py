"""python -m minilib.teaching.neighbours: the page book/neighbours.md, written from book/neighbours.yaml.

A table for each lab and one for what no lab tells of; a lab is linked once its notebook is there. A test compares the
page with what this command writes.
"""

from collections import Counter
from pathlib import Path

import yaml

from minilib.common import write_text

ROOT = Path(__file__).parents[2]
DATA, PAGE, LABS = ROOT / "book/neighbours.yaml", ROOT / "book/neighbours.md", ROOT / "notebooks/labs"
OUT = "What each is, and why no lab tells of it.\n"
OUTRO = "Written by `python -m minilib.teaching.neighbours` from `book/neighbours.yaml`.\n"


def system(row: dict) -> str:
    """Name, title and number of a work; a title that begins with the name is not told twice."""
    title, name = row["title"], row.get("name", row["title"])
    text = f"**{name}**{title[len(name) :]}" if title.startswith(name) else f"**{name[0].upper()}{name[1:]}**: {title}"
    number = f" [{row['arxiv']}](https://arxiv.org/abs/{row['arxiv']})" if "arxiv" in row else ""
    return text + number + " *unverified*" * row.get("unverified", False)


def cells(row: dict) -> list[str]:
    """System, what becomes of it, how it works; of what is out of scope: system, what it is, the reason."""
    line = row["line"] + " †" * row.get("title_only", False)
    if row["becomes"] == "out":
        return [system(row), line, row["reason"]]
    detail = row.get("entry", row.get("lessons", ""))
    kind = f"{'lessons' if row['becomes'] == 'core' else row['becomes']}&nbsp;{detail}".removesuffix("&nbsp;")
    return [system(row), kind, line + (f" Not built: {row['reason']}." if "reason" in row else "")]


def table(heads: tuple, rows: list[dict]) -> str:
    """A table that becomes a list of rows on a telephone."""
    lines = ["| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *map(cells, rows))]
    return "\n".join([":::{div} restack", *lines, ":::", ""])


def page(data: dict, labs: Path = LABS) -> str:
    """The whole page; `labs` is the folder of notebooks to link."""
    systems, heads = data["systems"], ("System", "Here", "How it works")
    counts = Counter(row["becomes"] for row in systems)
    entries = len({row["entry"] for row in systems if "entry" in row})
    notebooks = {number: next(labs.glob(f"{number:02d}_*.ipynb"), None) for number in data["labs"]}
    missing = [str(number) for number, notebook in notebooks.items() if notebook is None]
    built = f"Labs {', '.join(missing)} have no notebook: their works are named here and not built. " if missing else ""
    parts = [
        data["intro"].format(
            **counts, all=len(systems), others=len(systems) - counts["core"], entries=entries, built=built
        )
    ]
    parts += ["## The two papers\n", table(heads, [row for row in systems if row["becomes"] == "core"])]
    for number, lab in data["labs"].items():
        notebook = notebooks[number]
        link = f" [Open the lab](../notebooks/labs/{notebook.name})." if notebook else ""
        parts += [f"## Lab {number}. {lab['title']}\n", f"The wall: {lab['wall']}.{link}\n"]
        parts += [table(heads, [row for row in systems if row.get("lab") == number])]
    out = [row for row in systems if row["becomes"] == "out"]
    return "\n".join([*parts, "## Out of scope\n", OUT, table(("Work", "What it is", "Why it is out"), out), OUTRO])


def main(target: Path = PAGE) -> None:
    """Write the page."""
    write_text(target, page(yaml.safe_load(DATA.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
