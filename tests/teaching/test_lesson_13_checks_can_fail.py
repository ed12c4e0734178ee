"""Lesson 13: every check says all three of its lines, the library passes, and each typical mistake has its own hint.

The library takes models, batches and folders where the exercises take what is inside of them. So the solutions are the
folded ones' small relatives, and each of them is shown to give what the library gives: `delta_norm` on a model with
adapters, the metrics of an objective on a packed batch, `last_checkpoint` on folders. A mistake is the same small
function with one slip in it.
"""

import json
import math
import re

import pytest
import torch
from support.lesson_exercises import ExercisesCanFail
from support.tiny_llama import VOCABULARY, tiny_llama
from torch.nn.functional import softplus

from minilib.longcontext import pack_answers, stack_packed
from minilib.longcontext.scoring import sequence_logps
from minilib.losses.preference import logo_loss, simpo_loss
from minilib.teaching.checks.lesson13 import MOVES
from minilib.trainers.lora import delta_norm, lora_config
from minilib.trainers.objectives import make_objective
from minilib.trainers.trainer_utils import last_checkpoint


def norm(adapters, power=2, root=math.sqrt, gram=lambda a, b: ((b.T @ b) * (a @ a.T)).sum()):
    return root(sum(scale**power * gram(a, b).item() for a, b, scale in adapters))


def formed(a, b):
    return (b @ a).square().sum()


def matrix_product(a, b):
    return ((b.T @ b) @ (a @ a.T)).sum().clamp(min=0)


def metrics(chosen, rejected, beta, gamma, less=0.0, won=None):
    margins = chosen[:, None] - rejected
    won = (margins.sign() + 1).mean() / 2 if won is None else won(margins, gamma / beta)
    return beta * margins.mean().item() - less * gamma, won.item()


def against(pick):
    def learner(chosen, rejected, beta, gamma):
        return beta * (chosen - pick(rejected)).mean().item(), metrics(chosen, rejected, beta, gamma)[1]

    return learner


def moved(chosen, rejected, gain=lambda c, r: c[-1] - r[-1] > c[0] - r[0], fell=None, rose=None):
    if not gain(chosen, rejected):
        return "no gain"
    if chosen[-1] < chosen[0] if fell is None else fell(chosen):
        return "chosen fell"
    if rejected[-1] > rejected[0] if rose is None else rose(rejected):
        return "both rose"
    return "parted"


def whole(folder, key=int, torn=(OSError, ValueError), same=True, back=True):
    steps = [path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")]
    for step in sorted(steps, key=key, reverse=True):
        try:
            state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
        except torn:
            if back:
                continue
            return None
        if not same or state["global_step"] == int(step):
            return int(step)
    return None


def newest(folder):
    return max((int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*")), default=None)


def in_library(folder):
    found = last_checkpoint(folder)
    return None if found is None else int(re.search(r"\d+$", found)[0])


def loop(score, optimizer, draw, steps, loss=logo_loss, zero=True, step_first=False, item=True, batch=lambda t: t):
    losses = []
    for step in range(steps):
        means = score(draw(batch(step)))
        found = loss(means[:, 0], means[:, 1:], beta=10.0, gamma=3.0, sft_weight=0.1)
        if zero:
            optimizer.zero_grad()
        if step_first:
            optimizer.step()
        found.backward()
        if not step_first:
            optimizer.step()
        losses.append(found.item() if item else found)
    return losses


def looped(**changed):
    return lambda *given: loop(*given, **changed)


def logo(chosen, rejected, beta, gamma, sft_weight):
    return (softplus(gamma - beta * (chosen - rejected.mean(1))) - sft_weight * chosen).mean()


def with_loss(**settings):
    return looped(loss=lambda c, r, **given: logo(c, r, **given | settings))


SOLUTIONS = {
    "logo_loop": loop,
    "adapter_norm": norm,
    "pair_metrics": metrics,
    "who_moved": moved,
    "last_whole": in_library,
}

MISTAKES = [
    ("logo_loop", looped(zero=False), "gradients of earlier steps are added"),
    ("logo_loop", looped(batch=lambda t: 0), "ask once in each step, for its own number"),
    (
        "logo_loop",
        lambda score, o, draw, n: loop(score, o, lambda t: (draw(t), draw(0))[1], n),
        "asked for the steps [0, 0]",
    ),
    ("logo_loop", lambda score, o, draw, n: [0.0] * n, "draw was asked for the steps []"),
    ("logo_loop", looped(item=False), "no list of plain numbers"),
    ("logo_loop", lambda *given: loop(*given)[1:], "0 losses came back of 1 steps"),
    ("logo_loop", looped(step_first=True), "the weights have not moved"),
    ("logo_loop", looped(loss=simpo_loss), "every rejected answer has a sigmoid of its own"),
    ("logo_loop", with_loss(gamma=-3.0), "gamma has the other sign"),
    ("logo_loop", with_loss(sft_weight=0.0), "the SFT term is missing"),
    ("logo_loop", with_loss(sft_weight=-0.1), "the SFT term has the other sign"),
    ("logo_loop", with_loss(beta=1.0), "beta is missing"),
    ("logo_loop", looped(loss=lambda c, r, **s: logo_loss(c, r.sum(1), **s)), "the rejected answers are summed"),
    ("logo_loop", looped(loss=lambda c, r, **s: logo_loss(r.mean(1), c, **s)), "chosen and rejected are exchanged"),
    ("adapter_norm", lambda x: norm(x, root=lambda s: s), "take its root"),
    ("adapter_norm", lambda x: sum(norm([each]) for each in x), "add their squares and take one root"),
    ("adapter_norm", lambda x: norm(x, power=0), "the scale is missing"),
    ("adapter_norm", lambda x: norm(x, power=1), "the scale is not squared"),
    ("adapter_norm", lambda x: norm(x, gram=lambda a, b: a.square().sum() * b.square().sum()), "only a bound"),
    ("adapter_norm", lambda x: norm(x, gram=matrix_product), "multiply entry by entry"),
    ("adapter_norm", lambda x: norm(x, gram=formed), "a tensor of 2,000,000 numbers was made"),
    ("adapter_norm", lambda x: norm(x) / len(x), "the mean over the adapters"),
    ("pair_metrics", lambda c, r, b, g: metrics(c, r, b, g, less=1.0), "gamma is taken off the margin: it is"),
    (
        "pair_metrics",
        lambda c, r, b, g: metrics(c, r, b, g, less=1.0, won=lambda m, t: (m > t).double().mean()),
        "gamma is taken off the margin, and accuracy counts",
    ),
    (
        "pair_metrics",
        lambda c, r, b, g: metrics(c, r, b, g, won=lambda m, t: (m > t).double().mean()),
        "wins as soon as it is likelier",
    ),
    ("pair_metrics", lambda c, r, b, g: (metrics(c, r, 1.0, g)[0], metrics(c, r, b, g)[1]), "beta is missing"),
    ("pair_metrics", against(lambda r: r.sum(1)), "rejected answers are summed"),
    ("pair_metrics", against(lambda r: r[:, 0]), "against the first rejected answer"),
    ("pair_metrics", against(lambda r: r.amax(1)), "against the likeliest rejected answer"),
    (
        "pair_metrics",
        lambda c, r, b, g: metrics(c, r, b, g, won=lambda m, t: (m.mean(1) > 0).double().mean()),
        "count every answer by itself",
    ),
    (
        "pair_metrics",
        lambda c, r, b, g: metrics(c, r, b, g, won=lambda m, t: (m >= 0).double().mean()),
        "accuracy counts ties as won",
    ),
    (
        "pair_metrics",
        lambda c, r, b, g: metrics(c, r, b, g, won=lambda m, t: (m > 0).double().mean()),
        "accuracy counts ties as lost",
    ),
    ("pair_metrics", lambda c, r, b, g: metrics(c, r, b, g, won=lambda m, t: (m > 0).sum()), "accuracy is a count"),
    ("pair_metrics", lambda c, r, b, g: metrics(c, r, b, g)[0], "should return a tuple of 2"),
    ("who_moved", lambda c, r: moved(c, r, gain=lambda c, r: True), "closes, the answer is 'chosen fell'"),
    ("who_moved", lambda c, r: moved(c, r, gain=lambda c, r: c[-1] > r[-1]), "closes, the answer is 'chosen fell' and"),
    ("who_moved", lambda c, r: moved(c, r, gain=lambda c, r: c[-1] > c[0]), "alike, the answer is 'both rose' and"),
    ("who_moved", lambda c, r: moved(c, r, fell=lambda c: False), "falls, less than the other, the answer is 'parted'"),
    ("who_moved", lambda c, r: moved(c, r, rose=lambda r: False), "rises, less than the other, the answer is 'parted'"),
    ("who_moved", lambda c, r: moved(c, r, fell=lambda c: max(c[1:]) < c[0]), "fell at the end only"),
    ("who_moved", lambda c, r: moved(c, r, fell=lambda c: min(c) < c[0]), "for a dip in the middle"),
    ("who_moved", lambda c, r: moved(c, r, rose=lambda r: max(r) > r[0]), "peaks in the middle"),
    ("who_moved", lambda c, r: moved(c, r).title(), "that is none of 'no gain', 'chosen fell'"),
    ("last_whole", newest, "without trainer_state.json was not written to its end"),
    ("last_whole", lambda folder: whole(folder, key=str), "as text 9 is above 10"),
    ("last_whole", lambda folder: whole(folder, same=False), "its state is that of another step"),
    ("last_whole", lambda folder: whole(folder, torn=OSError), "the function raised JSONDecodeError"),
    ("last_whole", lambda folder: whole(folder, back=False), "go on to the checkpoint before"),
    ("last_whole", lambda folder: str(whole(folder)), "return the step as a whole number"),
]


class TestExercises(ExercisesCanFail):
    """The tests of every lesson, for this one."""

    notebook = "13_train_logo_end_to_end.ipynb"
    solutions = SOLUTIONS
    mistakes = MISTAKES
    names = {"json": json}  # noqa: RUF012
    one_hint = frozenset({"who_moved"})  # whose hints are the case and the two names


def test_the_norm_of_the_exercise_is_the_one_that_the_trainer_logs():
    from peft import get_peft_model

    model = get_peft_model(tiny_llama(torch.float32), lora_config(rank=4, alpha=8))
    adapters = []
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            torch.nn.init.normal_(layer.lora_B["default"].weight)
            a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
            adapters.append((a.double(), b.double(), layer.scaling["default"]))
    assert len(adapters) == 8
    assert delta_norm(model) == pytest.approx(norm(adapters), rel=1e-5)


def test_the_metrics_of_the_exercise_are_those_that_the_trainer_logs():
    model, generator = tiny_llama(), torch.Generator().manual_seed(0)

    def text(length):
        return torch.randint(VOCABULARY, (length,), generator=generator)

    batch = stack_packed([pack_answers(text(9), [text(n) for n in (3, 2, 4)]) for _ in range(5)])
    means = sequence_logps(model, batch).detach()  # (5, 3)
    _, logged = make_objective("logo", beta=7.0, gamma=2.0)(model, batch)
    margin, accuracy = metrics(means[:, 0], means[:, 1:], 7.0, 2.0)
    assert logged["rewards/margins"].item() == pytest.approx(margin)
    assert logged["rewards/accuracies"].item() == pytest.approx(accuracy)
    assert 0 < accuracy < 1


def test_every_move_has_its_name():
    ends = {(3.0, -1.0): "parted", (3.0, 1.0): "both rose", (-1.0, -3.0): "chosen fell", (-1.0, 1.0): "no gain"}
    assert {moved([0.0, c], [0.0, r]) for c, r in ends} == set(MOVES)
    assert [moved([0.0, c], [0.0, r]) for c, r in ends] == list(ends.values())
