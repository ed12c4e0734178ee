"""What positions and layouts ask of their inputs: every error is one sentence, argument, what came and the fix."""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from minilib.losses.validation import is_whole


def check_lengths(lengths: Sequence[int]) -> list[int]:
    """The tokens of each chunk as a list of whole numbers, at least 1."""
    if isinstance(lengths, Integral):
        raise TypeError(f"lengths is {lengths}: give a list with the tokens of each chunk, such as [{lengths}].")
    lengths = lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
    if not lengths:
        raise ValueError("lengths is empty: give the number of tokens of at least one chunk.")
    for c, length in enumerate(lengths):
        if not is_whole(length, None):
            raise TypeError(f"lengths[{c}] is {length!r}: give the tokens of each chunk as a whole number.")
        if length < 1:
            raise ValueError(f"lengths[{c}] is {length}: a chunk has at least one token, leave empty ones out.")
    return lengths


def check_target(target, tokens: int, owner: str = "the chunks") -> None:
    if not is_whole(target, None):
        raise TypeError(f"target is {target!r}: give the number of positions as a whole number.")
    if target < tokens:
        came = f"target is {target} and {owner} have {tokens}"
        raise ValueError(f"{came} tokens: a target cannot be shorter than the text, raise it or leave chunks out.")


def check_ids(name: str, ids: Sequence[int] | Tensor) -> Tensor:
    if len(ids) == 0:
        raise ValueError(f"{name} is empty: give at least one token id.")
    ids = torch.as_tensor(ids).cpu()
    if ids.ndim != 1 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise TypeError(f"{name} has shape {tuple(ids.shape)} and dtype {ids.dtype}: give one list of token ids.")
    if ids.min() < 0:
        place = int((ids < 0).nonzero()[0])
        raise ValueError(f"{name} holds {int(ids[place])} at place {place}: give token ids of 0 or more, not labels.")
    return ids.long()


def check_positions(positions: Sequence[int] | Tensor | None, length: int) -> Tensor:
    if positions is None:
        return torch.arange(length)
    if len(positions) != length:
        raise ValueError(f"prompt_positions has {len(positions)} ids for {length} prompt tokens: give one for each.")
    positions = check_ids("prompt_positions", positions)
    backwards = (positions.diff() <= 0).nonzero()
    if len(backwards):
        at = int(backwards[0]) + 1
        came = f"prompt_positions goes from {int(positions[at - 1])} to {int(positions[at])} at place {at}"
        raise ValueError(f"{came}: give strictly increasing ids, such as those of synthesize_positions.")
    return positions
