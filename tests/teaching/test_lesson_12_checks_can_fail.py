"""Lesson 12: every check says all three of its lines, the library passes, and each typical mistake has its own hint.

Where the library has the function, it is the solution: `synthesize_positions`, `count_positions` and `share`. A mistake
is the same small function with one slip in it.
"""

import torch
from support.lesson_exercises import ExercisesCanFail, line_of

from minilib import longcontext
from minilib.evals.coverage import count_positions, share
from minilib.longcontext import synthesize_positions
from minilib.teaching.checks.lesson12 import PROMISES


def library_positions(lengths, target, generator):
    return synthesize_positions(lengths, target, generator=generator)


def placed(lengths, target, generator, base=lambda c, slot: c * slot, end=1, seeded=True, slack=None, fixed=None):
    """The sweep over chunks; the defaults are right."""
    slot, pieces = target // len(lengths), []
    for c, length in enumerate(lengths):
        room = slot - length + end if slack is None else slack(slot)
        options = {"generator": generator} if seeded else {}
        place = torch.randint(max(room, 1), (), **options) if fixed is None else fixed(generator, slot - length + 1)
        pieces.append(base(c, slot) + place + torch.arange(length))
    return torch.cat(pieces)


def one_place(lengths, target, generator):
    place = torch.randint(target // len(lengths) - max(lengths) + 1, (), generator=generator)
    return placed(lengths, target, generator, fixed=lambda g, room: place)


def squared(generator, room):
    return int(room * torch.rand((), generator=generator) ** 4)


def scattered(lengths, target, generator):
    return synthesize_positions(lengths, target, mode="sparse", generator=generator)


def promise(positions, lengths, target, order=True, slot=True, low=True, last=False, strict=True):
    size, width = target // len(lengths), len(positions)
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    if width != sum(lengths):
        return "length"
    if (low and positions.min() < 0) or positions.max() >= target + last:
        return "target"
    if order and (positions.diff() <= (0 if strict else -1)).any():
        return "order"
    if slot and (positions // size != owner).any():
        return "slot"
    if any((chunk.diff() != 1).any() for chunk in positions.split(lengths)):
        return "chunk"
    return None


def across(model, ids, positions):
    return model(input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False).logits


def everywhere(ids):
    return torch.ones(1, 1, *2 * ids.shape[1:], dtype=torch.bool)


def rotate(x, positions, theta, sign=1, order=lambda first, second: torch.stack([first, second], -1).flatten(1)):
    angle = sign * positions[:, None] * theta
    a, b = x[:, 0::2], x[:, 1::2]
    return order(a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos())


def halves(x, positions, theta):
    pairs = torch.stack(x.chunk(2, 1), -1).flatten(1)
    return rotate(pairs, positions, theta, order=lambda first, second: torch.cat([first, second], 1))


SOLUTIONS = {
    "rotate": rotate,
    "continuous_positions": library_positions,
    "broken_promise": promise,
    "coverage_share": lambda samples, target: share(count_positions(samples, target)),
    "logits_across_gaps": across,
}

MISTAKES = [
    ("rotate", lambda *a: rotate(*a, sign=-1), "the other way"),
    ("rotate", lambda x, p, t: rotate(x, p, torch.ones_like(t)), "theta is missing"),
    ("rotate", lambda x, p, t: rotate(x, torch.ones_like(p), t), "the positions are missing"),
    ("rotate", halves, "pair neighbours"),
    ("rotate", lambda *a: rotate(*a, order=lambda f, s: torch.cat([f, s], 1)), "one behind the other"),
    ("rotate", lambda x, p, t: x + (p[:, None] * t).repeat_interleave(2, 1), "turn the pair"),
    ("continuous_positions", scattered, "gap inside a chunk"),
    ("continuous_positions", lambda n, k, g: placed(n, k, g, slack=lambda slot: slot), "a chunk leaves its slot"),
    ("continuous_positions", lambda n, k, g: placed(n, k, g, base=lambda c, s: (c + 1) * s), "outside of 0 to target"),
    ("continuous_positions", lambda n, k, g: placed(n, k, g, base=lambda c, s: 0), "all chunks lie in the first slot"),
    ("continuous_positions", lambda n, k, g: placed(n, k, g, end=0), "the last place of a slot is never used"),
    ("continuous_positions", lambda n, k, g: placed(n, k, g, fixed=lambda g, room: 0), "every draw is the same"),
    ("continuous_positions", one_place, "the same place of their slots"),
    ("continuous_positions", lambda n, k, g: placed(n, k, g, fixed=squared), "much less often"),
    ("continuous_positions", lambda n, k, g: placed(n, k, g, seeded=False), "pass the generator on"),
    ("broken_promise", lambda p, n, k: promise(p, n, k, order=False), "is 'slot' and should be 'order'"),
    ("broken_promise", lambda p, n, k: promise(p, n, k, strict=False), "and should be 'order'"),
    ("broken_promise", lambda p, n, k: promise(p, n, k, slot=False), "is None and should be 'slot'"),
    ("broken_promise", lambda p, n, k: promise(p, n, k, low=False), "below zero, the answer is 'slot' and should be"),
    ("broken_promise", lambda p, n, k: promise(p, n, k, last=True), "and should be 'target'"),
    ("broken_promise", lambda p, n, k: promise(p, n, k) is None, "is a bool: return None or one of"),
    ("broken_promise", lambda p, n, k: PROMISES[0], "and should be 'target'"),
    ("coverage_share", lambda s, k: share(count_positions(s, k)) * k, "that is a count"),
    ("coverage_share", lambda s, k: sum(map(len, s)) / k, "counted twice"),
    ("coverage_share", lambda s, k: sum(map(len, s)) / len(s) / k, "put all samples together"),
    ("coverage_share", lambda s, k: len(torch.cat(s).unique()) / (int(torch.cat(s).max()) + 1), "farthest position"),
    ("logits_across_gaps", lambda m, i, p: m(input_ids=i, position_ids=p, use_cache=False).logits, "cut at the jumps"),
    ("logits_across_gaps", lambda m, i, p: across(m, i, None), "positions are not used"),
    ("logits_across_gaps", lambda m, i, p: m(i, position_ids=p, attention_mask=everywhere(i)).logits, "after them"),
    ("logits_across_gaps", lambda m, i, p: m(i, position_ids=p, use_cache=True).logits, "a cache hides the trap"),
]


class TestExercises(ExercisesCanFail):
    """The tests of every lesson, for this one."""

    notebook = "12_stretch_positions_without_long_inputs.ipynb"
    solutions = SOLUTIONS
    mistakes = MISTAKES
    names = vars(longcontext)
    one_hint = frozenset({"broken_promise"})  # whose hints are the case and the two names


def test_the_functions_that_the_mistakes_are_made_from_are_right(capsys):
    assert line_of(capsys, "continuous_positions", placed).startswith("Passed: ")
