"""What the log-probabilities promise, on two CPU cores and on one H200, and the tables of a run's document.

On a CPU the bars are ratios to the dense way in the same run, of time and of peak extra memory. On a card they are
seconds at one size, n = 8,192 tokens, d = 4,096, V = 128,256 in bf16, where one product takes 10.9 ms at the rate that
an H200 reached in other measurements (788 TFLOP/s). A bar is "not measured" when the run left its method or size out.
"""

from typing import Any

from minilib.bench import tables
from minilib.teaching.memory import format_bytes

FROZEN = "dense, frozen head"
RATIOS = {("tiled", "dense"): 0.90, ("margin sweep", "dense"): 0.75, ("tiled, frozen head", FROZEN): 0.75}
MEMORY = 1 / 15  # of dense, for every method of ours
CARD_SIZE = {"tokens": 8192, "dim": 4096, "words": 128_256}
CARD_SECONDS = {"must": 0.052, "stretch": 0.042}  # of the margin sweep, which three products keep above 0.033


def bars(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every bar with its limit, the measured figure and whether it held; None where it was not measured."""
    found = _card_bars(document) if document.get("unit") == "card" else _cpu_bars(document)
    return [
        {"claim": claim, "limit": limit, "measured": measured, "held": None if measured is None else measured <= limit}
        for claim, limit, measured in found
    ]


def report(document: dict[str, Any], table: tables.Table = tables.markdown) -> str:
    """The figures and the bars of a run, as Markdown or as plain text."""
    unit, rows = document.get("unit", "cpu"), []
    for name, spent in document[unit].items():
        ratio, peak = document["ratio"][name], document["memory"].get(name)
        spread = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else "-"
        weight = format_bytes(peak) if peak else "-"
        rows.append([name, f"{spent['median']:.{2 if unit == 'cpu' else 4}f}", spread, weight])
        rows[-1].append(f"{document['error'][name]:.0e}")
    header = ["method", "CPU s" if unit == "cpu" else "card s", "to its dense", "extra peak", "error"]
    parts = [_title(document["settings"]), tables.machine_section(document), table(header, rows)]
    parts += [_neighbours(document), tables.skipped_section(document)]
    figure = lambda value: "-" if value is None else f"{value:.3f}"  # noqa: E731
    verdict = {True: "yes", False: "NO", None: "not measured"}
    rows = [[b["claim"], figure(b["limit"]), figure(b["measured"]), verdict[b["held"]]] for b in document["bars"]]
    parts.append(table(["claim", "at most", "measured", "held"], rows))
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(settings: dict[str, Any]) -> str:
    return (
        f"Loss and gradients of one pair, {settings['tokens']:,} tokens, d = {settings['dim']:,}, V = "
        f"{settings['words']:,}, {settings.get('dtype', 'fp32')}: median (smallest to largest) of {settings['rounds']} "
        "rounds"
    )


def _neighbours(document: dict[str, Any]) -> str:
    own, others = sum(s["spent"] for r in document["rounds"] for s in r.values()), sum(document["others"])
    return f"Other processes used {100 * others / (own + others):.0f}% of the CPU time during the rounds."


def _cpu_bars(document: dict[str, Any]):
    for (name, base), limit in RATIOS.items():
        ratio = document["ratio"].get(name)
        peaks = [document["memory"].get(way) for way in (name, base)]
        yield f"{name} / {base}, time", limit, ratio and ratio["median"]
        yield f"{name} / {base}, extra memory", MEMORY, peaks[0] / peaks[1] if all(peaks) else None


def _card_bars(document: dict[str, Any]):
    at_size = all(document["settings"][name] == value for name, value in CARD_SIZE.items())
    spent = document["card"].get("margin sweep") if at_size else None
    for kind, limit in CARD_SECONDS.items():
        yield f"margin sweep, seconds ({kind})", limit, spent and spent["median"]
