"""Checks of lesson 12, stretch positions without long inputs: rotation, slots, promises, coverage, attention over gaps.

Solutions: `minilib.synthesize_positions` in its mode "continuous", `count_positions` and `share` of
`minilib.longcontext.positions`, and a call with a mask. Draws are judged by their promises and counted; the judge of
the last exercise is a small Llama of random weights with an explicit causal mask in four dimensions.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from minilib.longcontext import synthesize_positions
from minilib.teaching.checks.contract import MISSING, as_tensor, close, compare, run

DRAWS = 600
PROMISES = ("length", "target", "order", "slot", "chunk")


def check_rotate(learner: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Exercise: `rotate(x, positions, theta)`, `(k, d)`: each pair of neighbours turned by position times speed."""
    hand = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([1]), torch.tensor([math.pi / 2]).double()
    cases = {
        "for the pair (1, 0), turned by a quarter": lambda fn: _rotated(fn, *hand),
        "for four rows of three pairs": lambda fn: _rotated(fn, *_pairs([0, 1, 7, 500])),
        "for rows at position 0": lambda fn: _rotated(fn, *_pairs([0, 0])),
    }
    run(
        learner, cases, "position times speed is an angle, and a product of two turned pairs knows their distance alone"
    )


def check_continuous_positions(learner: Callable[[Sequence[int], int, Generator], Tensor]) -> None:
    """Exercise: `continuous_positions(lengths, target, generator)`, each chunk in one piece in a slot of its own."""
    cases = {
        "for 3 chunks of 4 tokens and target 30": lambda fn: _draws(fn, [4, 4, 4], 30),
        "for chunks of 2, 5 and 3 tokens and target 26": lambda fn: _draws(fn, [2, 5, 3], 26),
        "for chunks that fill their slots": lambda fn: _draws(fn, [4, 4], 8),
        "for two generators with one seed": _repeats,
    }
    run(learner, cases, "a slot of its own keeps every chunk in order, wherever in the slot it lands")


def check_broken_promise(learner: Callable[[Tensor, Sequence[int], int], str | None]) -> None:
    """Exercise: `broken_promise(positions, lengths, target)`, the first of PROMISES that is broken, or None."""
    at = torch.tensor
    wrong = {
        "with a position left out": (at([0, 1, 2, 10, 11]), "length"),
        "with a position equal to the target": (at([7, 8, 9, 18, 19, 20]), "target"),
        "with a position below zero": (at([-1, 0, 1, 10, 11, 12]), "target"),
        "with two equal positions at a border": (at([7, 8, 9, 9, 10, 11]), "order"),
        "with a chunk that runs backwards": (at([2, 3, 4, 13, 12, 11]), "order"),
        "with a chunk that begins in its neighbour's slot": (at([1, 2, 3, 8, 9, 10]), "slot"),
        "with a chunk that ends in its neighbour's slot": (at([9, 10, 11, 15, 16, 17]), "slot"),
        "with a gap inside a chunk": (at([1, 2, 4, 10, 11, 12]), "chunk"),
        "with everything as promised": (at([0, 1, 2, 17, 18, 19]), None),
        "with a wide gap between the chunks only": (at([7, 8, 9, 10, 11, 12]), None),
    }
    cases = {where: lambda fn, case=case: _promise(fn, *case) for where, case in wrong.items()}
    cases["with slots that do not fill the target"] = lambda fn: _promise(fn, at([7, 8, 9, 10, 11, 12]), None, 21)
    run(learner, cases, "five lines tell a good draw from a bad one, before a step of training is spent on it")


def check_coverage_share(learner: Callable[[Sequence[Tensor], int], float]) -> None:
    """Exercise: `coverage_share(samples, target)`, the part of all positions that some sample holds."""
    cases = {
        "for one sample": lambda fn: _coverage(fn, [[0, 1, 5]], 8),
        "for two samples that share positions": lambda fn: _coverage(fn, [[0, 1, 5], [1, 2, 5, 9]], 12),
        "for samples that hold everything": lambda fn: _coverage(fn, [[0, 2], [1, 3]], 4),
    }
    run(learner, cases, "what was never seen in training stays unknown, so count it before you train")


def check_logits_across_gaps(learner: Callable[..., Tensor]) -> None:
    """Exercise: `logits_across_gaps(model, ids, positions)`, `(1, k, V)`, for `ids` and `positions` of `(1, k)`."""
    cases = {
        "for 3 chunks far apart": lambda fn: _logits(fn, [8, 8, 8], 600),
        "for plain positions": lambda fn: _logits(fn, [6, 6], 12),
        "for the call itself": _mask_is_passed,
    }
    run(learner, cases, "a mask of ones says that the jumps are gaps in one text, not borders between texts")


def _pairs(positions: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(positions))
    x = torch.randn(len(positions), 6, generator=generator, dtype=torch.float64)
    return x, torch.tensor(positions), torch.tensor([1.0, 0.3, 0.01], dtype=torch.float64)


def _rotated(fn: Callable, x: Tensor, positions: Tensor, theta: Tensor) -> str | None:
    def turned(pairs: Tensor, angle: Tensor) -> Tensor:
        """Pairs as complex numbers `(k, d / 2)`, turned: `(k, d / 2, 2)`."""
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle))

    pairs, halves = torch.view_as_complex(x.unflatten(1, (-1, 2))), torch.complex(*x.chunk(2, 1))
    angle, plain = positions[:, None] * theta, positions[:, None].expand(len(x), len(theta)).double()
    want = turned(pairs, angle)
    suspects = {
        "the pairs are turned the other way: the first number is x0 cos - x1 sin": turned(pairs, -angle).flatten(1),
        "theta is missing: each pair has a speed of its own": turned(pairs, plain).flatten(1),
        "the positions are missing": turned(pairs, theta.expand_as(angle)).flatten(1),
        "entry j is paired with entry j + d / 2: pair neighbours": turned(halves, angle).mT.flatten(1),
        "first and second numbers are joined one behind the other: put neighbours next to each other": want.mT.flatten(
            1
        ),
        "the angle is added to the numbers: turn the pair": x + angle.repeat_interleave(2, 1),
    }
    suspects = {hint: answer for hint, answer in suspects.items() if not close(answer, want.flatten(1))}
    return compare(fn(x, positions, theta), want.flatten(1), suspects)


def _draws(fn: Callable, lengths: list[int], target: int) -> str | None:
    """Promises of many draws, the commonest slips by name, then the counts of the places that chunks were put at."""
    generator, total, slot = torch.Generator().manual_seed(0), sum(lengths), target // len(lengths)
    starts, owner = [], torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    for _ in range(DRAWS):
        got = fn(lengths, target, generator)
        if got is None:
            return MISSING
        got = as_tensor(got)
        if got.shape != (total,):
            return f"the shape is {tuple(got.shape)} and should be ({total},)"
        if hint := _slip(got.split(lengths), got // slot, owner, target):
            return hint
        starts.append(torch.stack([chunk[0] for chunk in got.split(lengths)]))
    places = torch.stack(starts) - slot * torch.arange(len(lengths))  # (draws, N), place in the slot
    return _uneven(places.long(), [slot - length + 1 for length in lengths])


def _slip(chunks: Sequence[Tensor], slots: Tensor, owner: Tensor, target: int) -> str | None:
    if any((chunk.diff() != 1).any() for chunk in chunks):
        return "there is a gap inside a chunk: draw one place per chunk, and count on from there"
    if (slots < 0).any() or torch.cat(list(chunks)).max() >= target:
        return "a position lies outside of 0 to target - 1: the last place is the slot's width less the chunk's length"
    if torch.equal(slots, torch.zeros_like(slots)) and len(chunks) > 1:
        return "all chunks lie in the first slot: slot c begins at c times its width"
    if (slots != owner).any():
        return "a chunk leaves its slot: slot c begins at c S, and the chunk must end before (c + 1) S"
    return None


def _uneven(places: Tensor, counts: list[int]) -> str | None:
    if max(counts) > 1 and (places == places[0]).all():
        return "every draw is the same: draw a place in the slot for each chunk"
    if len(counts) > 1 and min(counts) > 1 and (places == places[:, :1]).all():
        return "all chunks lie at the same place of their slots: draw one number for each"
    for column, count in zip(places.T, counts):
        seen = torch.bincount(column, minlength=count)
        if seen[-1] == 0:
            return "the last place of a slot is never used: the upper end of torch.randint is left out"
        if seen.min() < DRAWS / count / 3:
            return "some places of a slot come up much less often than others: draw them all alike"
    return None


def _repeats(fn: Callable) -> str | None:
    first, second = (as_tensor(fn([4, 4, 4], 3_000, torch.Generator().manual_seed(7))) for _ in range(2))
    return None if torch.equal(first, second) else "the draws differ: pass the generator on to torch.randint"


def _promise(fn: Callable, positions: Tensor, want: str | None, target: int = 20) -> str | None:
    got = fn(positions, [3, 3], target)
    if got is None or got in PROMISES:
        told = ", but nothing is broken" if want is None else f" and should be {want!r}"
        return None if got == want else f"the answer is {got!r}{told}"
    return f"the answer is a {type(got).__name__}: return None or one of {', '.join(map(repr, PROMISES))}"


def _coverage(fn: Callable, samples: list[list[int]], target: int) -> str | None:
    seen, total = set().union(*samples), sum(map(len, samples))
    suspects = {
        "that is a count: divide by the target": len(seen),
        "positions that two samples share are counted twice: count what was seen at all": total / target,
        "that is the mean share of one sample: put all samples together": total / len(samples) / target,
        "divide by the target, not by the farthest position": len(seen) / (max(seen) + 1),
    }
    got = fn([torch.tensor(sample) for sample in samples], target)
    return compare(got, len(seen) / target, suspects, tol=1e-6)  # a share may come from a mean in fp32


def _model():
    """A small Llama of fixed random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=29, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=1024, attn_implementation="sdpa",
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.copy_(0.4 * torch.randn(weight.shape, generator=generator))
    return model.eval()


def _text(lengths: list[int], target: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(29, (1, sum(lengths)), generator=generator)
    return ids, synthesize_positions(lengths, target, generator=generator)[None]


@torch.no_grad()
def _logits(fn: Callable, lengths: list[int], target: int) -> str | None:
    model, (ids, positions) = _model(), _text(lengths, target)
    causal = torch.ones(1, 1, *2 * ids.shape[1:], dtype=torch.bool).tril()

    def logits(positions, mask):
        return model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).logits

    suspects = {
        "attention is cut at the jumps: give the call an attention_mask": logits(positions, None),
        "the positions are not used: give the call position_ids": logits(None, causal),
        "tokens see what comes after them: the mask must be causal": logits(positions, torch.ones_like(causal)),
    }
    got = fn(model, ids, positions)
    return compare(getattr(got, "logits", got), logits(positions, causal), suspects if len(lengths) > 2 else {}, 1e-4)


@torch.no_grad()
def _mask_is_passed(fn: Callable) -> str | None:
    """With a cache the values are right even without a mask, but training makes no cache."""
    model, (ids, positions), masks = _model(), _text([8, 8, 8], 600), []
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    fn(model, ids, positions)
    lucky = "there is no mask: a cache hides the trap, and training makes none, so pass attention_mask"
    return lucky if any(mask is None for mask in masks) else None
