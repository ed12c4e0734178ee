"""Tables of a benchmark document, for the terminal (`plain`) and for the book (`markdown`).

`report(document, markdown)` is the whole run as Markdown; the run itself prints the same sections one by one, as they
are measured. Proven in tests/test_bench_is_honest.py.
"""

from collections.abc import Callable
from typing import Any

from minilib.teaching.memory import format_bytes

Table = Callable[[list[str], list[list[str]]], str]


def plain(header: list[str], rows: list[list[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.rjust(width) if k else cell.ljust(width) for k, (cell, width) in enumerate(zip(line, widths)))
        for line in lines
    )


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *rows])


def report(document: dict[str, Any], table: Table = markdown) -> str:
    """Every section of a document, one under the other."""
    timings = [timing_section(document, timing, table) for timing in document["timings"]]
    sections = [
        machine_section(document),
        equality_section(document, table),
        *timings,
        memory_section(document, table),
        skipped_section(document),
        bars_section(document, table),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def machine_section(document: dict[str, Any]) -> str:
    """The machine and the libraries in a few lines."""
    m = document["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in m["libraries"].items())
    return "\n".join(
        [
            f"Machine: {m['cpu']} ({m['vectors']}), {m['usable_cores']} usable cores, {m['threads']} threads used, "
            f"{format_bytes(m['memory_bytes'])} memory.",
            f"System: {m['system']}, Python {m['python']}. Libraries: {libraries}.",
        ]
    )


def equality_section(document: dict[str, Any], table: Table) -> str:
    """The errors against fp64 of every method, by case."""
    rows = [
        [v["method"], *[f"{error:.1e}" for error in v["errors"].values()], f"{v['tolerance']:.0e}", _verdict(v)]
        for v in document["equality"]
    ]
    if not rows:
        return ""
    cases = list(document["equality"][0]["errors"])
    title = f"Largest relative error of loss and gradients against fp64, b = {document['settings']['gate_batch']:,}"
    return f"{title}\n\n" + table(["method", *cases, "allowed", "verdict"], rows)


def timing_section(document: dict[str, Any], timing: dict[str, Any], table: Table) -> str:
    """CPU and wall seconds of one batch, with the ratios to dense and the share of the product rate."""
    s = document["settings"]
    title = (
        f"Forward and backward, b = {timing['batch']:,}, d = {s['dim']}, fp32, scale {s['scale']}: median "
        f"(smallest to largest) of {len(timing['rounds'])} rounds"
    )
    rows = [_timing_row(name, row) for name, row in timing["summary"].items()]
    header = ["method", "CPU s", "range", "wall s", "CPU / dense", "range", "products", "share of mm"]
    rate, compiled = timing["product_rate"]["median"], timing["first_call"].get("compiled dense")
    notes = [
        f"torch.mm on cache-sized tiles: {rate:.0f} GFLOP per CPU second. SigLIP is compared with dense SigLIP.",
        f"Other processes used {timing['others']:.0%} of the CPU time during the rounds.",
        *([f"Compiling the dense loss and calling it once took {compiled:.0f} s."] if compiled else []),
        *(f"Skipped at this batch: {name}: {sentence}" for name, sentence in timing["skipped"].items()),
    ]
    return f"{title}\n\n{table(header, rows)}\n\n" + "\n".join(notes)


def memory_section(document: dict[str, Any], table: Table) -> str:
    """Peak extra memory by method and batch."""
    rows = [
        [r["method"], f"{r['batch']:,}", *(format_bytes(r[part]) for part in ("peak", "gradients", "besides"))]
        for r in document["memory"]
    ]
    if not rows:
        return ""
    header = ["method", "b", "extra peak", "of it the two gradients", "besides them"]
    return "Peak extra memory, forward and backward, a fresh process each\n\n" + table(header, rows)


def bars_section(document: dict[str, Any], table: Table) -> str:
    """What was promised, what was measured, whether it held."""
    rows = [
        [bar["claim"], _figure(bar["limit"], bar), _figure(bar["measured"], bar), _held(bar["held"])]
        for bar in document["bars"]
    ]
    title = f"The bars (set for two threads, d = 512, fp32; this run: {document['settings']['threads']} threads)"
    return f"{title}\n\n" + table(["claim", "at most", "measured", "held"], rows)


def skipped_section(document: dict[str, Any]) -> str:
    """One line for every method that was left out."""
    return "\n".join(f"Skipped: {name}: {sentence}" for name, sentence in document["skipped"].items())


def _timing_row(name: str, row: dict[str, Any]) -> list[str]:
    ratio, share = row["ratios"].get(row["dense"]), row["share"]
    return [
        name,
        f"{row['cpu']['median']:.3f}",
        f"{row['cpu']['min']:.3f} to {row['cpu']['max']:.3f}",
        f"{row['wall']['median']:.3f}",
        f"{ratio['median']:.2f}" if ratio else "-",
        f"{ratio['min']:.2f} to {ratio['max']:.2f}" if ratio else "-",
        f"{row['products']:g}",
        f"{share['median']:.0%}" if share else "-",
    ]


def _verdict(verdict: dict[str, Any]) -> str:
    return "equal" if verdict["equal"] else f"WRONG {verdict['complaint']}".rstrip()


def _figure(value: float | None, bar: dict[str, Any]) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if bar["kind"] == "ratio" else format_bytes(value)


def _held(held: bool | None) -> str:
    return {True: "yes", False: "NO", None: "not measured"}[held]
