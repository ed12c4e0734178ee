"""The tour's report: one HTML page that needs nothing beside itself, no network and no other file.

Pictures are embedded with their alt text, numbers come from metrics.json; every sentence that claims something is
chosen by the numbers, so that a tour which came out otherwise says so.

Proven in tests/test_the_tour_ends_with_a_report.py.
"""

import base64
import html
from pathlib import Path

import jinja2

from minilib.teaching.memory import format_bytes

TEMPLATE = Path(__file__).with_name("report.html")


def write_report(output: Path, metrics: dict) -> Path:
    """Write `report.html` from the figures in `output` and the tour's metrics; returns its path."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"bytes": format_bytes, "share": lambda x: f"{x:.1%}"}
    template = environment.from_string(TEMPLATE.read_text())
    page = template.render(figure=lambda name: _figure(output, name), verdict=verdicts(metrics), **metrics)
    path = output / "report.html"
    path.write_text(page)
    return path


def verdicts(metrics: dict) -> dict[str, str]:
    """One sentence per stop, as the numbers have it."""
    return {"curves": _curves(metrics["curves"]), "batches": _batches(metrics["batches"]), "giant": _giant(metrics)}


def _curves(curves: dict) -> str:
    difference = curves["largest_difference"]
    same = "one curve" if difference < 1e-4 else "two curves, which they should not be"
    steps = len(curves["losses"]["dense"])
    return f"Dense and tiled give {same}: the largest difference over {steps} steps is {difference:.1e}."


def _batches(batches: dict) -> str:
    seen = f"{batches['pairs_seen']:,} pairs seen, {len(batches['seeds'])} seed{'s' * (len(batches['seeds']) > 1)}"
    recall = {int(batch): mean for batch, mean in batches["mean_recall"].items()}
    if list(recall.values()) == sorted(recall.values()):
        return f"Mean recall@1 rises with every step in batch size ({seen})."
    told = ", ".join(f"{mean:.1%} at {batch:,}" for batch, mean in recall.items())
    best = max(recall, key=recall.get)
    return (
        f"Mean recall@1 does not rise with every step in batch size; the best batch here is {best:,} ({told}; {seen}). "
        "At equal pairs seen, a larger batch also means fewer optimizer steps."
    )


def _giant(metrics: dict) -> str:
    giant, machine = metrics["giant"], metrics["wall"]["machine_bytes"]
    needs = f"Dense would need {format_bytes(giant['dense_bytes'])} for its four matrices"
    fits = "more than the" if giant["dense_bytes"] > machine else "which would have fitted into the"
    peak = f"this whole process never held more than {format_bytes(giant['process_peak_bytes'])}"
    return f"{needs}, {fits} {format_bytes(machine)} of this machine; {peak}."


def _figure(output: Path, name: str) -> jinja2.utils.markupsafe.Markup:
    data = base64.b64encode((output / f"{name}.png").read_bytes()).decode()
    alt = html.escape((output / f"{name}.txt").read_text().strip(), quote=True)
    return jinja2.utils.markupsafe.Markup(f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"></figure>')
