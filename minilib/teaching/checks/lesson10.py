"""Checks of lesson 10, score a long answer without the logits: the fold, one visit, weights, the sweep, the layout.

Solutions: `log_sums` and `sweep` of `minilib.kernels.vocab_tiled`, the factors of `minilib.losses.logo_from_hidden`,
and `pack_answers` of `minilib.longcontext`. The judge is the dense log-softmax with autograd in fp64.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from minilib.teaching.checks.contract import LargestTensor, close, compare, not_finite, run

Rows = tuple[Tensor, Tensor, Tensor]  # hidden (n, d), weight (V, d), labels (n,)


def check_label_logp(learner: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> None:
    """Exercise: `label_logp(hidden, weight, labels, chunk)`, `(n,)`, from `chunk` vocabulary entries at a time."""
    cases = {
        "for four entries with weights 1, 2, 1, 4 in chunks of two": lambda fn: _fold(fn, _by_hand(), 2),
        "for 20 entries in chunks of 5": lambda fn: _fold(fn, _random(6, 20), 5),
        "for 23 entries in chunks of 5, the last one narrower": lambda fn: _fold(fn, _random(7, 23), 5),
        "for logits up to 1,000 in fp32": _large_logits,
        "for 64 entries in chunks of 8": _holds_no_logits,
    }
    run(learner, cases, "a running state for the sum, and the label's logit taken from the chunk that holds it")


def check_logp_and_gradient(learner: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> None:
    """Exercise: `logp_and_gradient(hidden, weight, labels, rows)`, `(n,)` and `(n, d)`, `rows` tokens at a time."""
    cases = {
        "for four entries with weights 1, 2, 1, 4": lambda fn: _one_visit(fn, _by_hand(), 2),
        "for 7 tokens, 3 at a time": lambda fn: _one_visit(fn, _random(7, 20), 3),
        "for 32 tokens, 4 at a time": _two_products,
    }
    run(learner, cases, "the row is here, its sum is complete, and the token's own factor can wait: two products")


def check_token_weights(learner: Callable[[Tensor, int], Tensor]) -> None:
    """Exercise: `token_weights(answer, num_rejected)`, `(n,)`: 1 / |y_w| or -1 / (M |y_l|)."""
    cases = {
        "for a chosen answer of 2 tokens and a rejected one of 3": lambda fn: _weights(fn, [2, 3], 1),
        "for answers of 3, 2 and 4 tokens": lambda fn: _weights(fn, [3, 2, 4], 2),
        "for two examples with answers of 3, 2, 4 and 1, 5, 2 tokens": lambda fn: _weights(fn, [3, 2, 4, 1, 5, 2], 2),
    }
    run(learner, cases, "lengths alone say what every token weighs, before a single logit is known")


def check_sweep(learner: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> None:
    """Exercise: `sweep(hidden, weight, labels, f, rows, entries)`: `(n,)`, and the gradients of `f @ logps`."""
    cases = {
        "for three tokens and four entries at once": lambda fn: _sweep(fn, _by_hand(), 3, 4),
        "for 7 tokens, 3 at a time, and 23 entries, 5 at a time": lambda fn: _sweep(fn, _random(7, 23), 3, 5),
        "for logits up to 1,000": _sweep_far,
        "for 24 tokens, 8 at a time, and 60 entries, 10 at a time": _sweep_costs,
    }
    run(
        learner, cases, "each logit is made once: its tile waits for the row's sum, the loss's factor waits for no tile"
    )


def check_pack_layout(learner: Callable[[Tensor, Sequence[int]], tuple[Tensor, Tensor]]) -> None:
    """Exercise: `pack_layout(prompt_positions, lengths)`, positions `(L,)` and mask `(L, L)`."""
    cases = {
        "for a prompt of 3 tokens and answers of 2 and 2": lambda fn: _layout(fn, [0, 1, 2], [2, 2]),
        "for positions that jump and answers of 3, 1 and 2": lambda fn: _layout(fn, [0, 1, 7, 8, 30], [3, 1, 2]),
        "for a single answer": lambda fn: _layout(fn, [4, 5], [3]),
    }
    run(learner, cases, "every answer starts where the prompt ends and is blind to the others, as if it were alone")


def _random(tokens: int, vocabulary: int, dim: int = 5) -> Rows:
    generator = torch.Generator().manual_seed(tokens)
    hidden, weight = (torch.randn(k, dim, generator=generator, dtype=torch.float64) for k in (tokens, vocabulary))
    return hidden, weight, torch.randint(vocabulary, (tokens,), generator=generator)


def _by_hand() -> Rows:
    weight = torch.tensor([[1.0], [2.0], [1.0], [4.0]], dtype=torch.float64).log()  # (4, 1): probabilities in eighths
    return torch.ones(3, 1, dtype=torch.float64), weight, torch.tensor([1, 3, 0])


def _fold(fn: Callable, rows: Rows, chunk: int) -> str | None:
    hidden, weight, labels = rows
    logits = hidden @ weight.T  # (n, V)
    want, picked = (x.gather(1, labels[:, None])[:, 0] for x in (torch.log_softmax(logits, 1), logits))
    full = len(weight) // chunk * chunk  # the entries of the whole chunks
    only_last = picked - torch.logsumexp(logits[:, (len(weight) - 1) // chunk * chunk :], 1)
    suspects = {
        "that is the log-sum-exp: subtract it from the label's logit": picked - want,
        "that is the label's logit: subtract the log-sum-exp": picked,
        "the sign is turned round: that is the loss, the label's logit comes first": -want,
        "that is the probability: leave the logarithm on": want.exp(),
        "the last, narrower chunk is missing from the sum": picked - torch.logsumexp(logits[:, :full], 1),
        "the sum holds the last chunk only: update the pair, do not begin a new one": only_last,
        "the largest logit stands for the sum: the pair has s as well": picked - logits.amax(1),
    }
    return compare(fn(hidden, weight, labels, chunk), want, suspects)


def _large_logits(fn: Callable) -> str | None:
    hidden, weight, labels = (x.float() if x.is_floating_point() else x for x in _random(6, 24))
    hidden = hidden * (1000 / (hidden @ weight.T).abs().max())
    got = fn(hidden, weight, labels, 7)
    want = torch.log_softmax((hidden @ weight.T).double(), 1).gather(1, labels[:, None])[:, 0]
    overflow = "an entry is not finite: fold the chunks with lse.update, which subtracts a maximum"
    return not_finite(got, overflow) or compare(got, want, tol=1e-5)


def _holds_no_logits(fn: Callable) -> str | None:
    rows = _random(32, 64)
    return _fold(fn, rows, 8) or _whole(fn, rows, 8)


def _whole(fn: Callable, rows: Rows, size: int) -> str | None:
    """The hint for a function that makes a tensor as large as all logits."""
    with LargestTensor() as largest:
        fn(*rows, size)
    if largest.numel < len(rows[0]) * len(rows[1]):
        return None
    return "it holds a tensor as large as all logits of all tokens: keep one chunk at a time"


def _one_visit(fn: Callable, rows: Rows, size: int) -> str | None:
    hidden, weight, labels = rows
    leaf = hidden.clone().requires_grad_()
    logp = torch.log_softmax(leaf @ weight.T, 1)  # (n, V)
    picked = logp.gather(1, labels[:, None])[:, 0]
    (grad,) = torch.autograd.grad(picked.sum(), leaf)
    want = picked.detach(), grad
    mean = torch.softmax(hidden @ weight.T, 1) @ weight  # sum_v p_v w_v, (n, d)
    unscaled = torch.exp(hidden @ weight.T) @ weight
    suspects = {
        "the gradient's sign is turned round: that is the gradient of the loss": -grad,
        "the label's row of the weight is missing from the gradient": -mean,
        "the gradient is the label's row alone: take the mean row under the softmax away": weight[labels],
        "the mean row under the softmax is added: take it away": weight[labels] + mean,
        "the exponentials are not divided by their sum": weight[labels] - unscaled,
        "the gradient is divided by the number of tokens: each token has its own": grad / len(hidden),
    }
    got = fn(hidden, weight, labels, size)
    if wrong := compare(got, want, tol=math.inf):  # its form alone
        return wrong
    loss = {"that is the loss: turn its sign round": -want[0]}
    return compare(got[0], want[0], loss) or compare(got[1], want[1], suspects)


def _two_products(fn: Callable) -> str | None:
    rows = hidden, weight, labels = _random(32, 64)
    if hint := _one_visit(fn, rows, 4):
        return hint
    with FlopCounterMode(display=False) as counter:
        fn(hidden, weight, labels, 4)
    products = counter.get_total_flops() / (2 * len(hidden) * weight.numel())
    if products > 2.1:
        return f"it took {products:.3g} products and two are enough: the logits need not be made again"
    return _whole(fn, rows, 4)


def _sweep(fn: Callable, rows: Rows, size: int, entries: int) -> str | None:
    hidden, weight, labels = rows
    f = torch.linspace(-0.5, 1.0, len(hidden), dtype=torch.float64) + 0.1
    leaves = [x.clone().requires_grad_() for x in (hidden, weight)]
    logp = torch.log_softmax(leaves[0] @ leaves[1].T, 1)  # (n, V)
    picked = logp.gather(1, labels[:, None])[:, 0]
    want = picked.detach(), *torch.autograd.grad(f @ picked, leaves)
    got = fn(hidden, weight, labels, f, size, entries)
    if wrong := compare(got, want, tol=math.inf):  # its form alone
        return wrong
    loss = {"those are losses: turn the sign round": -want[0]}
    return compare(got[0], want[0], loss) or _sweep_grads(got, want, (hidden, weight, labels, f), size, entries)


def _sweep_grads(got, want, inputs, size: int, entries: int) -> str | None:
    hidden, weight, labels, f = inputs
    p = torch.softmax(hidden @ weight.T, 1)
    at_label = torch.zeros_like(p).scatter_(1, labels[:, None], 1.0)
    G, last = f[:, None] * (at_label - p), (len(hidden) - 1) // size * size
    last_tile = (len(weight) - 1) // entries * entries
    own = torch.cat([torch.softmax(x, 1) for x in (hidden @ weight.T).split(entries, 1)], 1)  # each tile by itself
    alone = f[:, None] * (at_label - own)
    slips = {
        "the gradients' sign is turned round: those are the gradients of the loss": -G,
        "f is missing": at_label - p,
        "the label's part is missing": -f[:, None] * p,
        "each tile is divided by its own sum: use the sum of the whole row": alone,
        "the label's part lacks its factor f": at_label - f[:, None] * p,
    }
    hidden_hints = {f"in the gradient of hidden, {hint}": g @ weight for hint, g in slips.items()}
    hint = "the gradient of hidden holds the last tile only: add over the tiles"
    hidden_hints[hint] = G[:, last_tile:] @ weight[last_tile:]
    weight_hints = {f"in the gradient of weight, {hint}": g.T @ hidden for hint, g in slips.items()}
    weight_hints["the gradient of weight holds the last rows only: add over the rows"] = G[last:].T @ hidden[last:]
    return compare(got[1], want[1], _other(hidden_hints, want[1])) or compare(
        got[2], want[2], _other(weight_hints, want[2])
    )


def _other(suspects: dict[str, Tensor], want: Tensor) -> dict[str, Tensor]:
    return {hint: answer for hint, answer in suspects.items() if not close(answer, want)}


def _sweep_far(fn: Callable) -> str | None:
    hidden, weight, labels = _random(6, 24)
    hidden = hidden * (1000 / (hidden @ weight.T).abs().max())
    overflow = "a number is not finite: take the sum of a row with lse.update, which subtracts a maximum"
    return not_finite(fn(hidden, weight, labels, torch.ones(6).double(), 4, 7), overflow)


def _sweep_costs(fn: Callable) -> str | None:
    rows = hidden, weight, labels = _random(24, 60)
    if hint := _sweep(fn, rows, 8, 10):
        return hint
    with FlopCounterMode(display=False) as counter, LargestTensor() as largest:
        fn(hidden, weight, labels, torch.ones(24).double(), 8, 10)
    products = counter.get_total_flops() / (2 * len(hidden) * weight.numel())
    if products > 3.1:
        return f"it took {products:.3g} products and three are enough: keep the tiles until their row's sum is known"
    if largest.numel >= len(hidden) * len(weight):
        return "it holds a tensor as large as all logits of all tokens: keep those of `rows` tokens at a time"
    return None


def _weights(fn: Callable, lengths: list[int], num_rejected: int) -> str | None:
    sizes = torch.tensor(lengths, dtype=torch.float64)
    answer = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    place = torch.arange(len(lengths)) % (1 + num_rejected)
    sign = torch.where(place == 0, 1.0, -1.0 / num_rejected).double()
    examples = place.eq(0).cumsum(0) - 1
    rejected = torch.stack([sizes[(examples == e) & (place > 0)].sum() for e in examples])  # tokens of each example
    together = torch.where(place == 0, 1 / sizes, -1 / rejected)[answer]
    once = torch.where(torch.arange(len(lengths)) == 0, 1.0, -1.0 / num_rejected)
    suspects = {
        "the rejected answers push up: their weights are negative": (sign.abs() / sizes)[answer],
        "the signs are turned round: the chosen answer is to rise": (-sign / sizes)[answer],
        "M is missing: the rejected answers share one minus": (sign.sign() / sizes)[answer],
        "the lengths are missing: each answer counts by its mean": sign[answer],
        "all answers are divided by the longest: each has a length of its own": (sign / sizes.max())[answer],
        "all answers are divided by the number of all tokens": (sign / sizes.sum())[answer],
        "the rejected tokens are thrown together: first the mean of each answer, then the mean of these": together,
        "only answer 0 is chosen: each example of 1 + M answers has a chosen one": (once / sizes)[answer],
    }
    return compare(fn(answer, num_rejected), (sign / sizes)[answer], suspects, tol=1e-6)


def _layout(fn: Callable, prompt: list[int], lengths: list[int]) -> str | None:
    size, last = len(prompt), prompt[-1]
    segment = torch.arange(1 + len(lengths)).repeat_interleave(torch.tensor([size, *lengths]))
    within = torch.cat([torch.arange(length) for length in lengths])
    past = torch.ones(len(segment), len(segment)).tril().bool()
    own, prompts = segment[:, None] == segment, (segment == 0).expand(len(segment), -1)
    want = torch.tensor([*prompt, *(last + 1 + within)]), past & (own | prompts)
    got = fn(torch.tensor(prompt), lengths)
    if wrong := compare(got, want, tol=math.inf):  # its form alone
        return wrong
    counted_on = last + 1 + torch.arange(sum(lengths))
    positions = {
        "the answers are counted on one behind the other: each starts at the position behind the prompt": counted_on,
        "the answers start at 0: they continue the prompt": within,
        "the answers start on the prompt's last position: go one further": last + within,
        "the answers start at the number of prompt tokens: the prompt's positions jump": size + within,
    }
    positions = {hint: torch.tensor([*prompt, *answers]) for hint, answers in positions.items()}
    masks = {
        "an answer sees the answers before it: only the prompt and itself": past,
        "the answers do not see the prompt": past & own,
        "tokens see their own future: u is at most t": own | prompts,
        "a token does not see itself": want[1] & ~torch.eye(len(segment), dtype=torch.bool),
        "the mask is turned over: True is where a token may look": ~want[1],
        "rows and columns are exchanged: the asking token is the row": want[1].T,
    }
    return compare(got[0], want[0], positions) or compare(got[1], want[1], masks)
