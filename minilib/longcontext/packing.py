"""One prompt, 1 + M answers: a layout in which the prompt is written, and computed, once.

    token     x_1 .. x_P | y^0_1 .. y^0_n0 | y^1_1 .. y^1_n1 | ...
    position  p_1 .. p_P | q .. q+n0-1     | q .. q+n1-1     | ...        q = p_P + 1
    segment   0  ..  0   | 1 .. 1          | 2 .. 2          | ...

    token t sees token u   when   u <= t   and   segment(u) is 0 or segment(t)

where
    x, p      the prompt and its position ids, plain or synthesised (positions.py)
    y^a       answer a: 0 is the chosen one, 1 .. M the rejected ones
    q         the position at which every answer starts

So each answer is blind to the others and gets exactly the log-probabilities that it would get alone behind the prompt.
The prompt's last hidden state predicts the first token of every answer, so one hidden state has several labels, and the
layout carries triples:

    labels[k], a token of answer `answer[k]`, is predicted by the hidden state at index `predict[k]`

With P prompt tokens and answers of n tokens, (1 + M)(P + n) tokens become P + (1 + M) n; the authors' code runs all
1 + M sequences in full.
Taught in notebooks/10_score_a_long_answer.ipynb.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minilib.longcontext.validation import check_ids, check_positions

PADDING = -1  # the segment of padding


class Packed(NamedTuple):
    """One prompt with its answers, L tokens (`pack_answers`); or b of them, padded to one length (`stack_packed`).

    In a batch the first three fields are `(b, L)`, and the triples of all rows stand one after the other: `predict`
    counts through the flattened `(b * L,)` hidden states, `answer` through the flattened `(b, 1 + M)` answers.
    """

    input_ids: Tensor  # (L,)
    position_ids: Tensor  # (L,)
    segment_ids: Tensor  # (L,): 0 prompt, 1 .. 1 + M answers, -1 padding
    predict: Tensor  # (n,) index of the hidden state that predicts the label
    labels: Tensor  # (n,) all answer tokens
    answer: Tensor  # (n,) number of the answer, from 0

    @property
    def num_answers(self) -> int:
        """Answers in all: 1 + M for one pack, b (1 + M) for a batch."""
        return int(self.segment_ids.max()) * (1 if self.segment_ids.ndim == 1 else len(self.segment_ids))

    @property
    def attention_mask(self) -> Tensor:
        """Who sees whom, `(1, 1, L, L)` or `(b, 1, L, L)` boolean; made when asked for, L^2 bytes a pack."""
        return dense_mask(self.segment_ids)

    def to(self, device: str | torch.device) -> "Packed":
        """The same layout on another device."""
        return Packed(*(field.to(device) for field in self))


def pack_answers(
    prompt_ids: Sequence[int] | Tensor,
    answers: Sequence[Sequence[int] | Tensor],
    prompt_positions: Sequence[int] | Tensor | None = None,
    *,
    window: int | None = None,
) -> Packed:
    """Lay 1 + M answers after one prompt, all of them starting at the same position.

    Args:
        prompt_ids: token ids of the prompt, P of them.
        answers: token ids of each answer, the chosen one first; lengths may differ.
        prompt_positions: P strictly increasing position ids, by default 0 .. P - 1.
        window: positions that the model has; ValueError for an answer that runs past them. None: not checked.

    Returns:
        The layout, on the CPU.
    """
    prompt = check_ids("prompt_ids", prompt_ids)
    if len(answers) == 0:
        raise ValueError("answers is empty: give the chosen answer first, then the rejected ones.")
    tokens = [check_ids(f"answers[{a}]", answer) for a, answer in enumerate(answers)]
    positions = check_positions(prompt_positions, len(prompt))
    start = int(positions[-1]) + 1
    for a, answer in enumerate(tokens):
        if window is not None and start + len(answer) > window:
            came = f"answers[{a}] has {len(answer)} tokens from position {start} on and window is {window}"
            raise ValueError(f"{came}: shorten the answer or leave more room behind the prompt.")
    sizes = torch.tensor([len(prompt), *map(len, tokens)])
    first = sizes.cumsum(0)[:-1].tolist()  # index of each answer's first token
    last = len(prompt) - 1
    return Packed(
        input_ids=torch.cat([prompt, *tokens]),
        position_ids=torch.cat([positions, *(start + torch.arange(len(answer)) for answer in tokens)]),
        segment_ids=torch.arange(len(sizes)).repeat_interleave(sizes),
        predict=torch.cat([torch.tensor([last, *range(at, at + len(y) - 1)]) for at, y in zip(first, tokens)]),
        labels=torch.cat(tokens),
        answer=torch.arange(len(tokens)).repeat_interleave(sizes[1:]),
    )


def stack_packed(packs: Sequence[Packed], *, pad_id: int = 0) -> Packed:
    """A batch of packs with equally many answers each, padded on the right; padding is seen by no real token.

    Positions keep counting through the padding: some attention kernels take a position that starts again for a new
    document.
    """
    if len(packs) == 0:
        raise ValueError("packs is empty: give at least one result of pack_answers.")
    each, width = packs[0].num_answers, max(len(pack.input_ids) for pack in packs)
    rows = {"input_ids": [], "position_ids": [], "segment_ids": []}
    for number, pack in enumerate(packs):
        if pack.num_answers != each:
            came = f"packs[{number}] has {pack.num_answers} answers and packs[0] {each}"
            raise ValueError(f"{came}: give each prompt equally many.")
        extra = width - len(pack.input_ids)
        count = pack.position_ids.max() + 1 + torch.arange(extra, device=pack.input_ids.device)
        for name, filling in (("input_ids", pad_id), ("position_ids", count), ("segment_ids", PADDING)):
            rows[name].append(torch.cat([getattr(pack, name), torch.zeros_like(count) + filling]))
    return Packed(
        **{name: torch.stack(values) for name, values in rows.items()},
        predict=torch.cat([pack.predict + row * width for row, pack in enumerate(packs)]),
        labels=torch.cat([pack.labels for pack in packs]),
        answer=torch.cat([pack.answer + row * each for row, pack in enumerate(packs)]),
    )


def sees(segment_ids: Tensor) -> Callable[..., Tensor]:
    """The rule of the layout as a function of batch row, head, asking and seen index, as FlexAttention wants it."""

    def rule(row, head, t, u):
        return (u <= t) & ((segment_ids[row, u] == 0) | (segment_ids[row, u] == segment_ids[row, t]))

    return rule


def dense_mask(segment_ids: Tensor, start: int = 0) -> Tensor:
    """The rule written out for asking tokens from index `start` on: `(b, 1, L - start, L)` boolean."""
    segment_ids = segment_ids if segment_ids.ndim == 2 else segment_ids[None]
    index = torch.arange(segment_ids.shape[1], device=segment_ids.device)
    row = torch.arange(len(segment_ids), device=segment_ids.device)[:, None, None, None]
    return sees(segment_ids)(row, 0, index[start:, None], index)
