"""What a training step with a shared prompt promises, and the tables of a run's document.

    model   bar
    tiny    shared / concatenated at M = 2, time       at most 0.5
            shared, peak at M = 8 / peak at M = 1      at most 1.5
    8b      concatenated / shared at M = 2, time       at least 2.3
            memory that the step at M = 8 leaves free  at least 30 GB       (set for one H200)

Time is the median over rounds of ratios taken within a round, memory the peak that a step adds to what lies there
between steps: weights, adapters and the optimizer's state. A bar is judged at the sizes that it was set for and is "not
measured" elsewhere.
"""

from typing import Any

from minilib.bench import tables
from minilib.bench.step_methods import SHARED, Method
from minilib.bench.step_models import SIZES
from minilib.teaching.memory import format_bytes


def bars(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The bars of this model with limit, sense, measured figure and whether it held; None where it was not measured."""
    settings = document["settings"]
    own = SIZES[settings["model"]]
    at_size = all(settings[name] == getattr(own, name) for name in ("prompt", "answer", "target"))
    found = {"tiny": _tiny_bars, "8b": _card_bars}.get(settings["model"], lambda document: [])(document)
    return [_judged(claim, sense, limit, measured if at_size else None) for claim, sense, limit, measured in found]


def report(document: dict[str, Any], table: tables.Table = tables.markdown) -> str:
    """The figures and the bars of a run, as Markdown or as plain text."""
    unit, rows = document["unit"], []
    for name, spent in document[unit].items():
        ratio, peak = document["ratio"][name], document["peak"].get(name)
        rows.append([name, f"{document['tokens'][name]:,}", f"{spent['median']:.3f}", _spread(ratio)])
        rows[-1] += [format_bytes(peak) if peak else "-", f"{document['loss'][name]:.4f}"]
        if "spare" in document:
            rows[-1].append(format_bytes(document["spare"][name]))
    seconds = "CPU s" if unit == "cpu" else "card s"
    header = ["method", "tokens", seconds, "to concatenated", "extra peak", "loss"]
    parts = [
        _title(document["settings"]),
        tables.machine_section(document),
        table(header + ["left free"] * ("spare" in document), rows),
        f"Other processes used {100 * document['others']:.0f}% of the CPU time during the rounds.",
        tables.skipped_section(document),
        _bars_table(document["bars"], table),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tiny_bars(document: dict[str, Any]):
    ratio = document["ratio"].get(Method(SHARED, 2).name)
    peaks = [document["peak"].get(Method(SHARED, count).name) for count in (8, 1)]
    yield "shared / concatenated, M = 2, time", "at most", 0.5, ratio and ratio["median"]
    yield "shared, extra peak at M = 8 / at M = 1", "at most", 1.5, peaks[0] / peaks[1] if all(peaks) else None


def _card_bars(document: dict[str, Any]):
    ratio = document["ratio"].get(Method(SHARED, 2).name)
    spare = document.get("spare", {}).get(Method(SHARED, 8).name)
    yield "concatenated / shared, M = 2, time", "at least", 2.3, ratio and 1 / ratio["median"]
    yield "shared, M = 8, GB left free", "at least", 30.0, None if spare is None else spare / 1e9


def _judged(claim: str, sense: str, limit: float, measured: float | None) -> dict[str, Any]:
    held = None
    if measured is not None:
        held = measured <= limit if sense == "at most" else measured >= limit
    return {"claim": claim, "sense": sense, "limit": limit, "measured": measured, "held": held}


def _bars_table(bars: list[dict[str, Any]], table: tables.Table) -> str:
    verdict = {True: "yes", False: "NO", None: "not measured"}
    figure = lambda value: "-" if value is None else f"{value:.2f}"  # noqa: E731
    rows = [[b["claim"], f"{b['sense']} {b['limit']:g}", figure(b["measured"]), verdict[b["held"]]] for b in bars]
    return table(["claim", "bar", "measured", "held"], rows) if rows else ""


def _title(settings: dict[str, Any]) -> str:
    return (
        f"One training step of {settings['model']}, a prompt of {settings['prompt']:,} tokens with positions to "
        f"{settings['target']:,}, answers of {settings['answer']}: median (smallest to largest) of "
        f"{settings['rounds']} rounds"
    )


def _spread(ratio: dict[str, float] | None) -> str:
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else "-"
