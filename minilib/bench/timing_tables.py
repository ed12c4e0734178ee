"""The table of times of one batch: on a CPU in CPU seconds, on a card in milliseconds of the card.

The columns are pairs of a heading and a function of one row of the summary (`timing`), so that a place differs from the
other by its list of columns.
"""

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]
CARD_NOTES = (
    "torch.mm of 8,192 x 8,192 matrices: {rates}. SigLIP is compared with dense SigLIP.",
    "share of mm: products of the method; of floor: the fewest products in O(b) memory (4 for InfoNCE, 3 for SigLIP or "
    "a frozen side, 1 forward);\nboth against torch.mm in the dtype of the features, fp32 without TF32.",
)


def timing_section(document: Row, timing: Row, table: Callable[[list[str], list[list[str]]], str]) -> str:
    """Seconds of one batch, with the ratios to dense and the share of the product rate."""
    settings, card = document["settings"], document.get("unit") == "card"
    what = "" if card else "fp32, "
    title = (
        f"Forward and backward, b = {timing['batch']:,}, d = {timing.get('dim', settings['dim'])}, {what}scale "
        f"{settings['scale']}: median (smallest to largest) of {len(timing['rounds'])} rounds"
    )
    columns = CARD if card else CPU
    rows = [[name, *(show(row) for _, show in columns)] for name, row in timing["summary"].items()]
    notes = _card_notes(timing) if card else _cpu_notes(timing)
    notes += [f"Skipped at this batch: {name}: {sentence}" for name, sentence in timing["skipped"].items()]
    return f"{title}\n\n{table(['method', *(heading for heading, _ in columns)], rows)}\n\n" + "\n".join(notes)


def _card_notes(timing: Row) -> list[str]:
    rates = ", ".join(f"{name} {rate['median'] / 1e3:.0f} TFLOP/s" for name, rate in timing["product_rates"].items())
    return [note.format(rates=rates) for note in CARD_NOTES] + _compiling(timing)


def _cpu_notes(timing: Row) -> list[str]:
    rate = (timing.get("product_rate") or timing["product_rates"]["fp32"])["median"]
    return [
        f"torch.mm on cache-sized tiles: {rate:.0f} GFLOP per CPU second. SigLIP is compared with dense SigLIP.",
        f"Other processes used {timing['others']:.0%} of the CPU time during the rounds.",
        *_compiling(timing),
    ]


def _compiling(timing: Row) -> list[str]:
    compiled = timing["first_call"].get("compiled dense")
    return [f"Compiling the dense loss and calling it once took {compiled:.0f} s."] if compiled else []


def _spread(unit: str, factor: float, form: str) -> list[Callable[[Row], str]]:
    def middle(row: Row) -> str:
        return format(row[unit]["median"] * factor, form)

    def ends(row: Row) -> str:
        return f"{format(row[unit]['min'] * factor, form)} to {format(row[unit]['max'] * factor, form)}"

    return [middle, ends]


def _dense(row: Row) -> dict[str, float] | None:
    return row["ratios"].get(row["dense"])


def _ratio(row: Row) -> str:
    return f"{_dense(row)['median']:.2f}" if _dense(row) else "-"


def _ratio_range(row: Row) -> str:
    return f"{_dense(row)['min']:.2f} to {_dense(row)['max']:.2f}" if _dense(row) else "-"


def _authors(row: Row) -> str:
    return f"{row['ratios']['inf-cl']['median']:.3f}" if "inf-cl" in row["ratios"] else "-"


def _products(row: Row) -> str:
    return f"{row['products']:g}"


def _rate(divisor: float) -> Callable[[Row], str]:
    return lambda row: f"{row['rate']['median'] / divisor:,.0f}" if row.get("rate") else "-"


def _percent(key: str) -> Callable[[Row], str]:
    return lambda row: f"{row[key]['median']:.0%}" if row.get(key) else "-"


CPU: list[Column] = [
    *zip(("CPU s", "range"), _spread("cpu", 1, ".3f")),
    ("wall s", lambda row: f"{row['wall']['median']:.3f}"),
    ("CPU / dense", _ratio),
    ("range", _ratio_range),
    ("products", _products),
    ("GFLOP / CPU s", _rate(1)),
    ("share of mm", _percent("share")),
]
CARD: list[Column] = [
    *zip(("ms", "range"), _spread("card", 1e3, ",.2f")),
    ("/ dense", _ratio),
    ("/ inf-cl", _authors),
    ("products", _products),
    ("TFLOP/s", _rate(1e3)),
    ("share of mm", _percent("share")),
    ("of floor", _percent("floor")),
]
