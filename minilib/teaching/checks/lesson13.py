"""Checks of lesson 13, train LOGO end to end: the bare loop, an adapter's size, rewards, who moved, a whole checkpoint.

Solutions: `minilib.losses.preference.logo_loss` in a loop, the sum in `minilib.trainers.lora.delta_norm`, the
rule of `minilib.trainers.trainer_utils.last_checkpoint`, and the metrics of `minilib.trainers.objectives`. The judge of
the norm forms the product B A, at a size where it may.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn.functional import softplus

from minilib.losses.preference import logo_loss, simpo_loss
from minilib.teaching.checks.contract import MISSING, LargestTensor, compare, run

MOVES = ("no gain", "chosen fell", "both rose", "parted")


def check_logo_loop(learner: Callable[..., list[float]]) -> None:
    """Exercise: `logo_loop(score, optimizer, draw, steps)`, LOGO's training loop; returns the losses."""
    cases = {
        "for one step with one rejected answer": lambda fn: _loop(fn, 1, 1),
        "for one step with three rejected answers": lambda fn: _loop(fn, 1, 3),
        "for five steps": lambda fn: _loop(fn, 5, 2),
        "for no step": lambda fn: _loop(fn, 0, 2),
    }
    run(learner, cases, "the method is one loss in an ordinary loop; all else makes it cheap or keeps it alive")


def check_adapter_norm(learner: Callable[[Sequence[tuple[Tensor, Tensor, float]]], float]) -> None:
    """Exercise: `adapter_norm(adapters)`, |delta W| over all (A, B, scale), without forming B A."""
    cases = {
        "for one adapter of rank 1 by hand": lambda fn: _norm(fn, _by_hand()),
        "for one adapter of rank 4": lambda fn: _norm(fn, _adapters([(4, 12, 9)])),
        "for three adapters of unlike shapes": lambda fn: _norm(fn, _adapters([(2, 8, 8), (2, 8, 5), (3, 6, 8)])),
        "for B = 0, as it starts": lambda fn: _norm(fn, [(a, 0 * b, s) for a, b, s in _adapters([(2, 8, 8)])]),
        "for matrices of 2,000 x 1,000": _stays_small,
    }
    run(learner, cases, "two r x r products hold the whole norm, so it can be logged at every step")


def check_pair_metrics(learner: Callable[..., tuple[float, float]]) -> None:
    """Exercise: `pair_metrics(chosen, rejected, beta, gamma)`, the reward margin and the accuracy."""
    hand = torch.tensor([-1.0, -2.0]), torch.tensor([[-4.5, -1.5], [-1.0, -7.0]])
    tie = torch.tensor([-1.0]), torch.tensor([[-1.0, -3.0, -0.5]])
    cases = {
        "for two examples with two rejected answers": lambda fn: _metrics(fn, *hand, 2.0, 3.0),
        "for six examples with three rejected answers": lambda fn: _metrics(fn, *_means(6, 3), 10.0, 3.0),
        "for one rejected answer each": lambda fn: _metrics(fn, *_means(5, 1), 2.5, 0.25),
        "for an answer that is as likely as the chosen one": lambda fn: _metrics(fn, *tie, 2.0, 0.5),
    }
    insight = "the margin is what there is, gamma is what is asked for; accuracy counts single answers, a tie half"
    run(learner, cases, insight)


def check_who_moved(learner: Callable[[Sequence[float], Sequence[float]], str]) -> None:
    """Exercise: `who_moved(chosen, rejected)`, one of MOVES, from mean log-probabilities along a training run."""
    runs = {
        "for a margin that closes": ([-1.0, -1.2, -1.5], [-4.0, -3.5, -3.0], "no gain"),
        "for two curves that rise alike": ([-2.0, -1.5, -1.0], [-5.0, -4.5, -4.0], "no gain"),
        "for a chosen answer that falls, less than the other": ([-1.0, -1.5, -2.0], [-4.0, -6.0, -9.0], "chosen fell"),
        "for a chosen answer that fell at the end only": ([-1.0, -0.5, -1.4], [-4.0, -6.0, -9.0], "chosen fell"),
        "for a rejected answer that rises, less than the other": ([-3.0, -2.0, -1.0], [-5.0, -4.8, -4.5], "both rose"),
        "for a dip in the middle": ([-1.0, -1.6, -0.5], [-4.0, -5.0, -6.0], "parted"),
        "for a rejected answer that peaks in the middle": ([-2.0, -1.0, -0.5], [-4.0, -3.0, -5.0], "parted"),
        "for a chosen answer that stays": ([-1.0, -1.1, -1.0], [-4.0, -5.0, -6.0], "parted"),
    }
    cases = {where: lambda fn, case=case: _moved(fn, *case) for where, case in runs.items()}
    run(learner, cases, "a margin is a difference: look at both of its sides before you believe it")


def check_last_whole(learner: Callable[[Path], int | None]) -> None:
    """Exercise: `last_whole(folder)`, the step of the newest checkpoint that was written to its end, or None."""
    cases = {
        "for the checkpoints 3 and 6, both whole": lambda fn: _last(fn, {3: 3, 6: 6}, 6),
        "for the checkpoints 9 and 10, both whole": lambda fn: _last(fn, {9: 9, 10: 10}, 10),
        "for 20 whole and 30 without its trainer_state.json": lambda fn: _last(fn, {20: 20, 30: None}, 20),
        "for 20 whole and 30 with half of a trainer_state.json": lambda fn: _last(fn, {20: 20, 30: "{"}, 20),
        "for 20 whole and 30 with the state of step 20": lambda fn: _last(fn, {20: 20, 30: 20}, 20),
        "for a folder without checkpoints": lambda fn: _last(fn, {}, None),
        "for one checkpoint, which is broken": lambda fn: _last(fn, {3: None}, None),
    }
    run(learner, cases, "the file that is written last speaks for the folder, if it says what it should")


class _Play:
    """A policy of three numbers: `score` gives mean log-probabilities (b, 1 + M) of the batch that `draw` hands out."""

    def __init__(self, rejected: int) -> None:
        self.weights = torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64, requires_grad=True)
        self.optimizer = torch.optim.SGD([self.weights], lr=0.02)
        self.rejected, self.asked = rejected, []

    def draw(self, step: int) -> Tensor:
        self.asked.append(step)
        generator = torch.Generator().manual_seed(step)
        return torch.randn(4, 1 + self.rejected, 3, dtype=torch.float64, generator=generator)

    def score(self, batch: Tensor) -> Tensor:
        return -softplus(batch @ self.weights)


def _looped(steps: int, rejected: int, loss: Callable = logo_loss, keep: bool = False, still: bool = False):
    """Losses and weights of the loop, or of one with a slip: gradients kept, or the first batch all the time."""
    play, losses = _Play(rejected), []
    for step in range(steps):
        means = play.score(play.draw(0 if still else step))
        found = loss(means[:, 0], means[:, 1:], beta=10.0, gamma=3.0, sft_weight=0.1)
        if not keep:
            play.optimizer.zero_grad()
        found.backward()
        play.optimizer.step()
        losses.append(found.item())
    return torch.tensor(losses, dtype=torch.float64), play.weights.detach()


def _loop(fn: Callable, steps: int, rejected: int) -> str | None:
    play = _Play(rejected)
    got = fn(play.score, play.optimizer, play.draw, steps)
    if got is None:
        return MISSING
    if not isinstance(got, (list, tuple)) or not all(isinstance(loss, float) for loss in got):
        return "the losses are no list of plain numbers: loss.item() lets go of the graph behind a loss"
    if len(got) != steps:
        return f"{len(got)} losses came back of {steps} steps: one for each step, from before its update"
    if play.asked != list(range(steps)):
        return f"draw was asked for the steps {play.asked}: ask once in each step, for its own number"
    losses, weights = _looped(steps, rejected)
    slips = {hint: _looped(steps, rejected, loss)[0] for hint, loss in _LOSSES.items()}
    slips["gradients of earlier steps are added: set them to zero in every step"] = _looped(steps, rejected, keep=True)[
        0
    ]
    slips["the first batch comes again and again"] = _looped(steps, rejected, still=True)[0]
    if wrong := compare(got, losses, slips):
        return wrong
    if steps and torch.equal(play.weights.detach(), _Play(rejected).weights.detach()):
        return "the weights have not moved: backward fills the gradients, optimizer.step uses them"
    return compare(play.weights, weights)


def _logo(chosen: Tensor, rejected: Tensor, beta: float, gamma: float, sft_weight: float) -> Tensor:
    """`logo_loss` with nothing checked, for the slips."""
    return (softplus(gamma - beta * (chosen - rejected.mean(1))) - sft_weight * chosen).mean()


_LOSSES = {
    "gamma has the other sign: the margin has to exceed it": lambda c, r, **s: _logo(c, r, **s | {"gamma": -3.0}),
    "the SFT term has the other sign: the chosen answer shall rise": lambda c, r, **s: _logo(
        c, r, **s | {"sft_weight": -0.1}
    ),
    "the SFT term is missing: lambda times the chosen log-probability": lambda c, r, **s: _logo(
        c, r, **s | {"sft_weight": 0.0}
    ),
    "every rejected answer has a sigmoid of its own: LOGO puts their mean inside": simpo_loss,
    "the rejected answers are summed: take their mean": lambda c, r, **s: _logo(c, r.sum(1, keepdim=True), **s),
    "beta is missing: it scales the difference, not gamma": lambda c, r, **s: _logo(c, r, **s | {"beta": 1.0}),
    "chosen and rejected are exchanged": lambda c, r, **s: _logo(r.mean(1), c[:, None], **s),
}


def _by_hand() -> list[tuple[Tensor, Tensor, float]]:
    """B A = [[3, 4], [6, 8]], of norm 5 sqrt(5); halved."""
    a, b = torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    return [(a, b, 0.5)]


def _adapters(shapes: list[tuple[int, int, int]]) -> list[tuple[Tensor, Tensor, float]]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return [(draw(r, wide), draw(high, r), 0.5 + 0.25 * k) for k, (r, wide, high) in enumerate(shapes)]


def _norm(fn: Callable, adapters: list[tuple[Tensor, Tensor, float]]) -> str | None:
    sizes = [(s, (b @ a).square().sum().item()) for a, b, s in adapters]  # scale and |B A|^2
    squares = [s * s * size for s, size in sizes]
    want = math.sqrt(sum(squares))
    bound = sum(s * s * a.square().sum() * b.square().sum() for a, b, s in adapters)
    matrices = sum(s * s * ((b.T @ b) @ (a @ a.T)).sum().clamp(min=0) for a, b, s in adapters)
    suspects = {
        "that is the square of the norm: take its root": sum(squares),
        "the norms are added up: add their squares and take one root": sum(map(math.sqrt, squares)),
        "the scale is missing: what is added is alpha / r times B A": math.sqrt(sum(size for _, size in sizes)),
        "the scale is not squared: under the root it counts twice": math.sqrt(sum(s * size for s, size in sizes)),
        "that is the product of the norms of A and B, which is only a bound": math.sqrt(bound),
        "the two r x r products are multiplied as matrices and summed: multiply entry by entry": math.sqrt(matrices),
        "that is the mean over the adapters: add them up": want / len(adapters),
    }
    return compare(fn(list(adapters)), want, suspects)


def _stays_small(fn: Callable) -> str | None:
    adapters = _adapters([(4, 2_000, 1_000)])
    with LargestTensor() as largest:
        fn(adapters)
    if largest.numel >= 1_000_000:
        return f"a tensor of {largest.numel:,} numbers was made: that is B A, and B^T B and A A^T have 16 each"
    return _norm(fn, adapters)


def _means(examples: int, rejected: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rejected)
    draws = -3 * torch.rand(examples, 1 + rejected, dtype=torch.float64, generator=generator)
    return draws[:, 0], draws[:, 1:]


def _metrics(fn: Callable, chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> str | None:
    chosen, rejected = chosen.double(), rejected.double()
    margins = chosen[:, None] - rejected
    margin, accuracy = beta * margins.mean().item(), _share(margins)
    above, reached = (won.double().mean().item() for won in (margins > 0, beta * margins > gamma))
    summed, first, likeliest = chosen - rejected.sum(1), margins[:, 0], margins.amin(1)
    suspects = {
        "accuracy counts ties as won: a tie counts half": (margin, (margins >= 0).double().mean().item()),
        "accuracy counts ties as lost: a tie counts half": (margin, above),
        "gamma is taken off the margin: it is what the loss asks for, no part of what there is": (
            margin - gamma, accuracy,
        ),
        "gamma is taken off the margin, and accuracy counts who has reached it": (margin - gamma, reached),
        "accuracy counts who has reached gamma: the chosen answer wins as soon as it is likelier": (margin, reached),
        "beta is missing: a reward is beta times the mean log-probability": (margin / beta, accuracy),
        "the rejected answers are summed: the margin is against their mean": (beta * summed.mean(), accuracy),
        "the margin is against the first rejected answer: take the mean of all": (beta * first.mean(), accuracy),
        "the margin is against the likeliest rejected answer: take the mean of all": (
            beta * likeliest.mean(), accuracy,
        ),
        "accuracy compares with the mean of the rejected answers: count every answer by itself": (
            margin, _share(margins.mean(1)),
        ),
        "accuracy counts examples in which all are beaten: count every answer by itself": (
            margin, (margins > 0).all(1).double().mean().item(),
        ),
        "accuracy is a count: divide by the number of rejected answers": (margin, accuracy * margins.numel()),
        "the sign is turned: chosen minus rejected": (-margin, accuracy),
        "the signs are turned: chosen minus rejected, and it wins where that is above 0": (-margin, 1 - accuracy),
    }  # fmt: skip
    return compare(fn(chosen, rejected, beta, gamma), (margin, accuracy), suspects)


def _share(margins: Tensor) -> float:
    """The share of margins above 0, where a tie counts half."""
    return ((margins > 0).double() + (margins == 0).double() / 2).mean().item()


def _moved(fn: Callable, chosen: list[float], rejected: list[float], want: str) -> str | None:
    got = fn(list(chosen), list(rejected))
    if got is None:
        return MISSING
    if not isinstance(got, str) or got not in MOVES:
        return f"the answer is a {type(got).__name__} that is none of {', '.join(map(repr, MOVES))}"
    return None if got == want else f"the answer is {got!r} and should be {want!r}"


def _last(fn: Callable, states: dict[int, int | str | None], want: int | None) -> str | None:
    """`states`: what the state file of each checkpoint holds, a step, broken text, or None where there is no file."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for step, state in states.items():
            checkpoint = folder / f"checkpoint-{step}"
            checkpoint.mkdir()
            (checkpoint / "optimizer.pt").write_bytes(b"numbers")
            if state is not None:
                text = state if isinstance(state, str) else json.dumps({"global_step": state})
                (checkpoint / "trainer_state.json").write_text(text)
        got = fn(folder)
    if got is not None and (not isinstance(got, int) or isinstance(got, bool)):
        return f"the answer is a {type(got).__name__}: return the step as a whole number, or None"
    if got == want:
        return None
    return f"the answer is {got} and should be {want}{_why(got, want, states)}"


def _why(got: int | None, want: int | None, states: dict[int, int | str | None]) -> str:
    if got is None:
        return ": go on to the checkpoint before" if len(states) > 1 else ""
    if got not in states:
        return ": no folder has that number"
    if states[got] is None:
        return ": a folder without trainer_state.json was not written to its end"
    if isinstance(states[got], str):
        return ": a file that is no JSON was cut off while it was written"
    if states[got] != got:
        return ": its state is that of another step"
    return ": compare the steps as numbers, as text 9 is above 10"
