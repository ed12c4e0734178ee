"""What a step minimises: from a packed batch of prompts with 1 + M answers to a loss and the numbers worth watching.

    hidden states once  ->  log-probabilities of the answer tokens  ->  a preference loss      (`minilib.losses`)

    loss     scores of an answer    default beta, gamma, sft_weight    how it is computed
    logo     token means            10, 3, 0.1                         margin sweep: loss and gradients in one visit
    simpo    token means            10, 3, 0                           as logo where M = 1, else token_logps
    cpo      sums                   0.1, -, 1                          token_logps
    orpo     token means            0.1, -, -                          token_logps
    dpo      sums                   0.1, -, -                          token_logps, twice: the reference model as well
    sft      token means            -                                  token_logps of the chosen answer

The reward of an answer is beta times its score (for dpo less the reference's). The metrics have TRL's names:

    rewards/chosen, rewards/rejected    means over the batch
    rewards/margins                     chosen less the mean of the rejected ones, as the paper plots it
    rewards/accuracies                  share of rejected answers that the chosen one beats; ours: a tie counts half
    logps/chosen                        mean token log-probability of the chosen answer, for every loss

The reference of dpo is the model without its adapters; where it has none, a frozen copy, whole on every rank.
Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minilib.longcontext import Packed, answer_hidden
from minilib.longcontext.scoring import DEVIATIONS, head_weight, released_logps, sequence_logps
from minilib.longcontext.shared_prefix import ROUTES
from minilib.losses.logo_from_hidden import logo_loss_from_hidden
from minilib.losses.preference import cpo_loss, dpo_loss, logo_loss, orpo_loss, simpo_loss
from minilib.losses.validation import check_choice, check_deviations, check_settings, check_weights, is_whole

DEFAULTS = {  # beta, gamma, sft_weight; None where a loss knows no such thing
    "logo": (10.0, 3.0, 0.1),
    "simpo": (10.0, 3.0, 0.0),
    "cpo": (0.1, None, 1.0),
    "orpo": (0.1, None, None),
    "dpo": (0.1, None, None),
    "sft": (None, None, None),
}
LOSSES = tuple(DEFAULTS)
SUMS = ("cpo", "dpo")  # what they compare is not divided by the length
ROUNDING = 16  # two computations of one score of t tokens were seen to differ by up to 1.3 eps (t + |score|)


class Objective(NamedTuple):
    """A loss by name with its settings; called with (model, packed batch) it gives the loss and the metrics."""

    loss_type: str
    beta: float | None
    gamma: float | None
    sft_weight: float | None
    rejected_weights: tuple[float, ...] | None = None
    released: tuple[str, ...] = ()
    route: str = "auto"
    reference: nn.Module | None = None

    def __call__(self, model: nn.Module, batch: Packed) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar with gradients, and detached metrics of this batch."""
        if batch.num_answers == len(batch.input_ids):  # chosen answers alone, "sft" in training
            scores = self._scores(model, batch)
            return -scores.mean(), {"logps/chosen": scores.detach().mean()}
        if self.released:
            means, sft = released_logps(model, batch, self.released, route=self.route)
            released = set(self.released) & {"negatives"}
            loss = logo_loss(means[:, 0], means[:, 1:], sft=sft, released=released, **self._settings())
            return loss, self._metrics(means.detach(), batch)
        if self.loss_type == "logo" or (self.loss_type == "simpo" and batch.num_answers == 2 * len(batch.input_ids)):
            return self._sweep(model, batch)
        scores = self._scores(model, batch)  # (b, 1 + M)
        reference = self._reference_scores(model, batch) if self.loss_type == "dpo" else None
        return self._loss(scores, reference), self._metrics(scores.detach(), batch, reference)

    def _sweep(self, model, batch):
        hidden = answer_hidden(model, batch, self.route)  # (n, d)
        labels, answer = batch.labels.to(hidden.device), batch.answer.to(hidden.device)
        num_rejected = batch.num_answers // len(batch.input_ids) - 1
        weights = None if self.rejected_weights is None else torch.tensor(self.rejected_weights, device=hidden.device)
        loss, means = logo_loss_from_hidden(
            hidden, head_weight(model), labels, answer,
            num_rejected=num_rejected, rejected_weights=weights, **self._settings(),
        )  # fmt: skip
        return loss, self._metrics(means, batch)

    def _settings(self) -> dict[str, float]:
        return {"beta": self.beta, "gamma": self.gamma, "sft_weight": self.sft_weight}

    def _scores(self, model: nn.Module, batch: Packed) -> Tensor:
        """Scores of all answers, `(b, 1 + M)`: token means, or sums where the loss takes sums."""
        means = sequence_logps(model, batch, route=self.route)
        return means * _lengths(batch, means) if self.loss_type in SUMS else means

    @torch.no_grad()
    def _reference_scores(self, model: nn.Module, batch: Packed) -> Tensor:
        if self.reference is not None:
            return self._scores(self.reference, batch)
        with model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext():
            return self._scores(model, batch)

    def _loss(self, scores: Tensor, reference: Tensor | None) -> Tensor:
        chosen, rejected = scores[:, 0], scores[:, 1:]
        if self.loss_type == "sft":
            return -chosen.mean()
        if self.loss_type == "simpo":
            return simpo_loss(chosen, rejected, **self._settings())
        if self.loss_type == "cpo":
            return cpo_loss(chosen, rejected, beta=self.beta, sft_weight=self.sft_weight)
        if self.loss_type == "orpo":
            return orpo_loss(chosen, rejected, beta=self.beta)
        return dpo_loss(chosen, rejected, reference[:, 0], reference[:, 1:], beta=self.beta)

    def _metrics(self, scores: Tensor, batch: Packed, reference: Tensor | None = None) -> dict[str, Tensor]:
        beta = 1.0 if self.beta is None else self.beta
        rewards = beta * (scores if reference is None else scores - reference)  # (b, 1 + M)
        tokens = _lengths(batch, scores) if self.loss_type in SUMS else torch.ones_like(scores)
        chosen, rejected = rewards[:, 0].mean(), rewards[:, 1:].mean()
        return {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": accuracy(rewards, beta * (tokens + scores.abs())),
            "logps/chosen": (scores / tokens)[:, 0].mean(),
        }


def accuracy(rewards: Tensor, size: Tensor) -> Tensor:
    """The share of rejected answers that the chosen one beats; a tie counts half. Both arguments are `(b, 1 + M)`."""
    ahead = rewards[:, :1] - rewards[:, 1:]  # (b, M)
    # Before its first step dpo's model is its reference: every reward is 0 but for rounding, which differs by machine
    # and by batch. So a tie is a difference within some eps of the dtype, relative to the size of the scores.
    rounding = ROUNDING * torch.finfo(rewards.dtype).eps * (size[:, :1] + size[:, 1:])
    return torch.where(ahead.abs() <= rounding, 0.5, (ahead > 0).float()).mean()


def _lengths(batch: Packed, scores: Tensor) -> Tensor:
    """Tokens of every answer, in the shape of `scores`."""
    return batch.answer.bincount().to(scores.device).view_as(scores)


def make_objective(
    loss_type: str, *, beta: float | None = None, gamma: float | None = None, sft_weight: float | None = None,
    num_rejected: int | None = None, rejected_weights: Sequence[float] | None = None,
    released: Collection[str] = (), route: str = "auto", reference: nn.Module | None = None,
) -> Objective:  # fmt: skip
    """The objective of this name, filled in from `DEFAULTS`; ValueError for settings that the loss does not know."""
    check_choice("loss_type", loss_type, LOSSES)
    check_choice("route", route, ROUTES)
    settings = {}
    for name, given, default in zip(("beta", "gamma", "sft_weight"), (beta, gamma, sft_weight), DEFAULTS[loss_type]):
        if given is not None and default is None:
            raise ValueError(f"{name} is {given} and loss_type is {loss_type!r}, which has no {name}: leave it out.")
        settings[name] = default if given is None else given
    check_settings(**{name: value for name, value in settings.items() if value is not None})
    least = 0 if loss_type == "sft" else 1
    if num_rejected is not None and not is_whole(num_rejected, least):
        came = f"num_rejected is {num_rejected!r} and loss_type is {loss_type!r}"
        raise ValueError(f"{came}: give {least} or more, or None for all.")
    if released and loss_type != "logo":
        raise ValueError(f"released is {released!r} and loss_type is {loss_type!r}: only 'logo' has deviations.")
    check_deviations(released, 2 if num_rejected is None else num_rejected, DEVIATIONS)
    if rejected_weights is not None:
        if loss_type != "logo" or released:
            other = f"released {released!r}" if loss_type == "logo" else f"loss_type {loss_type!r}"
            raise ValueError(f"rejected_weights is given with {other}: only 'logo' without deviations weighs answers.")
        weights = torch.as_tensor(rejected_weights, dtype=torch.float64)
        check_weights(weights, 1, len(weights) if num_rejected is None else num_rejected)
        rejected_weights = tuple(weights.tolist())
    return Objective(loss_type, *settings.values(), rejected_weights, tuple(sorted(released)), route, reference)
