"""What a language model finds in long texts, next to what it did before its alignment: numbers and lines of text.

    needle map           share of right answers, depth of the fact x tokens of the text      single details
    by length            its means over the depths, and recall where a question has two values
    lost in the middle   right answers by depth within the window, with intervals and anchors
    perplexity           of running text within the window: what alignment must not cost

All of it is asked about made haystacks, the same ones for every model (`minilib.evals`).
Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minilib.data.facts import NAMES
from minilib.evals import kind_scores, lost_in_the_middle, needle_map, perplexity_by_position
from minilib.longcontext.text_ids import prompt_ids
from minilib.models.generation import IN_SHORT, answer_room, position_table, question_form

ROOM = 32  # tokens kept for question and answer, or more where a chat template wants them
LONGEST, LONGEST_TEXT = 32_768, 2_048  # of a haystack by default; of running text, whose logits are all made
SLOW = 1_024  # of a haystack by default without a GPU: some seconds for each answer of a model of 135M parameters
SHARES, MOST = (0.5, 1, 2, 4), 64  # windows, by default and at most


def default_lengths(window: int, room: int = ROOM, on_gpu: bool = True) -> list[int]:
    """Half a window, one, two and four, less the room for the question; of large windows less without a GPU."""
    if not on_gpu and window > SLOW:
        return [SLOW // 2 - room, SLOW - room]
    return sorted({max(min(int(share * window), LONGEST) - room, 2 * room) for share in SHARES})


def default_samples(window: int, on_gpu: bool) -> int:
    """Questions for each length and place; few where each answer takes seconds."""
    return 20 if on_gpu or window <= SLOW else 2


def question_room(tokenizer) -> int:
    """The tokens that the longest question about a haystack and its answer take, at least ROOM."""
    form = question_form(tokenizer, IN_SHORT)
    asks = (form("", f"Which things does {name} keep?") for name in NAMES)
    return max(ROOM, answer_room(tokenizer) + max(len(prompt_ids(tokenizer, ask)) for ask in asks))


def fitting_lengths(model, tokenizer, window: int, wanted: Sequence[int] | None = None) -> list[int]:
    """The wanted lengths, or those of `default_lengths` that fit where the model has a table of positions."""
    table = position_table(model)
    room = question_room(tokenizer)
    lengths = sorted({*(wanted or default_lengths(window, room, model.device.type == "cuda"))})
    if lengths[-1] > MOST * window:
        raise ValueError(
            f"lengths has {lengths[-1]} and the window {window} tokens: give lengths of up to {MOST} windows, "
            f"{MOST * window}."
        )
    if table is None:
        return lengths
    if wanted is None:
        lengths = [length for length in lengths if length + room <= table] or [table - room]
    if lengths[-1] + room > table or lengths[0] < 2 * ROOM:
        raise ValueError(
            f"lengths has {lengths[-1]} and the model's position table {table} positions, {room} of them for question "
            f"and answer: give lengths from {2 * ROOM} up to {table - room}, or a model with a longer table."
        )
    return lengths


def measure(model, tokenizer, *, window: int, lengths: Sequence[int], samples: int, seed: int) -> dict:
    """All numbers of one model, ready for JSON; `samples` haystacks for each cell and place; few have fewer places."""
    settings = {"samples": samples, "seed": seed, "progress": True}
    cells = needle_map(model, tokenizer, lengths=lengths, **settings)
    inside = max((length for length in lengths if length <= window), default=min(lengths))
    curve = lost_in_the_middle(model, tokenizer, length=inside, places=min(9, 2 * samples + 1), **settings)
    text = min(window, LONGEST_TEXT)
    # A slow model, asked two questions a cell, reads two texts and not sixteen.
    prose = {"length": text, "bucket": text, "samples": min(16, samples)}
    perplexity = perplexity_by_position(model, tokenizer, seed=seed, **prose)[0]
    multi = [kind_scores(model, tokenizer, kind="multi", length=length, **settings) for length in lengths]
    return {
        "needle_map": cells._asdict() | {"accuracy": cells.accuracy.tolist()},
        "accuracy_by_length": cells.accuracy.mean(0).tolist(),
        "multi_recall_by_length": [scores["recall"] for scores in multi],
        "lost_in_the_middle": {"length": inside} | curve._asdict(),
        "perplexity": {"tokens": text, "value": perplexity},
    }


def report(found: Mapping[str, dict]) -> list[str]:
    """The numbers of each model by name as lines of text."""
    some = next(iter(found.values()))
    wide = max(map(len, found)) + 2
    lines = [_row("tokens of the text", wide, [f"{n:,}" for n in some["needle_map"]["lengths"]])]
    for name, scores in found.items():
        cells = scores["needle_map"]
        for depth, shares in zip(cells["depths"], cells["accuracy"]):
            lines.append(_row(f"fact at {depth:.0%}", wide, _percents(shares), name))
    for title, key in (("all depths", "accuracy_by_length"), ("recall of two details", "multi_recall_by_length")):
        lines += [_row(title, wide, _percents(scores[key]), name) for name, scores in found.items()]
    places = some["lost_in_the_middle"]
    lines += ["", _row(f"fact in {places['length']:,} tokens at", wide, [f"{d:.0%}" for d in places["depths"]])]
    for name, scores in found.items():
        curve = scores["lost_in_the_middle"]
        lines.append(_row("right answers", wide, _percents(curve["accuracy"]), name))
        anchors = f"no document {curve['closed_book']:.0%}, only the facts {curve['oracle']:.0%}"
        lines.append(f"{'':<24}{name:<{wide}}{anchors}")
    values = ", ".join(f"{name} {scores['perplexity']['value']:.3f}" for name, scores in found.items())
    return [*lines, "", f"perplexity over {some['perplexity']['tokens']:,} tokens: {values}"]


def _row(title: str, wide: int, cells: Sequence[str], name: str = "") -> str:
    return f"{title:<24}{name:<{wide}}" + "".join(f"{cell:>8}" for cell in cells)


def _percents(shares: Sequence[float]) -> list[str]:
    return [f"{share:.0%}" for share in shares]
