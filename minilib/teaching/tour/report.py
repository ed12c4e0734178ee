"""The tour's report: one HTML page that needs nothing but itself, no network and no other file.

Pictures are embedded with their alt text, numbers come from metrics.json; every sentence that claims something is
chosen by the numbers, so that a tour which came out otherwise says so.
"""

import base64
import html
from pathlib import Path

import jinja2

from minilib.teaching import plots
from minilib.teaching.memory import format_bytes

TEMPLATE = Path(__file__).with_name("report.html")


def write_report(output: Path, metrics: dict) -> Path:
    """Write `report.html` from the figures in `output` and the tour's metrics; returns its path."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"bytes": format_bytes, "share": lambda x: f"{x:.1%}", "round": lambda x: f"{x:.0%}"}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(figure=lambda name: _figure(output, name), verdict=verdicts(metrics), **metrics)
    path = output / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def save_figure(output: Path, name: str, figure) -> None:
    """Write a figure and its alt text to where `write_report` looks for them."""
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.png").write_bytes(plots.to_png(figure))
    (output / f"{name}.txt").write_text(figure.alt_text + "\n", encoding="utf-8")


def verdicts(metrics: dict) -> dict[str, str]:
    """What each stop found, in a sentence or two, as the numbers have it."""
    first = {"curves": _curves(metrics["curves"]), "batches": _batches(metrics["batches"]), "giant": _giant(metrics)}
    second = {"pairs": _pairs, "align": _align, "needles": _needles, "retention": _retention, "answers": _answers}
    return first | {name: say(metrics["needles" if name == "retention" else name]) for name, say in second.items()}


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


def _pairs(pairs: dict) -> str:
    answered = pairs["report"]["answered"]
    chosen, rejected = 1 - answered["wrong"] / answered["chosen"], answered["right"] / max(answered["rejected"], 1)
    told = f"From the right chunks {chosen:.0%} of the answers are right, from wrong ones {rejected:.0%}"
    return f"{told}: {'there is' if chosen - rejected >= 0.2 else 'there is hardly'} a preference to learn."


def _align(align: dict) -> str:
    ends = {name: run["margins"][-1][1] for name, run in align["runs"].items()}
    start = next(iter(align["runs"].values()))["margins"][0][1]
    told = ", ".join(f"{margin:.2f} under {name}" for name, margin in ends.items())
    best = max(ends, key=ends.get)
    if ends[best] < start + 0.1:
        found = "No training widens the margin of held-out pairs"
    else:
        found = (
            "LOGO widens the margin of held-out pairs most"
            if best == "LOGO"
            else f"{best[0].upper()}{best[1:]}, not LOGO, ends widest"
        )
    return f"{found}: from {start:.2f} nats per token to {told}."


def _needles(needles: dict) -> str:
    beyond = needles["beyond"]
    gains = {name: share - beyond["base"] for name, share in beyond.items() if name != "base"}
    told = ", ".join(f"{name} finds {share:.0%}" for name, share in beyond.items())
    gain = gains.pop("LOGO")
    only = "" if gain >= 0.1 else "only "  # the aim of ten points is ours
    found = f"gains {only}{_points(gain).lstrip('+')}" if round(100 * gain) > 0 else f"gains nothing ({_points(gain)})"
    others = ", ".join(f"{name} {_points(change)}" for name, change in gains.items())
    return f"Beyond the trained distance {told}. Over base, LOGO {found}; {others}."


def _retention(needles: dict) -> str:
    kept, base = needles["retention"]["LOGO"], needles["retention"]["base"]
    lost, dearer = base["accuracy"] - kept["accuracy"], kept["perplexity"] / base["perplexity"] - 1
    little = "Within its window LOGO keeps what the model could do"
    found = little if lost <= 0.02 and dearer <= 0.05 else "LOGO pays within the window"
    return f"{found}: accuracy {_points(-lost)}, perplexity {dearer:+.1%}."


def _answers(answers: dict) -> str:
    told = ", ".join(f"{name} {share:.0%}" for name, share in answers["right"].items())
    contrasts = answers["contrasts"]
    pairs = [("LOGO", "base"), ("LOGO", "SFT"), ("LOGO", "stretched SFT")]
    compared = " ".join(_contrast(contrasts[f"{one} - {other}"], one, other) for one, other in pairs)
    return f"Right answers to {answers['asked']} held-out questions: {told}. {compared} {_credit(contrasts)}"


def _contrast(change: dict, one: str, other: str) -> str:
    gain, low, high = (f"{100 * change[name]:+.1f}" for name in ("gain", "low", "high"))
    interval = f"{gain} points, 95% interval {low} to {high}"
    if change["low"] > 0:
        return f"{one} is ahead of {other} ({interval})."
    if change["high"] < 0:
        return f"{one} is behind {other} ({interval})."
    return f"{one} and {other} cannot be told apart ({interval})."


def _credit(contrasts: dict) -> str:
    """What does the work, stretched positions or rejected answers, as far as these questions can tell."""
    positions, rejected = contrasts["stretched SFT - SFT"], contrasts["LOGO - stretched SFT"]
    if rejected["high"] < 0:
        return "At the same stretched positions SFT does better than LOGO here."
    if positions["low"] > 0 and rejected["low"] > 0:
        return "Stretched positions help SFT too, and the rejected answers add to it."
    if positions["low"] > 0:
        return "What helps here is the stretched positions: SFT with them does as well, as far as this can tell."
    if rejected["low"] > 0:
        return "Stretched positions alone do not help here: the rejected answers do."
    return "Neither stretched positions nor rejected answers show an effect of their own here."


def _points(change: float) -> str:
    points = round(100 * change)
    return f"{points:+d} point{'s' * (abs(points) != 1)}" if points else "0 points"


def _figure(output: Path, name: str) -> jinja2.utils.markupsafe.Markup:
    data = base64.b64encode((output / f"{name}.png").read_bytes()).decode()
    alt = html.escape((output / f"{name}.txt").read_text(encoding="utf-8").strip(), quote=True)
    return jinja2.utils.markupsafe.Markup(f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"></figure>')
