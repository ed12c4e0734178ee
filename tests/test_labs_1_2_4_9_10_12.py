"""Labs 1, 2, 4, 9, 10, 12, 13, 14: what they cover, their checks under mutation, their exercises on seeded mistakes.

The mistakes of an exercise are the solution with one slip in it; each gets a hint of its own. Also the coverage: all
32 entries of the page Neighbours, 24 systems added to them and 20 paragraphs, spread over fourteen labs.
"""

import pytest
import torch
from support.labs import LABS, PLAN, LabsKeepTheirPromises, facts, failing_check, path_of, read, run
from support.lesson_exercises import ExercisesCanFail

from minilib.teaching.partial_attention import attend, merge
from minilib.teaching.rotary import rotate, speeds


class TestLabs(LabsKeepTheirPromises):
    """The tests of every lab, for these."""

    labs = (1, 2, 4, 9, 10, 12, 13, 14)


def test_the_plan_covers_every_entry_and_every_system_once():
    entries = [entry for lab in PLAN.values() for entry in lab.entries]
    assert set(entries) == set(range(1, 33))
    assert all(entries.count(entry) == 1 for entry in range(1, 32))
    assert len({name for lab in PLAN.values() for name in lab.added}) == 24
    assert len({name for lab in PLAN.values() for name in lab.paragraphs}) == 20
    assert sum(len(lab.of_32) for lab in PLAN.values()) == 9


def test_all_twelve_labs_are_there():
    missing = [number for number in PLAN if not path_of(number)]
    if missing:
        pytest.skip(f"labs {', '.join(map(str, missing))} are not written")
    assert sorted(path.name[:2] for path in LABS.glob("*.ipynb")) == [f"{number:02d}" for number in PLAN]
    assert sum(len(facts(read(number))["mutations"]) for number in PLAN) >= 36


def test_a_failing_cell_is_named_by_its_check():
    cell = "def check_sum():\n    assert sum([1, 1]) == {}\ncheck_sum()"
    assert run(["x = 1", cell.format(2)]) is None
    number, error = run(["x = 1", cell.format(3), "never = 1"])
    assert (number, failing_check(error)) == (1, "check_sum")
    assert failing_check(run(["assert False"])[1]).startswith("AssertionError")
    assert failing_check(run([cell.format("gone")])[1]).startswith("NameError")


# Lab 1


def naive_merge(a, b, weight=None, lse=None):
    """The merge without care for -inf, or with one of its pieces exchanged."""
    gap = b[1] - a[1]
    weight = torch.sigmoid(gap)[:, None] if weight is None else weight
    return a[0] - weight * (a[0] - b[0]), torch.logaddexp(a[1], b[1]) if lse is None else lse(a[1], gap)


def bring_home(contribution, ranks, steps=0, keep=1.0):
    held = [0.0] * ranks
    for step in range(ranks):
        held = [keep * held[r] + contribution(r, (r - step) % ranks) for r in range(ranks)]
        if step < ranks + steps:
            held = held[-1:] + held[:-1]
    return held


class TestExercisesOfLab1(ExercisesCanFail):
    """The merge of two parts, and the way home of a gradient."""

    notebook = "labs/01_pass_attention_around_a_ring.ipynb"
    solutions = {"merge_parts": merge, "bring_home": bring_home}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        ("merge_parts", lambda a, b: naive_merge(a, b, lse=lambda m, gap: m + (1 + gap.exp()).log()), "overflows"),
        ("merge_parts", lambda a, b: naive_merge(a, b, weight=0.5), "averaged with equal weights"),
        ("merge_parts", naive_merge, "which part saw no key"),
        (
            "merge_parts",
            lambda a, b: (a[0].copy_(merge(a, b)[0]), merge(a, b)[1]),
            "changed a tensor that it was given",
        ),
        ("bring_home", lambda c, n: bring_home(c, n, steps=-1), "one ring step from home"),
        ("bring_home", lambda c, n: bring_home(c, n, keep=0.0), "the last contribution only"),
        ("bring_home", lambda c, n: [sum(c(r, k) for k in range(n)) for r in range(n)], "belongs to the owner"),
    ]


# Lab 2


def far_branch(q, k, v, window, n_global, nearest=None, at=None):
    i, theta = torch.arange(len(q)), speeds(q.shape[1])
    far = (i[:, None] - i >= (window if nearest is None else nearest)) & (i < n_global)
    return attend(rotate(q, window if at is None else at(i), theta), k if at is None else rotate(k, i, theta), v, far)


def counted_twice(q, k, v, window, n_global):
    i, theta = torch.arange(len(q)), speeds(q.shape[1])
    back = (i[:, None] - i).clamp(max=window)
    scores = (
        torch.stack([(rotate(row.expand_as(k), b, theta) * k).sum(1) for row, b in zip(q, back)]) / q.shape[1] ** 0.5
    )
    scores = scores.masked_fill(~((i[:, None] >= i) & (i < n_global)), -torch.inf)
    return torch.softmax(scores, 1) @ v, torch.logsumexp(scores, 1)


def without_identity(q, k, v, window, n_global):
    o, lse = far_branch(q, k, v, window, n_global)
    return torch.where(lse[:, None].isneginf(), torch.nan, o), lse


def choose_queries(scores, count, sign=1, mean=1):
    return (sign * (torch.logsumexp(scores, 1) - mean * scores.mean(1))).topk(count).indices


class TestExercisesOfLab2(ExercisesCanFail):
    """A far branch, and the queries worth a full row."""

    notebook = "labs/02_score_fewer_pairs.ipynb"
    solutions = {"far_branch": far_branch, "choose_queries": choose_queries}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        ("far_branch", lambda q, k, v, w, n: far_branch(q, k, v, w, n, at=lambda i: i), "true distance"),
        ("far_branch", counted_twice, "counted twice while it is still near"),
        ("far_branch", lambda q, k, v, w, n: far_branch(q, k, v, w, n, nearest=0), "leave out those less than window"),
        ("far_branch", without_identity, "without far keys has output 0"),
        ("choose_queries", lambda x, n: choose_queries(x, n, mean=0), "a constant must not change its rank"),
        ("choose_queries", lambda x, n: choose_queries(x, n, sign=-1), "the flattest rows"),
        ("choose_queries", lambda x, n: (x.amax(1) - x.mean(1)).topk(n).indices, "which is the sampled measure"),
    ]


# Lab 4


def stretched_scores(q, k, theta, window, target, at_q=None, at_k=None):
    positions = torch.arange(len(q)) * window / target
    at_q, at_k = (positions if at is None else at for at in (at_q, at_k))
    return rotate(q, at_q, theta) @ rotate(k, at_k, theta).T


def larger_base(q, k, theta, window, target):
    slower = theta * (target / window) ** (-2 * torch.arange(len(theta)) / q.shape[1])
    return stretched_scores(q, k, slower, 1, 1)


def answer_moves(before, after, answer, size=torch.abs, token=lambda x: x, logps=lambda x: x.log_softmax(-1)):
    moved = [logps(x).gather(-1, answer[..., None])[..., 0] for x in (before, after)]
    return size(token(moved[0] - moved[1]).sum(1)).mean()


class TestExercisesOfLab4(ExercisesCanFail):
    """Squeezed positions, and how far an answer moves."""

    notebook = "labs/04_find_where_length_breaks_a_model.ipynb"
    solutions = {"stretched_scores": stretched_scores, "answer_moves": answer_moves}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        ("stretched_scores", lambda q, k, t, w, n: stretched_scores(q, k, t, n, w), "the positions grow"),
        ("stretched_scores", larger_base, "the base is scaled"),
        (
            "stretched_scores",
            lambda q, k, t, w, n: stretched_scores(q, k, t, w, n, at_k=torch.arange(len(k))),
            "the keys are forgotten",
        ),
        (
            "stretched_scores",
            lambda q, k, t, w, n: stretched_scores(q, k, t, w, len(q)),
            "whatever the text",
        ),
        ("answer_moves", lambda b, a, y: answer_moves(b, a, y, logps=lambda x: x), "not log-probabilities"),
        ("answer_moves", lambda b, a, y: answer_moves(b, a, y, size=lambda x: x), "up and down cancel"),
        ("answer_moves", lambda b, a, y: answer_moves(b, a, y, token=torch.abs), "single tokens are added"),
    ]


# Lab 10


def fit_rotation(X, Y):
    U, _, Vt = torch.linalg.svd(X.T @ Y)
    return U @ Vt


def thin(features, strength, first=lambda x: x.mean(0)):
    return strength * first(features).square().sum()


class TestExercisesOfLab10(ExercisesCanFail):
    """The rotation between two spaces, and the penalty that thins features."""

    notebook = "labs/10_index_with_words_bits_and_angles.ipynb"
    solutions = {"fit_rotation": fit_rotation, "thin": thin}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        ("fit_rotation", lambda X, Y: torch.linalg.lstsq(X, Y).solution, "least squares"),
        ("fit_rotation", lambda X, Y: fit_rotation(Y, X), "W transposed"),
        ("thin", lambda a, strength: strength * a.square().mean(0).sum(), "mean of the squares"),
        ("thin", lambda a, strength: thin(a, strength, lambda x: x.sum(0)), "the items are summed"),
    ]


# Lab 9


def layer_steps(weights, updates, lr, ratio=None):
    moved = []
    for w, u in zip(weights, updates):
        both = w.ndim > 0 and w.norm() > 0 and u.norm() > 0
        own = w.norm() / u.norm() if both else 1.0
        moved.append(w - lr * (own if ratio is None else ratio(w, u)) * u)
    return moved


def whole_model(weights, updates, lr):
    norms = [torch.stack([x.norm() for x in side]).norm() for side in (weights, updates)]
    return layer_steps(weights, updates, lr, lambda w, u: norms[0] / norms[1])


def zero_frozen(weights, updates, lr):
    return layer_steps(weights, updates, lr, lambda w, u: w.norm() / u.norm() if w.ndim else 1.0)


def still_update(weights, updates, lr):
    return layer_steps(weights, updates, lr, lambda w, u: w.norm() / u.norm() if w.ndim and w.norm() > 0 else 1.0)


def scale_included(weights, updates, lr):
    return layer_steps(weights, updates, lr, lambda w, u: w.norm() / u.norm() if w.norm() > 0 else 1.0)


class TestExercisesOfLab9(ExercisesCanFail):
    """A step per layer, and an average that arrives late."""

    notebook = "labs/09_take_fewer_bigger_later_steps.ipynb"
    solutions = {  # noqa: RUF012
        "layer_steps": layer_steps,
        "apply_late": lambda local, sent, average: average + local - sent,
    }
    mistakes = [  # noqa: RUF012
        ("layer_steps", whole_model, "one ratio for the whole model"),
        ("layer_steps", zero_frozen, "never moves"),
        ("layer_steps", scale_included, "logit scale is normalised"),
        ("layer_steps", still_update, "where the norm of the update is 0"),
        ("layer_steps", lambda w, u, lr: [x.copy_(y) for x, y in zip(w, layer_steps(w, u, lr))], "changed a tensor"),
        ("apply_late", lambda local, sent, average: average, "are overwritten"),
        ("apply_late", lambda local, sent, average: local + average, "added whole"),
        ("apply_late", lambda local, sent, average: local.add_(average - sent), "changed a tensor"),
    ]


# Labs 12 and 13


def rotated_product(X, W, signs, rounded):
    H = signs / signs.shape[0] ** 0.5
    return rounded(X @ H) @ rounded(W @ H).T


def one_factor(X, W, signs, rounded):
    return rounded(X @ signs / signs.shape[0] ** 0.5) @ rounded(W).T


def rounded_first(X, W, signs, rounded):
    return (rounded(X) @ signs) @ (rounded(W) @ signs).T / signs.shape[0]


def drop_and_grow(active, change, grad, momentum, count, places=None):
    keep = (change.abs() if places is None else places).topk(len(active) - count).indices.sort().values
    grown = grad.abs().index_fill(0, active, -1.0).topk(count).indices
    fresh = torch.zeros(count, dtype=momentum.dtype)
    return torch.cat([active[keep], grown]), torch.cat([momentum[keep], fresh])


def past_is_kept(active, change, grad, momentum, count):
    new, past = drop_and_grow(active, change, grad, momentum, count)
    dropped = [m for i, m in zip(active.tolist(), momentum) if i not in new.tolist()]
    return new, torch.cat([past[:-count], torch.stack(dropped)])


class TestExercisesOfLab12(ExercisesCanFail):
    """An outlier that is rotated away."""

    notebook = "labs/12_spend_fewer_than_sixteen_bytes.ipynb"
    solutions = {"rotated_product": rotated_product}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        ("rotated_product", one_factor, "only X is rotated"),
        ("rotated_product", rounded_first, "rounded before the rotation"),
        ("rotated_product", lambda X, W, S, r: rotated_product(X, W, S * S.shape[0] ** 0.5, r), "1 / sqrt(n)"),
    ]


class TestExercisesOfLab13(ExercisesCanFail):
    """Indices that are dropped and grown."""

    notebook = "labs/13_choose_which_weights_move.ipynb"
    solutions = {"drop_and_grow": drop_and_grow}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        ("drop_and_grow", past_is_kept, "keeps the momentum of the dropped one"),
        ("drop_and_grow", lambda a, c, g, m, n: drop_and_grow(a, c, g, m, n, -c.abs()), "changed most are dropped"),
        ("drop_and_grow", lambda a, c, g, m, n: drop_and_grow(a, c, g, m, n, c), "sign of the change"),
    ]


# Lab 14


def score_route(text, route, wrong=0, of_written=False, stop=True, tags=True, both=True):
    _, opened, rest = text.partition("<route>")
    if not opened and both:
        return 0, 0, 0
    rest = rest if opened else text
    body, closed, _ = rest.partition("</route>")
    if tags and not closed:
        return 0, 0, 0
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    same = [a == b for a, b in zip(lines, route)]
    right = sum(same) if not stop or all(same) else same.index(False) + wrong
    return 1, int(lines == route), right / len(lines if of_written else route)


class TestExercisesOfLab14(ExercisesCanFail):
    """A route, scored line by line."""

    notebook = "labs/14_let_the_output_grow.ipynb"
    solutions = {"score_route": score_route}  # noqa: RUF012
    mistakes = [  # noqa: RUF012
        ("score_route", lambda text, route: score_route(text, route, wrong=1), "the first wrong line is counted"),
        ("score_route", lambda text, route: score_route(text, route, stop=False), "after the first error"),
        ("score_route", lambda text, route: score_route(text, route, of_written=True), "those of the reference"),
        ("score_route", lambda text, route: score_route(text, route, tags=False), "as not extracted"),
        ("score_route", lambda text, route: score_route(text, route, both=False), "without an opening tag"),
        (
            "score_route",
            lambda text, route: (*(x := score_route(text, route))[:2], x[2] * len(route) / 20),
            "divide by the number of lines of this route",
        ),
    ]
