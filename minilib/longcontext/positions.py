"""Position ids that make a short text look long: strictly increasing, below a target, with gaps where text is missing.

A rotary model only knows the distances between positions that it was trained on. Instead of paying for K real tokens,
k << K tokens are given positions that reach up to K. Chunk c of N gets a slot of its own, which is the intent of LOGO's
Eq. 4 made well defined:

    S          = floor(K / N)
    continuous:  pos(c) = c S + o_c + [0 .. L_c - 1],      o_c ~ Uniform{0 .. S - L_c}
    sparse:      pos(c) = c S + L_c distinct integers of [0 .. S - 1], sorted
    mixed:       every chunk is sparse with probability 1/10, else continuous

where
    K, N, S   target (positions run below it), number of chunks, width of a slot
    L_c       tokens of chunk c; k = sum_c L_c is the length of the real text
    o_c       where the chunk lies in its slot

Two baselines: "pose" (PoSE) cuts the text in two at a random place and shifts the second piece by one random skip;
"random" (RandPos) takes k distinct integers of [0 .. K - 1] in order, without regard to chunks.

Departure from the paper: Eq. 4 as printed, b_i ~ U(1, (i mod |C_i|)(K - k)/N), takes the place of a token in its chunk
for the number of the chunk; and with that fixed, independent draws still let neighbouring chunks overlap or run
backwards in nearly every sample. The 9 : 1 mixture is drawn for each chunk. The released code instead places a chunk on
one of a few evenly spaced windows of its slot.

Beware: transformers takes a jump in the positions for a new document when it is given no attention mask, and cuts
attention there without a word. Always pass a mask.
Taught in notebooks/12_stretch_positions_without_long_inputs.ipynb.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from minilib.longcontext.validation import check_lengths, check_target
from minilib.losses.validation import check_choice, is_whole

MODES = ("continuous", "sparse", "mixed", "pose", "random")
SPARSE_SHARE = 0.1  # LOGO mixes continuous and sparse chunks 9 : 1


def synthesize_positions(
    lengths: Sequence[int], target: int, *, mode: str = "continuous", generator: torch.Generator | None = None
) -> Tensor:
    """Strictly increasing position ids below `target` for consecutive chunks of these lengths.

    Args:
        lengths: tokens of each chunk, N numbers; their sum is k.
        target: K, the length that the text shall seem to have; with K = k the positions are 0 .. k - 1.
        mode: "continuous", "sparse", "mixed" (9 : 1), or one of the baselines "pose" and "random".
        generator: source of randomness, by default torch's own.

    Returns:
        `(k,)` int64 on the CPU.
    """
    check_choice("mode", mode, MODES)
    lengths = check_lengths(lengths)
    total = sum(lengths)
    check_target(target, total)
    if target == total:
        return torch.arange(total)  # the only strictly increasing answer
    if mode == "pose":
        return _pose(total, target, generator)
    if mode == "random":
        return _distinct(total, target, generator)
    slot = _slot(lengths, target)
    share = {"continuous": 0.0, "sparse": 1.0, "mixed": SPARSE_SHARE}[mode]
    sparse = torch.rand(len(lengths), generator=generator) < share
    place = [_distinct if scattered else _consecutive for scattered in sparse.tolist()]
    return torch.cat([c * slot + place[c](n, slot, generator) for c, n in enumerate(lengths)])


def prompt_positions(
    head: int, lengths: Sequence[int], tail: int, target: int, *,
    answer: int = 0, at_end: bool = False, mode: str = "mixed", generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Positions of a whole prompt: `head` tokens, chunks spread out, a question of `tail` tokens, room for an answer.

    The head (system prompt) starts at 0. The question follows the last chunk without a gap, as the 1 + M answers will
    follow the question (`pack_answers`), all of them at one position; or, with `at_end`, it lies where question and
    answer end at the target, as in the released notebook: then even the last chunk is seen from afar.

    Args:
        head, lengths, tail: tokens before the chunks, of each chunk, and after them.
        target: K; every position of prompt and answers stays below it.
        answer: tokens of the longest answer, for which room is kept.
        mode, generator: as in `synthesize_positions`, for the chunks.

    Returns:
        `(head + k + tail,)` int64, strictly increasing.
    """
    for name, value in (("head", head), ("tail", tail), ("answer", answer)):
        if not is_whole(value, 0):
            raise ValueError(f"{name} is {value!r}: give a number of tokens, 0 or more.")
    lengths, rest = check_lengths(lengths), head + tail + answer
    check_target(target, rest + sum(lengths), "prompt and answer")
    room = target - rest
    chunks = head + synthesize_positions(lengths, room, mode=mode, generator=generator)  # (k,)
    start = head + room if at_end else int(chunks[-1]) + 1
    return torch.cat([torch.arange(head), chunks, torch.arange(start, start + tail)])


def _consecutive(length: int, room: int, generator) -> Tensor:
    """`length` consecutive integers somewhere in [0, room)."""
    return int(torch.randint(room - length + 1, (), generator=generator)) + torch.arange(length)


def _distinct(length: int, room: int, generator) -> Tensor:
    """`length` distinct integers of [0, room), sorted; every such set is equally likely."""
    return torch.randperm(room, generator=generator)[:length].sort().values


def _pose(total: int, target: int, generator) -> Tensor:
    """Two pieces cut at random, the second moved up by one skip, both drawn uniformly."""
    positions = torch.arange(total)
    if total == 1:
        return positions
    cut = int(torch.randint(1, total, (), generator=generator))
    positions[cut:] += torch.randint(target - total + 1, (), generator=generator)
    return positions


def _slot(lengths: list[int], target: int) -> int:
    chunks, longest = len(lengths), max(lengths)
    slot = target // chunks
    if longest > slot:
        came = f"lengths[{lengths.index(longest)}] is {longest} and a slot holds {slot} positions"
        fix = f"cut the chunks to at most {slot} tokens, or give {longest * chunks} positions"
        raise ValueError(f"{came} ({target} for {chunks} chunks): {fix}.")
    return slot
