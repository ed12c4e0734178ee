"""Lesson 07: every check says all three of its lines, the library passes, and each typical mistake has its own hint.

`cached_backward` of the trainers solves the gradient cache; a mistake is a small function with one slip in it.
"""

import math
from collections import Counter

import torch
from support.lesson_exercises import ExercisesCanFail

from minilib.trainers.grad_cache import cached_backward


def cached(encoder, inputs, loss_fn, micro):
    cached_backward([encoder], inputs.split(micro), loss_fn)


def small_losses(encoder, inputs, loss_fn, micro):
    for piece in inputs.split(micro):
        loss_fn(encoder(piece)).backward()


def whole_batch(encoder, inputs, loss_fn, micro):
    loss_fn(encoder(inputs)).backward()


def cached_with_other_masks(encoder, inputs, loss_fn, micro):
    with torch.no_grad():
        features = torch.cat([encoder(piece) for piece in inputs.split(micro)]).requires_grad_()
    with torch.enable_grad():
        loss_fn(features).backward()
    for piece, gradient in zip(inputs.split(micro), features.grad.split(micro), strict=True):
        encoder(piece).backward(gradient)


def cached_with_zeroed_gradients(encoder, inputs, loss_fn, micro):
    cached(encoder, inputs, loss_fn, micro)
    before = encoder.weight.grad.clone()
    encoder.weight.grad = None
    cached(encoder, inputs, loss_fn, micro)
    encoder.weight.grad = before / len(inputs.split(micro))


def step_bytes(batch, micro, per_pair, dim, pieces=1, sides=2, size=4):
    return per_pair * micro * pieces + sides * size * batch * dim


def repeat_share(captions):
    counts = Counter(captions)
    return sum(counts[caption] > 1 for caption in captions) / len(captions)


def kinds(captions):
    return sum(count > 1 for count in Counter(captions).values())


SOLUTIONS = {
    "step_bytes": step_bytes,
    "gradient_cache_grads": cached,
    "repeat_share": repeat_share,
    "lr_for_batch": lambda lr, base, batch: lr * math.sqrt(batch / base),
}

MISTAKES = [
    ("step_bytes", lambda b, m, p, d: step_bytes(b, b, p, d), "activations of the whole batch"),
    ("step_bytes", lambda b, m, p, d: step_bytes(m, m, p, d), "features of one piece"),
    ("step_bytes", lambda b, m, p, d: step_bytes(b, m, p, d, sides=1), "one side are missing"),
    ("step_bytes", lambda b, m, p, d: step_bytes(b, m, p, d, size=1), "numbers are counted"),
    ("step_bytes", lambda b, m, p, d: step_bytes(b, m, p, d, sides=0), "the features are missing"),
    ("step_bytes", lambda b, m, p, d: step_bytes(b, m, p, d, pieces=0), "the activations are missing"),
    ("gradient_cache_grads", small_losses, "gradient accumulation"),
    ("gradient_cache_grads", whole_batch, "graph of 8 rows"),
    ("gradient_cache_grads", cached_with_other_masks, "other masks"),
    ("gradient_cache_grads", cached_with_zeroed_gradients, "parts of a sum"),
    ("gradient_cache_grads", lambda *_: None, "no gradient"),
    ("repeat_share", lambda c: (len(c) - len(set(c))) / len(c), "the first copy is left out"),
    ("repeat_share", lambda c: kinds(c) / len(set(c)), "captions are counted once each"),
    ("repeat_share", lambda c: kinds(c) / len(c), "the repeated kinds are divided"),
    ("repeat_share", lambda c: repeat_share(c) * len(c), "that is a count"),
    ("repeat_share", lambda c: 1 - repeat_share(c), "occurs once"),
    ("repeat_share", lambda c: sum(map(c.count, c)) / len(c) ** 2, "should be"),
    ("lr_for_batch", lambda lr, base, batch: lr * batch / base, "linear rule"),
    ("lr_for_batch", lambda lr, base, batch: lr * math.sqrt(base / batch), "wrong way"),
    ("lr_for_batch", lambda lr, base, batch: lr, "not changed"),
]


class TestExercises(ExercisesCanFail):
    """The tests of every lesson, for this one."""

    notebook = "07_train_with_giant_batches.ipynb"
    solutions = SOLUTIONS
    mistakes = MISTAKES
