"""LogoTrainer: preference training of a causal language model on transformers' own Trainer.

    row -> tokens -> stretched positions -> one packed batch -> hidden states -> loss -> gradients
           `pair_rows`                      `packing`           `prefix`         `objectives`

It is `transformers.Trainer` in everything else, so that checkpoints, resuming, accelerate, FSDP, DeepSpeed, peft, mixed
precision, gradient accumulation and loggers are there, under the names that people know. Ours is what one step
computes: the prompt once for all 1 + M answers (`share_prompt=False` runs full sequences, as others do), logits of
answer tokens only, LOGO's loss in one sweep, and positions drawn anew in every step.

Logged beside transformers' own numbers: rewards of chosen and rejected answers, margin, accuracy, the chosen answer's
log-probability, tokens so far and per second, peak memory in bytes, and how far LoRA has moved the model.

Departure from the paper: DeepSpeed and eight cards are a matter of the launcher, not of this file; the optimizer's
settings that the paper does not give are transformers' defaults.

Taught in notebooks/13_train_logo_end_to_end.ipynb; proven in tests/test_logo_trainer_minimises_its_losses.py,
tests/test_logo_training_resumes.py and tests/test_logo_training_on_two_ranks_equals_one.py.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from minilib.longcontext import Packed
from minilib.longcontext.positions import MODES
from minilib.trainers import adapters, objectives, pair_rows
from minilib.trainers.memory import process_peak
from minilib.trainers.wrapped import inside_forward

if TYPE_CHECKING:
    from peft import PeftConfig


class LogoTrainer(Trainer):
    """Aligns `model` on preference pairs with LOGO's loss or one of its neighbours.

    Args:
        model: a causal language model of transformers whose head is one matrix; with `lora` it is wrapped by peft.
        args: transformers' TrainingArguments.
        train_dataset: rows with prompt, chosen, rejected (a list) and, for a target, chunks, as `build_pairs` writes
            them: a list, a `datasets` table or stream.
        eval_dataset: rows of the same kind.
        processing_class: the tokenizer.
        loss: "logo", "simpo", "cpo", "orpo", "dpo" or "sft"; `minilib.trainers.objectives` has the table.
        beta, gamma, sft_weight: as in `minilib.losses.preference`, by default those of that table.
        num_rejected: M; the first M rejected answers of each row, None takes all of them.
        rejected_weights: M numbers, what each rejected answer counts in their mean ("logo" only).
        target: the length K that prompts shall seem to have; None leaves positions as they are.
        positions: "mixed", "continuous", "sparse", "pose" or "random"; see `synthesize_positions`.
        at_end: whether question and answers lie at the end of the target.
        share_prompt: whether a prompt is computed once for its answers; False runs 1 + M full sequences.
        route: how it is shared, see `minilib.longcontext.answer_hidden`.
        released: deviations of the released trainer to reproduce, see `minilib.losses.released`.
        lora: settings of peft, see `lora_config`; None trains all parameters that ask for it.
        callbacks, optimizers: as in transformers.

    Raises:
        ValueError, TypeError: one sentence, for settings at once, for rows when the trainer is made (of a stream when
            they come).
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        train_dataset=None,
        eval_dataset=None,
        *,
        processing_class,
        loss: str = "logo",
        beta: float | None = None,
        gamma: float | None = None,
        sft_weight: float | None = None,
        num_rejected: int | None = None,
        rejected_weights: Sequence[float] | None = None,
        target: int | None = None,
        positions: str = "mixed",
        at_end: bool = False,
        share_prompt: bool = True,
        route: str = "auto",
        released: Collection[str] = (),
        lora: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
    ):
        if positions not in MODES:
            raise ValueError(f"positions {positions!r} is unknown: choose one of {', '.join(map(repr, MODES))}.")
        if lora is not None:
            from peft import get_peft_model

            model = get_peft_model(model, lora)
        adapted = hasattr(model, "disable_adapter")
        self.objective = objectives.make_objective(
            loss, beta=beta, gamma=gamma, sft_weight=sft_weight, rejected_weights=rejected_weights, released=released,
            route=route if share_prompt else "separate",
            reference=copy.deepcopy(model).eval().requires_grad_(False) if loss == "dpo" and not adapted else None,
        )  # fmt: skip
        self.target, self.position_mode, self.at_end = target, positions, at_end
        args.remove_unused_columns = False  # the columns are those of our rows, not of the model's forward
        number = partial(pair_rows.number_rows, with_chunks=target is not None)
        super().__init__(
            model=model, args=args, processing_class=processing_class, callbacks=callbacks, optimizers=optimizers,
            data_collator=pair_rows.Tokenize(
                processing_class, num_rejected=num_rejected, with_chunks=target is not None
            ),
            train_dataset=number(train_dataset, "train_dataset"),
            eval_dataset=number(eval_dataset, "eval_dataset"),
        )  # fmt: skip
        if self.objective.reference is not None:
            self.objective.reference.to(self.args.device)
        self._seen = {"train": _Means(), "eval": _Means()}
        self._since = (time.perf_counter(), 0)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """The loss of one micro-batch; its metrics wait for the next `log`."""
        mode = "train" if model.training else "eval"
        batch = self.pack(inputs["rows"], mode)
        inner = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        with self.accelerator.autocast():
            loss, metrics = inside_forward(model, inner, self.objective, batch)
        self._seen[mode].add(metrics)
        if mode == "train":
            self.state.num_input_tokens_seen += self.computed_tokens(batch) * self.args.world_size
        return (loss, metrics) if return_outputs else loss

    def pack(self, rows: pair_rows.Rows, mode: str = "train") -> Packed:
        """The rows as one packed batch on the model's device, their positions drawn for this step."""
        if mode == "train" and self.objective.loss == "sft":  # nobody looks at the others
            rows = pair_rows.Rows([row._replace(answers=row.answers[:1]) for row in rows.rows])
        draw = None
        if self.target is not None:
            step = self.state.global_step if mode == "train" else "eval"
            seed = f"{self.args.seed}/{step}"
            draw = partial(
                pair_rows.draw_positions, target=self.target, mode=self.position_mode, at_end=self.at_end, seed=seed
            )
        pad = self.processing_class.pad_token_id
        pad = self.processing_class.eos_token_id if pad is None else pad
        return pair_rows.pack_rows(rows, draw, pad_id=pad or 0).to(self.args.device)

    def computed_tokens(self, batch: Packed) -> int:
        """Tokens that the model reads for this batch, padding left out: a shared prompt counts once."""
        real = (batch.segment_ids >= 0).sum()
        if self.objective.route == "separate":
            each = batch.num_answers // len(batch.input_ids)
            real = real + (each - 1) * (batch.segment_ids == 0).sum()
        return int(real)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss of an evaluation batch; its metrics are logged as means over all batches."""
        with torch.no_grad():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """transformers' log with our metrics beside its own."""
        mode = "eval" if any(name.startswith("eval_") for name in logs) else "train"
        prefix = "eval_" if mode == "eval" else ""
        logs |= {prefix + name: value for name, value in self._seen[mode].take(self.accelerator).items()}
        if mode == "train" and "loss" in logs:
            logs |= self._running()
        super().log(logs, start_time)

    def evaluation_loop(self, *args, **kwargs):
        """transformers' loop; the means of our metrics join those that it returns."""
        self._seen["eval"] = _Means()
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        means = self._seen["eval"].take(self.accelerator)
        output.metrics.update({f"{prefix}_{name}": value for name, value in means.items()})
        return output

    def _running(self) -> dict[str, float]:
        """Tokens, speed, memory, and the size of what LoRA has learned."""
        now, tokens = time.perf_counter(), self.state.num_input_tokens_seen
        before, counted = self._since
        self._since = now, tokens
        on_card = self.args.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.args.device) if on_card else process_peak()
        values = {"tokens": tokens, "peak_memory": peak}
        if counted or before:
            values["tokens_per_second"] = (tokens - counted) / max(now - before, 1e-9)
        moved = adapters.delta_norm(self.accelerator.unwrap_model(self.model))
        return values if moved is None else values | {"lora_delta_norm": moved}


class _Means:
    """Running means of named numbers, over batches and, when they are taken, over ranks."""

    def __init__(self):
        self.sums, self.count = {}, 0

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.float()
        self.count += 1

    def take(self, accelerator) -> dict[str, float]:
        """The means so far, over all ranks; then starts anew."""
        if not self.count:
            return {}
        means = torch.stack([total / self.count for total in self.sums.values()])
        names = list(self.sums)
        self.__init__()
        return dict(zip(names, accelerator.reduce(means, "mean").tolist()))
