"""python -m minilib.teaching.evening_path: the ten files to read first and their line counts, for the README.

The list stands between two marks in README.md; a test compares it with the files as they are now.
"""

from pathlib import Path

from minilib.common import write_text

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- evening path -->", "<!-- end of the evening path -->"
# In reading order: what a file holds, in ten words at most.
FILES = {
    "lse.py": "the running state (m, s) and its merge",
    "kernels/contrastive_tiled.py": "tile visits forward and backward, in plain torch",
    "losses/contrastive.py": "`clip_loss` and `siglip_loss` over these visits",
    "trainers/grad_cache.py": "exact gradients of a batch larger than memory",
    "trainers/contrastive.py": "the training loop around both",
    "losses/preference.py": "DPO, SimPO, CPO, ORPO and LOGO, a formula each",
    "longcontext/positions.py": "position ids that make a short input look long",
    "longcontext/packing.py": "one prompt, 1 + M answers: the layout",
    "trainers/objectives.py": "the loss by name, and its metrics",
    "trainers/logo.py": "`LogoTrainer`",
}
MODULES = ["minilib." + name.removesuffix(".py").replace("/", ".") for name in FILES]


def block() -> str:
    """The list as Markdown, marks included."""
    counts = {name: len((ROOT / "minilib" / name).read_text("utf-8").splitlines()) for name in FILES}
    rows = [
        f"| {number} | [{name}](minilib/{name}) | {purpose} | {counts[name]} |"
        for number, (name, purpose) in enumerate(FILES.items(), 1)
    ]
    total = f"| | | together | {sum(counts.values()):,} |"
    return "\n".join([BEGIN, "", "| | file | what it holds | lines |", "|---|---|---|---|", *rows, total, "", END])


def updated(text: str) -> str:
    """`text` with the list as it is now between its marks."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"README.md has no {BEGIN} followed by {END}: put both where the list belongs.")
    return before + block() + after


def main(readme: Path = ROOT / "README.md") -> None:
    """Print the list and write it into the README."""
    write_text(readme, updated(readme.read_text(encoding="utf-8")))
    print(block())


if __name__ == "__main__":
    main()
