"""What the ranks of a ring tell each other before the first hop, so that a disagreement is one sentence and no hang.

Every rank sends twelve numbers: whether it accepts its own inputs, how many rows it brings, the length of its longest
rows (for the shift that all ranks share), and the terms, which must be the same everywhere: loss, width, dtype, local
backend, scale, bias, and which gradients are wanted. Before the backward pass it sends one more, the factor by which
its share was scaled since.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from minilib.kernels.contrastive_tiled import largest_norm
from minilib.kernels.ring import Gather, Place, Program
from minilib.losses import validation

LOSSES = ("clip_loss", "siglip_loss")


class Greeting(NamedTuple):
    """What the ranks tell each other before the first hop, all as numbers; the terms must be the same everywhere."""

    accepted: float
    rows: float
    largest_img: float = 0.0
    largest_txt: float = 0.0
    loss: float = 0.0  # from here on, the terms
    width: float = 0.0
    dtype: float = 0.0
    backend: float = 0.0
    logit_scale: float = 0.0
    logit_bias: float = 0.0
    image_gradient: float = 0.0
    text_gradient: float = 0.0


TERMS = Greeting._fields[Greeting._fields.index("loss") :]
WANTED = ("not wanted", "wanted")
WORDS = {
    "loss": LOSSES, "dtype": validation.DTYPES, "backend": validation.BACKENDS,
    "image_gradient": WANTED, "text_gradient": WANTED,
}  # fmt: skip


def greet(rank, loss, img, txt, needed, local, scale, bias=None) -> Program:
    """Agree on the terms before the first hop; returns the rank's place and a bound on all logits."""
    greetings = yield from tell(
        Greeting(
            accepted=1, rows=len(img), largest_img=largest_norm(img).item(), largest_txt=largest_norm(txt).item(),
            loss=LOSSES.index(loss), width=img.shape[1], dtype=validation.DTYPES.index(img.dtype),
            backend=len(local.kernels.__name__),
            logit_scale=scale.item(), logit_bias=0.0 if bias is None else bias.item(),
            image_gradient=needed[0], text_gradient=needed[1],
        )
    )  # fmt: skip
    agree(greetings)
    largest_img, largest_txt = (max(g[field] for g in greetings) for field in (2, 3))
    return Place(rank, [int(g.rows) for g in greetings]), abs(scale.item()) * largest_img * largest_txt


def tell(greeting: Greeting) -> Program:
    everyone = yield Gather("greetings", greeting)
    return [Greeting(*numbers) for numbers in everyone]


def agree(greetings: Sequence[Greeting]) -> None:
    """Refuse to start when a rank has refused its inputs or names other terms than rank 0, in one sentence."""
    for rank, greeting in enumerate(greetings):
        if not greeting.accepted:
            raise ValueError(f"rank {rank} has refused its inputs: its own message says why, mend it and start again.")
    for term in TERMS:
        for rank, greeting in enumerate(greetings):
            first, other = getattr(greetings[0], term), getattr(greeting, term)
            if first != other:
                first, other = (WORDS[term][int(x)] if term in WORDS else f"{x:g}" for x in (first, other))
                raise ValueError(
                    f"{term.replace('_', ' ')} is {first} on rank 0 and {other} on rank {rank}: "
                    "every rank must call with the same."
                )


def same_upstream(place: Place, upstream: Tensor) -> Program:
    """One rank's share in another's gradients assumes one factor for all: refuse different ones, in one sentence."""
    factors = [numbers[0] for numbers in (yield Gather("upstream", [upstream.item()]))]
    for rank, factor in enumerate(factors):
        if factor != factors[0] and not math.isnan(factor):
            raise ValueError(
                f"the loss is scaled by {factors[0]:g} on rank 0 and by {factor:g} on rank {rank} before the backward "
                "pass: scale it by the same factor on every rank."
            )
