"""The campaign on a real model as a page of tables; what stands in them is explained in figures.py."""

from __future__ import annotations

from typing import Any

from minilib.bench import report
from minilib.bench.real_alignment.figures import ASKED, DEPTHS, MEASURES

SPAN = "{N[mean]:.2f} ({N[low]:.2f} to {N[high]:.2f})"


def page(document: dict[str, Any]) -> str:
    """The page in Markdown."""
    told = {"tables": tables(document), "known": known(document), "verdict": verdict(document)}
    return report.whole("real_alignment", document | told | {"described": _machines(document["records"])})


def _machines(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every machine of the records, with its runs by arm."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        one = found.setdefault(str(record["machine"]), {"machine": record["machine"], "runs": {}})
        one["runs"].setdefault(record["arm"], []).append(record["seed"])
    return [*found.values()]


def plain(document: dict[str, Any]) -> str:
    """The same tables for a terminal."""
    found = [verdict(document), *tables(document, report.plain).values(), *known(document)]
    return "\n\n".join(filter(None, found))


def verdict(document: dict[str, Any]) -> str:
    """What LOGO has over SFT at plain or stretched positions, a sentence for each that has run; "" without one."""
    return " ".join(_compared(part) for part in document["parts"] if part["part"] in ASKED["verdicts"])


def _compared(part: dict[str, Any]) -> str:
    gain, runs = part["facts"], part["seeds"]
    span = "{mean:+.2f} facts right ({low:+.2f} to {high:+.2f})".format(**gain)
    told = "cannot be told apart from" if gain["low"] <= 0 <= gain["high"] else (
        "is ahead of" if gain["mean"] > 0 else "is behind"
    )  # fmt: skip
    start = "LOGO" if runs > 1 else "Under one seed LOGO"
    return f"{start} {told} SFT {ASKED['verdicts'][part['part']]}: {span}, {runs} seed{'s' * (runs > 1)}."


def known(document: dict[str, Any]) -> list[str]:
    """What is known of the later methods among the arms, a sentence for each."""
    return [told for arm, told in ASKED["known"].items() if arm in document["arms"]]


def tables(document: dict[str, Any], table: report.Table = report.markdown) -> dict[str, str]:
    """The tables of the page by title."""
    arms = [
        # a key of digits would be taken for a place in a list
        {"name": name, "runs": len(arm["seeds"]), "of": {f"n{n}": found for n, found in arm["lengths"].items()}} | arm
        for name, arm in document["arms"].items()
    ]
    parts = [{"of": {f"n{n}": found for n, found in part["by_length"].items()}} | part for part in document["parts"]]
    return _asked(arms, parts, table) | _trained(arms, document["aims"], table)


def _asked(arms: list[dict], parts: list[dict], table: report.Table) -> dict[str, str]:
    """What the answers hold, and where."""
    inside = [SPAN.replace("N", f"{name}_inside") for name in MEASURES]
    named = SPAN.replace("N", "named_inside")
    over_base, over_sft, better, facts, invented = (
        SPAN.replace("N", name).replace(":.", ":+.")
        for name in ("over_base", "over_sft", "precision_over_base", "facts", "invented")
    )
    lengths = sorted({int(length) for arm in arms for length in arm["lengths"]})
    by_length = ["{of[nN][mean]:.2f}".replace("N", str(length)) for length in lengths]
    inner = sorted({int(length) for part in parts for length in part["by_length"]})
    depths = ["{depths[N]:.2f}".replace("N", str(k)) for k in range(len(DEPTHS))]
    title = "arm | seeds run | facts right | whole answers | invented | sentences"
    return {
        "Inside the window": report.build(table, title, " | ".join(["{name}", "{runs}", *inside]), arms),
        "Values named, inside the window": report.build(
            table, "arm | for a value asked | right of them | less the base's",
            " | ".join(["{name}", named, "{precision_inside[mean]:.2f}", better]), arms,
        ),
        "Differences, facts right": report.build(
            table, "arm | to base | seed by seed", f"{{name}} | {over_base} | {{over_base_by_seed:+.2f}}", arms
        ),
        "Differences to SFT, facts right": report.build(table, "arm | to SFT", f"{{name}} | {over_sft}", arms),
        "What each part adds": report.build(
            table, "added | facts right | seed by seed", f"{{part}} | {facts} | {{by_seed:+.2f}}", parts
        ),
        "What each part adds to answers with a wrong value": report.build(
            table, "added | invented", f"{{part}} | {invented}", parts
        ),
        "What each part adds, facts right by tokens of the text": report.build(
            table, " | ".join(["added", *(f"{n:,}" for n in inner)]),
            " | ".join(["{part}", *("{of[nN][mean]:+.2f}".replace("N", str(n)) for n in inner)]), parts,
        ),
        "Facts right by tokens of the text": report.build(
            table, " | ".join(["arm", *(f"{n:,}" for n in lengths)]), " | ".join(["{name}", *by_length]), arms
        ),
        "Facts right by depth, inside the window": report.build(
            table, "arm | 0 to 0.2 | to 0.4 | to 0.6 | to 0.8 | to 1", " | ".join(["{name}", *depths]), arms
        ),
    }  # fmt: skip


def _trained(arms: list[dict], aims: list[dict], table: report.Table) -> dict[str, str]:
    """What training did and cost, and what was hoped for."""
    cpus = {cpu: None for arm in arms for cpu in arm["cpu_seconds"]}  # in order
    seconds = [f"{{cpu_seconds[{cpu}]:,.0f}}" for cpu in cpus]
    costs = ["{name}", "{tokens:,.0f}", "{peak_memory:bytes}", "{kept:.2f}", "{perplexity_ratio:.3f}", *seconds]
    title = ["arm", "tokens read", "peak memory", "questions kept", "perplexity to base"]
    title += [f"CPU seconds, {cpu}" for cpu in cpus]
    return {
        "Chosen answers in training": report.build(
            table, "arm | before training | last ten steps", "{name} | {chosen[first]:.2f} | {chosen[last]:.2f}",
            [arm for arm in arms if arm["chosen"]],
        ),
        "What it costs": report.build(table, " | ".join(title), " | ".join(costs), arms),
        "Aims": report.build(
            table, "aim | limit | measured | verdict",
            "{claim} | at {side} {limit:.2f} | {measured:.3f} | {held:verdict}", aims,
        ),
    }  # fmt: skip
