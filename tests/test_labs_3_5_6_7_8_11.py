"""Labs 3, 5, 6, 7, 8 and 11: what they cover, their checks under mutation, and their exercises on seeded mistakes.

The mistakes of an exercise are the solution with one slip in it; each gets a hint of its own.
"""

import torch
from support.labs import LabsKeepTheirPromises
from support.lesson_exercises import ExercisesCanFail


class TestLabs(LabsKeepTheirPromises):
    """The tests of every lab, for these."""

    labs = (3, 5, 6, 7, 8, 11)


# Lab 3


def keep_neighbours(scores, budget, kernel, future=True, window=False, late=False, order=True, last=True):
    heads, w, n = scores.shape
    hidden = torch.arange(n) > torch.arange(n - w, n)[:, None]
    votes = (scores.masked_fill(hidden, float("-inf")) if future else scores).softmax(-1).sum(1)
    votes, pool = votes if window else votes[:, : n - w], torch.nn.functional.max_pool1d
    if not late:
        votes = pool(votes, kernel, stride=1, padding=kernel // 2)
    best = votes[:, : n - w].topk(budget - w).indices
    kept = torch.cat([best, torch.arange(n - w, n).expand(heads, w)], 1) if last else best
    return kept.sort(1).values if order else kept


def merge_key(first, second, bias=torch.logaddexp, weights=lambda b1, b2, b: (torch.exp(b1 - b), torch.exp(b2 - b))):
    (k1, v1, b1), (k2, v2, b2) = first, second
    w1, w2 = weights(b1, b2, torch.logaddexp(b1, b2))
    return w1 * k1 + w2 * k2, w1 * v1 + w2 * v2, bias(b1, b2)


class TestExercisesOfLab3(ExercisesCanFail):
    """The tests of every lesson, for this lab."""

    notebook = "labs/03_serve_a_long_context.ipynb"
    solutions = {"keep_neighbours": keep_neighbours, "merge_key": merge_key}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        ("keep_neighbours", lambda *a: keep_neighbours(*a, late=True), "comes after the choice"),
        ("keep_neighbours", lambda *a: keep_neighbours(*a, window=True), "window is pooled too"),
        ("keep_neighbours", lambda *a: keep_neighbours(*a, future=False), "mask the future"),
        ("keep_neighbours", lambda *a: keep_neighbours(*a, last=False), "window is missing"),
        ("keep_neighbours", lambda *a: keep_neighbours(*a, order=False), "not sorted"),
        ("keep_neighbours", lambda x, n, kernel: keep_neighbours(x, n, 5), "for kernel 3"),
        ("merge_key", lambda a, b: merge_key(a, (*b[:2], torch.zeros(()).double())), "one of five"),
        ("merge_key", lambda *a: merge_key(*a, bias=lambda b1, b2: torch.maximum(b1, b2)), "log 2 is forgotten"),
        ("merge_key", lambda *a: merge_key(*a, bias=lambda b1, b2: b1.exp() + b2.exp()), "take its logarithm"),
        ("merge_key", lambda *a: merge_key(*a, weights=lambda b1, b2, b: (0.5, 0.5)), "as if both stood"),
        ("merge_key", lambda *a: merge_key(*a, weights=lambda b1, b2, b: (b1.exp(), b2.exp())), "are summed"),
    ]


# Lab 6


def pro_term(scores, rewards, k, own=None, start=None, ties=False, skip=0):
    start = k if start is None else start
    gaps = rewards[k] - rewards[start:]
    largest = gaps.max()
    gaps[k - start] = largest
    kept = torch.ones_like(gaps, dtype=torch.bool) if ties or start < k else gaps > 0
    if own is not None:
        gaps[k - start] = own
    scaled = (gaps * scores[start:])[kept]
    return torch.logsumexp(scaled[skip:], 0) - gaps[k - start] * scores[k]


def advantages(rewards, baseline=lambda r: (r.sum() - r) / (len(r) - 1)):
    return rewards - baseline(rewards)


class TestExercisesOfLab6(ExercisesCanFail):
    """The tests of every lesson, for this lab."""

    notebook = "labs/06_rank_answers_then_doubt_the_ranker.ipynb"
    solutions = {"pro_term": pro_term, "advantages": advantages}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        ("pro_term", lambda *a: pro_term(*a, own=1.0), "own score is not multiplied"),
        ("pro_term", lambda *a: pro_term(*a, own=0.0), "left at 0"),
        ("pro_term", lambda *a: pro_term(*a, start=0), "start at k"),
        ("pro_term", lambda *a: pro_term(*a, ties=True), "a tie is kept in"),
        ("pro_term", lambda *a: pro_term(*a, skip=1), "is missing in the sum"),
        ("advantages", lambda r: advantages(r, lambda r: r), "its own baseline"),
        ("advantages", lambda r: advantages(r, lambda r: r.mean()), "(k - 1) / k"),
        ("advantages", lambda r: advantages(r, lambda r: r.mean()) / r.std(), "spread is divided out"),
        ("advantages", lambda r: 2 * r - advantages(r), "baseline is added"),
    ]


# Lab 7


def topic_batch(topics, b, generator, by_size=False, repeat=False, first=False, mixed=False, known=True):
    generator, names = generator if known else None, topics.unique()
    draw = torch.randint(len(topics if by_size else names), (1,), generator=generator)
    topic = (topics if by_size else names)[draw]
    items = torch.arange(len(topics)) if mixed else (topics == topic).nonzero()[:, 0]
    if repeat:
        return items[torch.randint(len(items), (b,), generator=generator)]
    return items[:b] if first else items[torch.randperm(len(items), generator=generator)[:b]]


def previous_windows(keys, n, wrap=False, masked=True, past=1, others=1, step=-1, start=0, shuffled=False):
    b, w, m, _ = keys.shape

    def shifted(by):
        before = torch.roll(keys, by, 1)
        if by and not wrap:
            before[:, 0 if by > 0 else -1] = 0
        return before

    documents = [
        torch.randperm(b) if shuffled and j else (torch.arange(b) - step * j) % b for j in range(start, n + start)
    ]
    parts = [shifted(past if j == 0 else others)[rows] for j, rows in enumerate(documents)]
    there = torch.ones(b, w, n * m, dtype=torch.bool)
    there[:, 0] = not masked
    return torch.cat(parts, 2), there


class TestExercisesOfLab7(ExercisesCanFail):
    """The tests of every lesson, for this lab."""

    notebook = "labs/07_choose_the_negatives.ipynb"
    solutions = {"topic_batch": topic_batch, "previous_windows": previous_windows}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        ("topic_batch", lambda *a: topic_batch(*a, by_size=True), "swamps the others"),
        ("topic_batch", lambda *a: topic_batch(*a, repeat=True), "its own negative"),
        ("topic_batch", lambda *a: topic_batch(*a, first=True), "not the first of a topic"),
        ("topic_batch", lambda *a: topic_batch(*a, mixed=True), "several topics"),
        ("topic_batch", lambda *a: topic_batch(*a, known=False), "one seed gave two answers"),
        ("topic_batch", lambda t, b, g: topic_batch(t, b, g)[:4], "or all if there are fewer"),
        ("previous_windows", lambda *a: previous_windows(*a, wrap=True), "still holds the last window"),
        ("previous_windows", lambda *a: previous_windows(*a, wrap=True, masked=False), "nothing stands before it"),
        ("previous_windows", lambda *a: previous_windows(*a, masked=False), "its mask has to be False"),
        ("previous_windows", lambda *a: previous_windows(*a, past=0, others=0), "shift by one window"),
        ("previous_windows", lambda *a: previous_windows(*a, others=0), "present window is in the memory"),
        ("previous_windows", lambda *a: previous_windows(*a, others=-1), "neighbour's next window"),
        ("previous_windows", lambda *a: previous_windows(*a, past=-1, others=-1), "a document sees the next window"),
        ("previous_windows", lambda *a: previous_windows(*a, shuffled=True), "do not shuffle it"),
        ("previous_windows", lambda *a: previous_windows(*a, step=1), "roll the other way"),
        ("previous_windows", lambda *a: previous_windows(*a, start=1), "own document is missing"),
        ("previous_windows", lambda *a: previous_windows(*a)[0], "should return a tuple"),
    ]


# Lab 11


def checkpoint_cost(costs, c, free=0, freed=True, ahead=True, whole=False):
    def best(costs, c):
        if len(costs) == 1:
            return 0
        if c == 1:
            return sum(ahead * sum(costs[:k]) for k in range(1, len(costs)))
        return min(
            ahead * sum(costs[:j]) + best(costs[j:], c - 1) + best(costs[:j], c if freed else c - 1)
            for j in range(1, len(costs))
        )

    return best(costs, c + free) + whole * sum(costs)


def backward_and_update(weights, uses, x, lr, eager=False, through_new=False, factor=1.0, copies=False):
    weights = [w.clone() for w in weights] if copies else weights
    xs = [x]
    for u in uses:
        xs.append(torch.tanh(xs[-1] @ weights[u]))
    up, waiting = factor * xs[-1], {}
    for i in reversed(range(len(uses))):
        u, inner = uses[i], up * (1 - xs[i + 1] ** 2)
        waiting[u] = waiting.get(u, 0) + xs[i].T @ inner
        old = weights[u].clone()
        if eager or u not in uses[:i]:
            weights[u] -= lr * waiting.pop(u)
        up = inner @ (weights[u] if through_new else old).T


class TestExercisesOfLab11(ExercisesCanFail):
    """The tests of every lesson, for this lab."""

    notebook = "labs/11_keep_recompute_swap_or_skip.ipynb"
    solutions = {"checkpoint_cost": checkpoint_cost, "backward_and_update": backward_and_update}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        ("checkpoint_cost", lambda *a: checkpoint_cost(*a, free=1), "one of the c"),
        ("checkpoint_cost", lambda *a: checkpoint_cost(*a, freed=False), "has been freed"),
        ("checkpoint_cost", lambda *a: checkpoint_cost(*a, ahead=False), "not counted"),
        ("checkpoint_cost", lambda *a: checkpoint_cost(*a, whole=True), "leave the last block out"),
        ("backward_and_update", lambda *a: backward_and_update(*a, copies=True), "nothing has changed"),
        ("backward_and_update", lambda w, u, x, lr: backward_and_update(w, u, x, -lr), "uphill"),
        ("backward_and_update", lambda w, u, x, lr: backward_and_update(w, u, x, 1), "learning rate is missing"),
        ("backward_and_update", lambda *a: backward_and_update(*a, factor=2.0), "without a factor 2"),
        ("backward_and_update", lambda w, u, x, lr: backward_and_update(w, u, x, 0.1), "another learning rate"),
        ("backward_and_update", lambda *a: backward_and_update(*a, through_new=True), "went through the new weight"),
        ("backward_and_update", lambda *a: backward_and_update(*a, eager=True), "wait until its last share"),
    ]


# Lab 5


def global_mean(losses, masks):
    return sum((loss * mask).sum() for loss, mask in zip(losses, masks)) / sum(mask.sum() for mask in masks)


def mean_of_rows(losses, masks):
    rows = [row[seen].mean() for loss, mask in zip(losses, masks) for row, seen in zip(loss, mask)]
    return sum(rows) / len(rows)


def pack_mask(documents, document=True, causal=True, alone=True, empty=False):
    length = documents.shape[1]
    order = torch.ones(length, length, dtype=torch.bool)
    mask = order.tril()[None].expand(len(documents), -1, -1) if causal else order[None]
    if document:
        mask = mask & (documents[:, :, None] == documents[:, None, :])
    if alone:
        mask = mask & (documents >= 0)[:, None, :]
    return mask if empty else mask | torch.eye(length, dtype=torch.bool)


class TestExercisesOfLab5(ExercisesCanFail):
    """The tests of every lesson, for this lab."""

    notebook = "labs/05_pack_long_and_short_together.ipynb"
    solutions = {"global_mean": global_mean, "pack_mask": pack_mask}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        (
            "global_mean",
            lambda x, m: sum(global_mean([a], [b]) for a, b in zip(x, m)) / len(x),
            "a mean of rank means",
        ),
        ("global_mean", mean_of_rows, "a mean of sequence means"),
        (
            "global_mean",
            lambda x, m: sum((a * b).sum() for a, b in zip(x, m)) / sum(a.numel() for a in x),
            "the padded length",
        ),
        ("global_mean", lambda x, m: global_mean(x, [torch.ones_like(b) for b in m]), "padding is in the sum"),
        ("global_mean", lambda x, m: sum((a * b).sum() for a, b in zip(x, m)), "it is a sum"),
        ("pack_mask", lambda d: pack_mask(d, document=False, alone=False), "only causal"),
        ("pack_mask", lambda d: pack_mask(d, causal=False), "own future"),
        ("pack_mask", lambda d: pack_mask(d, alone=False), "padding sees other padding"),
        ("pack_mask", lambda d: pack_mask(d, empty=True), "would be empty"),
        ("pack_mask", lambda d: pack_mask(d).transpose(1, 2), "are exchanged"),
        ("pack_mask", lambda d: pack_mask(d).long(), "should be boolean"),
    ]


# Lab 8


def repeat_errors(first, exponents, passes, tau, floor, base=0.5, late=0, mean=True, away=True):
    above, errors = first - floor * away, [first]
    for k in range(1, passes):
        decayed = sum(b * base ** ((k - late) / (tau * len(exponents))) for b in exponents)
        above *= ((k + 1) / k) ** (decayed / len(exponents) if mean else decayed)
        errors.append(above + floor * away)
    return errors


def loss_weights(sizes, drawn, wanted, normed=True):
    shares = [sizes ** (1 / temperature) for temperature in (drawn, wanted)]
    if normed:
        shares = [share / share.sum() for share in shares]
    return shares[1] / shares[0]


class TestExercisesOfLab8(ExercisesCanFail):
    """The tests of every lesson, for this lab."""

    notebook = "labs/08_filter_repeat_or_recycle_the_data.ipynb"
    solutions = {"repeat_errors": repeat_errors, "loss_weights": loss_weights}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        ("repeat_errors", lambda *a: repeat_errors(*a, away=False), "the floor shrinks too"),
        ("repeat_errors", lambda *a: repeat_errors(*a, base=2.0), "exponent grows"),
        (
            "repeat_errors",
            lambda first, b, passes, tau, floor: repeat_errors(first, b, passes, tau / len(b), floor),
            "worn out later",
        ),
        ("repeat_errors", lambda *a: repeat_errors(*a, late=1), "first repeat counts as fresh"),
        ("repeat_errors", lambda *a: repeat_errors(*a, mean=False), "exponents are added up"),
        ("loss_weights", lambda n, drawn, wanted: loss_weights(n, wanted, drawn), "turned round"),
        ("loss_weights", lambda n, drawn, wanted: loss_weights(n, 1 / drawn, 1 / wanted), "temperature divides"),
        ("loss_weights", lambda n, drawn, wanted: loss_weights(n, 1.0, wanted), "taken for natural"),
        ("loss_weights", lambda n, drawn, wanted: loss_weights(n, 1e12, wanted) / len(n), "wanted share itself"),
        ("loss_weights", lambda *a: loss_weights(*a, normed=False), "do not sum to 1"),
    ]
