"""StayFinite: a training of transformers' Trainer ends at the step whose loss or weights are no longer finite.

The Trainer itself logs a NaN loss as 0, goes on, and would write the checkpoint. `LogoTrainer` looks at the loss before
its gradient is anywhere, this callback at the weights before anything is saved. All ranks stop at the same step.
"""

from __future__ import annotations

import torch
from transformers import Trainer, TrainerCallback

from minilib.trainers.trainer_utils import DivergedError, last_checkpoint, not_finite


class StayFinite(TrainerCallback):
    """Looks at the weights of `trainer`, on every rank."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.lr = trainer, None

    def check_start(self) -> None:
        """The weights that training begins with; DivergedError where one is not finite."""
        if fault := not_finite(self.trainer.model):
            raise self.error(fault, 1, self.trainer.args.learning_rate)

    def error(self, what: str, step: int, lr: float | None = None) -> DivergedError:
        """The error that ends the training in this step."""
        args, lr = self.trainer.args, self.trainer.optimizer.param_groups[0]["lr"] if lr is None else lr
        steps = self.trainer.state.max_steps or args.max_steps
        return DivergedError.at(what, step, steps, (lr, args.learning_rate), last_checkpoint(args.output_dir))

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.lr = self.trainer.optimizer.param_groups[0]["lr"]  # after the step the scheduler has moved on

    def on_step_end(self, args, state, control, model=None, **_):
        fault = not_finite(model, trained=True)
        broken = torch.tensor(float(fault is not None), device=args.device)
        if self.trainer.accelerator.reduce(broken, "sum").item():
            raise self.error(fault or "a weight on another rank is not finite", state.global_step, self.lr)
