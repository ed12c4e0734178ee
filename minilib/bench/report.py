"""The report of a run: its document as tables, for the terminal (`plain`) and for the book (`markdown`).

`contrastive`, `logps`, `step` and `prefix` are whole documents. A document of an earlier version is still reported,
with a dash for each figure that it lacks.
"""

from collections.abc import Callable
from typing import Any

from minilib.teaching.memory import format_bytes

Table = Callable[[list[str], list[list[str]]], str]
Row = dict[str, Any]
HELD = {True: "yes", False: "NO", None: "not measured"}
COLUMNS = {
    "cpu": ["CPU s", "range", "wall s", "CPU / dense", "range", "products", "GFLOP / CPU s", "share of mm"],
    "gpu": ["ms", "range", "/ dense", "/ inf-cl", "products", "TFLOP/s", "share of mm", "of floor"],
}
GPU_NOTES = (
    "torch.mm of 8,192 x 8,192 matrices: {rates}. SigLIP is compared with dense SigLIP.",
    "share of mm: matmuls of the method; of floor: the fewest matmuls in O(b) memory (4 for InfoNCE, 3 for SigLIP or "
    "a frozen side, 1 forward);\nboth against torch.mm in the dtype of the features, fp32 without TF32.",
)
RING_NOTES = (
    "sent: bytes that a rank hands on per number of b x d in one step, by its own trace; released ring: what the "
    "authors' code sends.\nThe rings ran one after the other; with fewer cores than ranks the wall time tells of the "
    "cores. error: against fp64, on a small batch."
)


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


def contrastive(document: Row, table: Table = markdown) -> str:
    """Every section of a run of the contrastive losses, one under the other."""
    timings = [timing_section(document, timing, table) for timing in document["timings"]]
    sections = [machine_section(document), equality_section(document, table), *timings]
    sections += [memory_section(document, table), ring_section(document, table), skipped_section(document)]
    return joined(*sections, targets_section(document, table))


def logps(document: Row, table: Table = markdown) -> str:
    """The figures and the targets of a run of the log-probabilities."""
    unit, s, rows = document.get("unit", "cpu"), document["settings"], []
    for name, spent in document[unit].items():
        ratio, seconds = span(document["ratio"][name]), f"{spent['median']:.{2 if unit == 'cpu' else 4}f}"
        rows.append([name, seconds, ratio, _weight(document["memory"].get(name)), f"{document['error'][name]:.0e}"])
    title = f"Loss and gradients of one pair, {s['tokens']:,} tokens, d = {s['dim']:,}, V = {s['words']:,}, "
    title += f"{s.get('dtype', 'fp32')}: median (smallest to largest) of {s['rounds']} rounds"
    figures = table(["method", f"{unit.upper()} s", "to its dense", "extra peak", "error"], rows)
    rows = [[b["claim"], f"{b['limit']:.3f}", _number(b, 3), HELD[b["held"]]] for b in document["bars"]]
    kept = table(["claim", "at most", "measured", "held"], rows)
    return joined(title, machine_section(document), figures, _others(document), skipped_section(document), kept)


def step(document: Row, table: Table = markdown) -> str:
    """The figures and the targets of a run of training steps."""
    unit, s, rows = document["unit"], document["settings"], []
    for name, spent in document[unit].items():
        rows.append([name, f"{document['tokens'][name]:,}", f"{spent['median']:.3f}", span(document["ratio"][name])])
        rows[-1] += [_weight(document["peak"].get(name)), f"{document['loss'][name]:.4f}"]
        rows[-1] += [format_bytes(document["spare"][name])] if "spare" in document else []
    title = f"One training step of {s['model']}, a prompt of {s['prompt']:,} tokens with positions to "
    title += f"{s['target']:,}, answers of {s['answer']}: median (smallest to largest) of {s['rounds']} rounds"
    header = ["method", "tokens", f"{unit.upper()} s", "to concatenated", "extra peak", "loss"]
    figures = table(header + ["left free"] * ("spare" in document), rows)
    rows = [[b["claim"], f"{b['sense']} {b['limit']:g}", _number(b, 2), HELD[b["held"]]] for b in document["bars"]]
    kept = table(["claim", "bar", "measured", "held"], rows) if rows else ""
    return joined(title, machine_section(document), figures, _others(document), skipped_section(document), kept)


def prefix(document: Row) -> str:
    """The ratios of a run of shared prompts as plain text."""
    rows = [f"{'method':28}{'CPU s':>8}{'ratio':>8}{'to one by one':>15}{'error':>10}"]
    for name, ratio in document["ratio"].items():
        alone, error = document["ratio_one_by_one"][name]["median"], document["error"][name]
        rows.append(f"{name:28}{document['cpu'][name]['median']:8.3f}{ratio['median']:8.2f}{alone:15.2f}{error:10.0e}")
    bar = document["bar"]
    return "\n".join([*rows, f"bar: cache at most {bar['at_most']:.2f}, {'met' if bar['met'] else 'missed'}"])


def joined(*sections: str) -> str:
    """Sections one under the other, without the empty ones."""
    return "\n\n".join(section for section in sections if section) + "\n"


def span(found: dict[str, float] | None, middle: str = "median", digits: int = 2) -> str:
    """A median or mean with the smallest and the largest value, in brackets."""
    if not found:
        return "-"
    center, low, high = (f"{found[key]:.{digits}f}" for key in (middle, "min", "max"))
    return f"{center} ({low} to {high})"


def machine_section(document: Row) -> str:
    """The machine and the libraries in a few lines."""
    m = document["machine"]
    lines = [
        f"Machine: {m['cpu']} ({m['vectors']}), {m['usable_cores']} usable cores, {m['threads']} threads used, "
        f"{format_bytes(m['memory_bytes'])} memory."
    ]
    if gpu := m.get("gpu"):
        what = f"{gpu['name']}, {format_bytes(gpu['memory_bytes'])} memory, compute capability {gpu['capability']}"
        lines.append(f"GPU: {what}, {gpu['multiprocessors']} multiprocessors, CUDA {gpu['cuda']}.")
    libraries = ", ".join(f"{name} {version}" for name, version in m["libraries"].items())
    return "\n".join([*lines, f"System: {m['system']}, Python {m['python']}. Libraries: {libraries}."])


def skipped_section(document: Row) -> str:
    """One line for every method that was left out."""
    return "\n".join(f"Skipped: {name}: {sentence}" for name, sentence in document["skipped"].items())


def equality_section(document: Row, table: Table) -> str:
    """The errors against fp64 of every method, by case."""
    if not document["equality"]:
        return ""
    rows = []
    for v in document["equality"]:
        verdict = "equal" if v["equal"] else f"WRONG {v['complaint']}".rstrip()
        rows.append(
            [v["method"], *(f"{error:.1e}" for error in v["errors"].values()), f"{v['tolerance']:.0e}", verdict]
        )
    title = f"Largest relative error of loss and gradients against fp64, b = {document['settings']['gate_batch']:,}"
    return f"{title}\n\n" + table(["method", *document["equality"][0]["errors"], "allowed", "verdict"], rows)


def timing_section(document: Row, timing: Row, table: Table) -> str:
    """Seconds of one batch, with the ratios to dense and the share of the rate of torch.mm."""
    settings, unit = document["settings"], document.get("unit", "cpu")
    what = f"b = {timing['batch']:,}, d = {timing.get('dim', settings['dim'])}, {'fp32, ' * (unit == 'cpu')}scale "
    title = f"Forward and backward, {what}{settings['scale']}: median (smallest to largest) of {len(timing['rounds'])} "
    if unit == "gpu":
        rates = [f"{name} {rate['median'] / 1e3:.0f} TFLOP/s" for name, rate in timing["product_rates"].items()]
        notes = [note.format(rates=", ".join(rates)) for note in GPU_NOTES]
    else:
        rate = (timing.get("product_rate") or timing["product_rates"]["fp32"])["median"]
        notes = [
            f"torch.mm on cache-sized tiles: {rate:.0f} GFLOP per CPU second. SigLIP is compared with dense SigLIP."
        ]
        notes += [f"Other processes used {timing['others']:.0%} of the CPU time during the rounds."]
    if compiled := timing["first_call"].get("compiled dense"):
        notes.append(f"Compiling the dense loss and calling it once took {compiled:.0f} s.")
    notes += [f"Skipped at this batch: {name}: {sentence}" for name, sentence in timing["skipped"].items()]
    rows = [[name, *_times(row, unit)] for name, row in timing["summary"].items()]
    return f"{title}rounds\n\n{table(['method', *COLUMNS[unit]], rows)}\n\n" + "\n".join(notes)


def memory_section(document: Row, table: Table) -> str:
    """Peak extra memory by method and batch."""
    rows = []
    for r in document["memory"]:
        parts = (format_bytes(r[part]) for part in ("peak", "gradients", "besides"))
        rows.append(
            [r["method"], f"{r['batch']:,}", f"{r['dim']:,}", *parts, f"{r['peak'] / (r['batch'] * r['dim']):.1f}"]
        )
    if not rows:
        return ""
    header = ["method", "b", "d", "extra peak", "of it fp32 gradients", "besides them", "bytes per b x d"]
    how = "read by the allocator in the timed rounds" if document.get("unit") == "gpu" else "a fresh process each"
    return f"Peak extra memory next to the features, {how}\n\n" + table(header, rows)


def ring_section(document: Row, table: Table) -> str:
    """A ring of processes next to one process: time, work and messages."""
    rows = []
    for r in document.get("ring", []):
        wall, figures = r["wall"], ((3, r["cpu"]["median"]), (2, r["work"]), (2, r["sent"]), (2, r["released"]))
        rows.append([f"{r['ranks']}", f"{wall['median']:.3f}", f"{wall['min']:.3f} to {wall['max']:.3f}"])
        rows[-1] += [*(f"{value:.{digits}f}" for digits, value in figures), f"{r['error']:.1e}"]
    if not rows:
        return ""
    first = document["ring"][0]
    title = (
        f"A ring of processes, b = {first['batch']:,} altogether, d = {first['dim']}, fp32, one thread each: median "
    )
    title += f"(smallest to largest) of {len(first['raw'][0]['wall'])} steps"
    header = ["ranks", "wall s", "range", "CPU s of all", "CPU / 1 rank", "sent", "released ring", "error"]
    return f"{title}\n\n{table(header, rows)}\n\n{RING_NOTES}"


def targets_section(document: Row, table: Table) -> str:
    """What was promised of the contrastive losses, what was measured, whether it held."""
    if document.get("unit") == "gpu":
        what = f"one H200, d = 512; this run: {document['machine'].get('gpu', {}).get('name', '?')}"
    else:
        what = f"two threads, d = 512, fp32; this run: {document['settings']['threads']} threads"
    rows = [[b["claim"], _figure(b["limit"], b), _figure(b["measured"], b), HELD[b["held"]]] for b in document["bars"]]
    return f"The bars (set for {what})\n\n" + table(["claim", "at most", "measured", "held"], rows)


def _figure(value: float | None, bar: Row) -> str:
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


def _others(document: Row) -> str:
    share = document["others"]
    if isinstance(share, list):  # an earlier version kept the CPU seconds of each round
        own = sum(sample["spent"] for this in document["rounds"] for sample in this.values())
        share = sum(share) / (own + sum(share))
    return f"Other processes used {100 * share:.0f}% of the CPU time during the rounds."


def _number(bar: Row, digits: int) -> str:
    return "-" if bar["measured"] is None else f"{bar['measured']:.{digits}f}"


def _weight(peak: int | None) -> str:
    return format_bytes(peak) if peak else "-"


def _times(row: Row, unit: str) -> list[str]:
    """The cells of one method under `COLUMNS`."""

    def middle(found: dict[str, float] | None, form: str, factor: float = 1) -> str:
        return format(found["median"] * factor, form) if found else "-"

    def ends(found: dict[str, float] | None, form: str, factor: float = 1) -> str:
        return " to ".join(format(found[key] * factor, form) for key in ("min", "max")) if found else "-"

    dense, share = row["ratios"].get(row["dense"]), middle(row.get("share"), ".0%")
    products, rate = "-" if row["products"] is None else f"{row['products']:g}", row.get("rate")
    if unit == "cpu":
        cells = [middle(row["cpu"], ".3f"), ends(row["cpu"], ".3f"), middle(row["wall"], ".3f"), middle(dense, ".2f")]
        return [*cells, ends(dense, ".2f"), products, middle(rate, ",.0f"), share]
    cells = [middle(row["gpu"], ",.2f", 1e3), ends(row["gpu"], ",.2f", 1e3), middle(dense, ".2f")]
    cells += [middle(row["ratios"].get("inf-cl"), ".3f"), products, middle(rate, ",.0f", 1e-3)]
    return [*cells, share, middle(row.get("floor"), ".0%")]
