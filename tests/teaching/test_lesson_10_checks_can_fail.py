"""Lesson 10: every check says all three of its lines, the library passes, and each typical mistake has its own hint.

Where the library has the function, it is the solution: the tile visits of `minilib.kernels.vocab_tiled`, the slope that
autograd finds in LOGO's own margin, the layout of `pack_answers`. A mistake is the same small function with one slip.
"""

import pytest
import torch
from support.lesson_exercises import ExercisesCanFail, line_of

from minilib import lse
from minilib.kernels import vocab_tiled as vocabulary
from minilib.longcontext import pack_answers
from minilib.losses.logps import mean_by_answer


def library_fold(hidden, weight, labels, chunk):
    sums, picked = vocabulary.log_sums(hidden, weight, labels, chunk)
    return picked - sums


def library_visit(hidden, weight, labels, rows):
    grad = torch.zeros_like(hidden)
    logps = vocabulary.sweep(hidden, weight, labels, torch.ones(len(hidden)).to(hidden), (grad, None), rows)
    return logps, grad


def library_weights(answer, num_rejected):
    """The gradient of the chosen means minus the mean of the rejected means: what the margin makes of every token."""
    logps = torch.zeros(len(answer), dtype=torch.float64, requires_grad=True)
    means = mean_by_answer(logps, answer, int(answer.max()) + 1).view(-1, 1 + num_rejected)
    return torch.autograd.grad((means[:, 0] - means[:, 1:].mean(1)).sum(), logps)[0]


def library_sweep(hidden, weight, labels, f, rows, entries):
    """`vocab_tiled.sweep` with tiles of one edge: the smaller of the two."""
    grads = torch.zeros_like(hidden), torch.zeros_like(weight)
    logps = torch.empty_like(f)
    for i in torch.arange(len(hidden)).split(rows):
        hidden_grad = torch.zeros_like(hidden[i])
        logps[i] = vocabulary.sweep(hidden[i], weight, labels[i], f[i], (hidden_grad, grads[1]), min(rows, entries))
        grads[0][i] = hidden_grad
    return logps, *grads


def library_layout(prompt_positions, lengths):
    pack = pack_answers(torch.ones(len(prompt_positions)).long(), [[1] * n for n in lengths], prompt_positions)
    return pack.position_ids, pack.attention_mask[0, 0]


SOLUTIONS = {
    "label_logp": library_fold,
    "logp_and_gradient": library_visit,
    "token_weights": library_weights,
    "sweep": library_sweep,
    "pack_layout": library_layout,
}


def fold(hidden, weight, labels, chunk, sum_of=lse.update, whole_chunks=False):
    """One chunk after the other; the defaults are right."""
    pair, picked = lse.empty((len(hidden),), dtype=hidden.dtype), torch.zeros(len(hidden), dtype=hidden.dtype)
    for start in range(0, len(weight), chunk):
        tile = hidden @ weight[start : start + chunk].T
        inside = (labels >= start) & (labels < start + tile.shape[1])
        picked[inside] = tile[inside, labels[inside] - start]
        if tile.shape[1] == chunk or not whole_chunks:
            pair = sum_of(pair, tile)
    return picked, lse.value(pair)


def plain_sum(pair, tile):
    return torch.zeros_like(pair[0]), pair[1] + tile.exp().sum(1)


def only_the_largest(pair, tile):
    return torch.maximum(pair[0], tile.amax(1)), torch.ones_like(pair[0])


def minus(pair):
    return pair[0] - pair[1]


def all_at_once(hidden, weight, labels, chunk):
    return torch.log_softmax(hidden @ weight.T, 1).gather(1, labels[:, None])[:, 0]


def visit(hidden, weight, labels, rows, gradient=lambda p, x, w, y: w[y] - p @ w):
    logps, grads = [], []
    for h, y in zip(hidden.split(rows), labels.split(rows)):
        x = h @ weight.T
        logps.append(torch.log_softmax(x, 1).gather(1, y[:, None])[:, 0])
        grads.append(gradient(torch.softmax(x, 1), x, weight, y))
    return torch.cat(logps), torch.cat(grads)


def again(hidden, weight, labels, rows):
    logps, _ = visit(hidden, weight, labels, rows)
    return logps, visit(hidden, weight, labels, rows)[1]


def whole(hidden, weight, labels, rows):
    return visit(hidden, weight, labels, len(hidden))


def slip(gradient):
    return lambda *a: visit(*a, gradient=gradient)


def weights(answer, num_rejected, lengths=lambda counts: counts, rejected=lambda m: -1 / m, first=False, chosen=1.0):
    place = answer if first else answer % (1 + num_rejected)
    counts = lengths(torch.bincount(answer).double())
    return torch.where(place == 0, chosen, rejected(num_rejected)) / counts[answer]


def pooled(answer, num_rejected):
    found, example, place = weights(answer, num_rejected), answer // (1 + num_rejected), answer % (1 + num_rejected)
    for e in example.unique():
        rows = (example == e) & (place > 0)
        found[rows] = -1 / rows.sum().double()
    return found


def swept(
    hidden, weight, labels, f, rows, entries, part=lambda p, hit, f: f * (hit - p), own_sum=False, add_tiles=True,
    add_rows=True, plain=False, again=False,
):  # fmt: skip
    """Two loops over the tiles of some rows; the defaults are right."""
    logps, hidden_grad, weight_grad = [], torch.zeros_like(hidden), torch.zeros_like(weight)
    for i in torch.arange(len(hidden)).split(rows):
        tiles = [hidden[i] @ w.T for w in weight.split(entries)]
        state = lse.empty((len(i),), dtype=hidden.dtype)
        for x in tiles:
            state = plain_sum(state, x) if plain else lse.update(state, x)
        total, picked = lse.value(state) if not plain else state[1].log(), torch.zeros_like(f[i])
        for number, w in enumerate(weight.split(entries)):
            x, start = hidden[i] @ w.T if again else tiles[number], number * entries
            inside = (labels[i] >= start) & (labels[i] < start + len(w))
            hit = torch.zeros_like(x)
            hit[inside, labels[i][inside] - start] = 1
            picked += (x * hit).sum(1)
            p = torch.softmax(x, 1) if own_sum else (x - total[:, None]).exp()
            G = part(p, hit, f[i, None])
            hidden_grad[i] = G @ w + (hidden_grad[i] if add_tiles else 0)
            rest = weight_grad[start : start + len(w)] if add_rows else 0
            weight_grad[start : start + len(w)] = G.T @ hidden[i] + rest
        logps.append(picked - total)
    return torch.cat(logps), hidden_grad, weight_grad


def layout(prompt, lengths, start=None, within=None, mask=lambda past, own, prompts: past & (own | prompts)):
    start = prompt[-1] + 1 if start is None else start(prompt)
    counts = [torch.arange(n) for n in lengths] if within is None else within(lengths)
    segment = torch.arange(1 + len(lengths)).repeat_interleave(torch.tensor([len(prompt), *lengths]))
    past = torch.ones(len(segment), len(segment)).tril().bool()
    own, prompts = segment[:, None] == segment, (segment == 0).expand(len(segment), -1)
    return torch.cat([prompt, *(start + count for count in counts)]), mask(past, own, prompts)


MISTAKES = [
    ("label_logp", lambda *a: fold(*a)[1], "that is the log-sum-exp"),
    ("label_logp", lambda *a: fold(*a)[0], "that is the label's logit"),
    ("label_logp", lambda *a: -minus(fold(*a)), "that is the loss"),
    ("label_logp", lambda *a: minus(fold(*a)).exp(), "that is the probability"),
    ("label_logp", lambda *a: minus(fold(*a, whole_chunks=True)), "narrower chunk is missing"),
    ("label_logp", lambda *a: minus(fold(*a, sum_of=lambda _, t: lse.of_block(t))), "last chunk only"),
    ("label_logp", lambda *a: minus(fold(*a, sum_of=only_the_largest)), "largest logit stands"),
    ("label_logp", lambda *a: minus(fold(*a, sum_of=plain_sum)), "not finite"),
    ("label_logp", all_at_once, "as large as all logits"),
    ("logp_and_gradient", slip(lambda p, x, w, y: p @ w - w[y]), "sign is turned round"),
    ("logp_and_gradient", slip(lambda p, x, w, y: -p @ w), "label's row of the weight is missing"),
    ("logp_and_gradient", slip(lambda p, x, w, y: w[y]), "label's row alone"),
    ("logp_and_gradient", slip(lambda p, x, w, y: w[y] + p @ w), "is added"),
    ("logp_and_gradient", slip(lambda p, x, w, y: w[y] - x.exp() @ w), "not divided by their sum"),
    ("logp_and_gradient", lambda h, *a: (visit(h, *a)[0], visit(h, *a)[1] / len(h)), "divided by the number of tokens"),
    ("logp_and_gradient", lambda *a: (-visit(*a)[0], visit(*a)[1]), "that is the loss"),
    ("logp_and_gradient", again, "two are enough"),
    ("logp_and_gradient", whole, "as large as all logits"),
    ("logp_and_gradient", lambda *a: visit(*a)[0], "a tuple of 2"),
    ("token_weights", lambda a, m: weights(a, m).abs(), "push up"),
    ("token_weights", lambda a, m: -weights(a, m), "signs are turned round"),
    ("token_weights", lambda a, m: weights(a, m, rejected=lambda m: -1.0), "M is missing"),
    ("token_weights", lambda a, m: weights(a, m, lengths=torch.ones_like), "lengths are missing"),
    ("token_weights", lambda a, m: weights(a, m, lengths=lambda c: c.max().expand(len(c))), "the longest"),
    ("token_weights", lambda a, m: weights(a, m, lengths=lambda c: c.sum().expand(len(c))), "number of all tokens"),
    ("token_weights", pooled, "thrown together"),
    ("token_weights", lambda a, m: weights(a, m, first=True), "only answer 0 is chosen"),
    ("sweep", lambda *a: (-swept(*a)[0], *swept(*a)[1:]), "those are losses"),
    ("sweep", lambda *a: swept(*a, part=lambda p, hit, f: -f * (hit - p)), "hidden, the gradients' sign is turned"),
    ("sweep", lambda *a: swept(*a, part=lambda p, hit, f: hit - p), "hidden, f is missing"),
    ("sweep", lambda *a: swept(*a, part=lambda p, hit, f: -f * p), "the label's part is missing"),
    ("sweep", lambda *a: swept(*a, part=lambda p, hit, f: hit - f * p), "lacks its factor"),
    ("sweep", lambda *a: swept(*a, own_sum=True), "divided by its own sum"),
    ("sweep", lambda *a: (*swept(*a)[:2], swept(*a, part=lambda p, hit, f: hit - p)[2]), "weight, f is missing"),
    ("sweep", lambda *a: swept(*a, add_tiles=False), "the last tile only"),
    ("sweep", lambda *a: swept(*a, add_rows=False), "the last rows only"),
    ("sweep", lambda *a: swept(*a, plain=True), "not finite"),
    ("sweep", lambda *a: swept(*a, again=True), "three are enough"),
    ("sweep", lambda *a: swept(*a[:4], len(a[0]), len(a[1])), "as large as all logits"),
    ("sweep", lambda *a: swept(*a)[:2], "a tuple of 3"),
    ("pack_layout", lambda p, n: layout(p, n, within=lambda n: [torch.arange(sum(n))]), "counted on"),
    ("pack_layout", lambda p, n: layout(p, n, start=lambda p: 0), "start at 0"),
    ("pack_layout", lambda p, n: layout(p, n, start=lambda p: p[-1]), "prompt's last position"),
    ("pack_layout", lambda p, n: layout(p, n, start=len), "positions jump"),
    ("pack_layout", lambda p, n: layout(p, n, mask=lambda past, own, prompts: past), "sees the answers before it"),
    ("pack_layout", lambda p, n: layout(p, n, mask=lambda past, own, prompts: past & own), "do not see the prompt"),
    ("pack_layout", lambda p, n: layout(p, n, mask=lambda past, own, prompts: own | prompts), "own future"),
    ("pack_layout", lambda p, n: (layout(p, n)[0], layout(p, n)[1].tril(-1)), "does not see itself"),
    ("pack_layout", lambda p, n: (layout(p, n)[0], ~layout(p, n)[1]), "turned over"),
    ("pack_layout", lambda p, n: (layout(p, n)[0], layout(p, n)[1].T), "rows and columns"),
    ("pack_layout", lambda p, n: (layout(p, n)[0][len(p) :], layout(p, n)[1]), "the shape is (4,)"),
]


class TestExercises(ExercisesCanFail):
    """The tests of every lesson, for this one."""

    notebook = "10_score_a_long_answer.ipynb"
    solutions = SOLUTIONS
    mistakes = MISTAKES
    names = {"lse": lse}  # noqa: RUF012


@pytest.mark.parametrize(
    ("name", "right"),
    [("label_logp", lambda *a: minus(fold(*a))), ("logp_and_gradient", visit), ("token_weights", weights),
     ("sweep", swept), ("pack_layout", layout)],
)  # fmt: skip
def test_what_the_mistakes_are_made_from_is_right(capsys, name, right):
    assert line_of(capsys, name, right).startswith("Passed: ")
