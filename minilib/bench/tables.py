"""Tables of a benchmark document, for the terminal (`plain`) and for the book (`markdown`).

`report(document, markdown)` is the whole run as Markdown; the run itself prints the same sections one by one, as they
are measured. The tables of times are in `timing_tables`. A document of an earlier version is still reported, with a
dash for each figure that it lacks.
"""

from collections.abc import Callable
from typing import Any

from minilib.bench.timing_tables import timing_section
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
        ring_section(document, table),
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
            *([_card(m["card"])] if "card" in m else []),
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


def memory_section(document: dict[str, Any], table: Table) -> str:
    """Peak extra memory by method and batch."""
    rows = [
        [
            r["method"],
            f"{r['batch']:,}",
            f"{r['dim']:,}",
            *(format_bytes(r[part]) for part in ("peak", "gradients", "besides")),
            f"{r['peak'] / (r['batch'] * r['dim']):.1f}",
        ]
        for r in document["memory"]
    ]
    if not rows:
        return ""
    header = ["method", "b", "d", "extra peak", "of it fp32 gradients", "besides them", "bytes per b x d"]
    how = "read by the allocator in the timed rounds" if _on_card(document) else "a fresh process each"
    return f"Peak extra memory beside the features, {how}\n\n" + table(header, rows)


def ring_section(document: dict[str, Any], table: Table) -> str:
    """A ring of processes beside one process: time, work and messages."""
    rows = [
        [
            f"{r['ranks']}",
            f"{r['wall']['median']:.3f}",
            f"{r['wall']['min']:.3f} to {r['wall']['max']:.3f}",
            f"{r['cpu']['median']:.3f}",
            f"{r['work']:.2f}",
            f"{r['sent']:.2f}",
            f"{r['released']:.2f}",
            f"{r['error']:.1e}",
        ]
        for r in document.get("ring", [])
    ]
    if not rows:
        return ""
    first = document["ring"][0]
    title = (
        f"A ring of processes, b = {first['batch']:,} altogether, d = {first['dim']}, fp32, one thread each: median "
        f"(smallest to largest) of {len(first['raw'][0]['wall'])} steps"
    )
    header = ["ranks", "wall s", "range", "CPU s of all", "CPU / 1 rank", "sent", "released ring", "error"]
    notes = (
        "sent: bytes that a rank hands on per number of b x d in one step, by its own diary; released ring: what the "
        "authors' code sends.\nThe rings ran one after the other; with fewer cores than ranks the wall time tells of "
        "the cores. error: against fp64, on a small batch."
    )
    return f"{title}\n\n{table(header, rows)}\n\n{notes}"


def bars_section(document: dict[str, Any], table: Table) -> str:
    """What was promised, what was measured, whether it held."""
    rows = [
        [bar["claim"], _figure(bar["limit"], bar), _figure(bar["measured"], bar), _held(bar["held"])]
        for bar in document["bars"]
    ]
    if _on_card(document):
        title = (
            f"The bars (set for one H200, d = 512; this run: {document['machine'].get('card', {}).get('name', '?')})"
        )
    else:
        title = f"The bars (set for two threads, d = 512, fp32; this run: {document['settings']['threads']} threads)"
    return f"{title}\n\n" + table(["claim", "at most", "measured", "held"], rows)


def skipped_section(document: dict[str, Any]) -> str:
    """One line for every method that was left out."""
    return "\n".join(f"Skipped: {name}: {sentence}" for name, sentence in document["skipped"].items())


def _verdict(verdict: dict[str, Any]) -> str:
    return "equal" if verdict["equal"] else f"WRONG {verdict['complaint']}".rstrip()


def _figure(value: float | None, bar: dict[str, Any]) -> str:
    if value is None:
        return "-"
    match bar["kind"]:
        case "bytes":
            return format_bytes(value)
        case "seconds":
            return f"{value * 1e3:,.1f} ms"
        case "error":
            return f"{value:.1e}"
    return f"{value:.3f}" if bar["limit"] < 0.2 else f"{value:.2f}"


def _card(card: dict[str, Any]) -> str:
    return (
        f"Card: {card['name']}, {format_bytes(card['memory_bytes'])} memory, compute capability {card['capability']}, "
        f"{card['multiprocessors']} multiprocessors, CUDA {card['cuda']}."
    )


def _on_card(document: dict[str, Any]) -> bool:
    return document.get("unit") == "card"


def _held(held: bool | None) -> str:
    return {True: "yes", False: "NO", None: "not measured"}[held]
