"""LogoTrainer: preference training of a causal language model on transformers' own Trainer.

    row -> tokens -> stretched positions -> one packed batch -> hidden states -> loss -> gradients
           `pair_rows`                      `packing`           `prefix`         `objectives`

It is `transformers.Trainer` in everything else, so that checkpoints, resuming, accelerate, FSDP, DeepSpeed, peft, mixed
precision, gradient accumulation and loggers are there, under the names that people know. Ours is what one step
computes: the prompt once for all 1 + M answers (`share_prompt=False` runs full sequences, as others do), logits of
answer tokens only, LOGO's loss in one sweep, and positions drawn anew in every step.

Logged beside transformers' own numbers: rewards of chosen and rejected answers, margin, accuracy, the chosen answer's
log-probability, tokens so far and per second, peak memory in bytes, and how far LoRA has moved the model.

Departure from the paper: DeepSpeed and eight cards are a matter of the launcher, not of this file (on two ranks over
gloo, DDP and FSDP2 are tested; DeepSpeed has not been tried); the optimizer's settings that the paper does not give are
transformers' defaults. Without an SFT term, pairs that are long won leave gradients so small that a CPU multiplies
them slowly: `torch.set_flush_denormal(True)` before training helps.

Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from minilib.common import process_peak
from minilib.longcontext import Packed
from minilib.longcontext.positions import MODES
from minilib.trainers import collator as pair_rows
from minilib.trainers import lora as adapters
from minilib.trainers import objectives
from minilib.trainers.collator import number_rows
from minilib.trainers.trainer_utils import RowMeans, inside_forward

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
        vary_target: whether each prompt gets a target of its own in each step, drawn evenly from its real length to K.
        at_end: whether question and answers lie at the end of the target.
        share_prompt: whether a prompt is computed once for its answers; False runs 1 + M full sequences.
        route: how it is shared, see `minilib.longcontext.answer_hidden`.
        released: deviations of the released trainer to reproduce, see `minilib.longcontext.scoring`.
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
        vary_target: bool = False,
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
        adapted = lora is not None or hasattr(model, "disable_adapter")
        self.objective = objectives.make_objective(
            loss, beta=beta, gamma=gamma, sft_weight=sft_weight, num_rejected=num_rejected,
            rejected_weights=rejected_weights, released=released, route=route if share_prompt else "separate",
            reference=copy.deepcopy(model).eval().requires_grad_(False) if loss == "dpo" and not adapted else None,
        )  # fmt: skip
        self.target, self.position_mode = target, positions
        self.placing = {"at_end": at_end, "vary": vary_target}
        self.number = partial(number_rows, with_chunks=target is not None)
        data = {
            "train_dataset": self.number(train_dataset, "train_dataset"),
            "eval_dataset": self.number(eval_dataset, "eval_dataset"),
            "data_collator": pair_rows.Tokenize(
                processing_class, num_rejected=num_rejected, with_chunks=target is not None
            ),
        }
        if lora is not None:  # only now, as it changes the model that was given
            from peft import get_peft_model

            set_seed(args.seed)  # so that the seed decides where the adapters start, too
            model = get_peft_model(model, lora)
        args.remove_unused_columns = False  # the columns are those of our rows, not of the model's forward
        if args.accelerator_config.dispatch_batches is None:
            args.accelerator_config.dispatch_batches = False  # a rank cannot cut another's rows out of a stream's batch
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            **data,
        )
        if self.objective.reference is not None:
            self.objective.reference.to(self.args.device)
        self._seen = {"train": RowMeans(), "eval": RowMeans()}
        self._since = None  # time and tokens at the last log

    def train(self, *args, **kwargs):
        """transformers' train; what an earlier run has left to log is forgotten."""
        self._seen["train"], self._since = RowMeans(), None
        return super().train(*args, **kwargs)

    def get_eval_dataloader(self, eval_dataset=None):
        """transformers' loader; rows that come with a call of `evaluate` are looked through like those of the start."""
        if not isinstance(eval_dataset, str):
            eval_dataset = self.number(eval_dataset, "eval_dataset")
        return super().get_eval_dataloader(eval_dataset)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """The loss of one micro-batch; its metrics wait for the next `log`."""
        mode = "train" if model.training else "eval"
        if mode == "train" and self._since is None:
            self._since = time.perf_counter(), self.state.num_input_tokens_seen
        batch = self.pack(inputs["rows"], mode)
        inner = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        with self.accelerator.autocast():
            loss, metrics = inside_forward(model, inner, self.objective, batch)
        self._seen[mode].add(metrics, len(inputs["rows"]))
        if mode == "train":
            tokens = torch.tensor(self.computed_tokens(batch), device=self.args.device)
            self.state.num_input_tokens_seen += int(self.accelerator.reduce(tokens, "sum"))
        return (loss, metrics) if return_outputs else loss

    def pack(self, rows: pair_rows.Rows, mode: str = "train") -> Packed:
        """The rows as one packed batch on the model's device, their positions drawn for this step."""
        if mode == "train" and self.objective.loss == "sft":  # nobody looks at the others
            rows = pair_rows.Rows([row._replace(answers=row.answers[:1]) for row in rows.rows])
        draw = None
        if self.target is not None:
            step = self.state.global_step if mode == "train" else "eval"
            seed = f"{self.args.seed}/{step}"
            place = {"target": self.target, "mode": self.position_mode, "seed": seed}
            draw = partial(pair_rows.draw_positions, **place, **self.placing)
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
        """transformers' log; our metrics of the steps since the last one stand beside the loss of these steps."""
        if "loss" in logs:  # neither an evaluation nor the summary at the end
            logs |= self._seen["train"].take(self.accelerator) | self._running()
        super().log(logs, start_time)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        """transformers' loop; the means of our metrics join its own, and its time is not that of training."""
        began, self._seen["eval"] = time.perf_counter(), RowMeans()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        means = self._seen["eval"].take(self.accelerator)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        if self._since is not None:
            self._since = self._since[0] + time.perf_counter() - began, self._since[1]
        return output

    def _running(self) -> dict[str, float]:
        """Tokens, speed, memory, and the size of what LoRA has learned."""
        now, tokens = time.perf_counter(), self.state.num_input_tokens_seen
        before, counted = self._since
        self._since = now, tokens
        on_card = self.args.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.args.device) if on_card else process_peak()
        speed = (tokens - counted) / max(now - before, 1e-9)
        values = {"tokens": tokens, "tokens_per_second": speed, "peak_memory": peak}
        moved = adapters.delta_norm(self.accelerator.unwrap_model(self.model))
        return values if moved is None else values | {"lora_delta_norm": moved}
