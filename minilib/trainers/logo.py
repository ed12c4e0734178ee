"""LogoTrainer: preference training of a causal language model on transformers' own Trainer.

    row -> tokens -> stretched positions -> one packed batch -> hidden states -> loss -> gradients
           `collator`                       `packing`           `shared_prefix`  `objectives`

Ours is what one step computes: the prompt once for all 1 + M answers, logits of answer tokens only, LOGO's loss in one
sweep, and positions drawn anew in every step. All else is `transformers.Trainer`: checkpoints, accelerate, peft, mixed
precision and loggers. On several ranks, DDP and FSDP2 are tested over gloo, DeepSpeed is not (book/scale.md).

Logged besides: the metrics of `objectives`, tokens so far and per second, peak memory in bytes, and LoRA's delta norm.

Departure from the paper: optimizer settings that it does not give are transformers' defaults. Without an SFT term, won
pairs leave denormal gradients, slow on a CPU: `torch.set_flush_denormal(True)` helps.
Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from minilib.common import process_peak
from minilib.longcontext import Packed, pack_answers
from minilib.longcontext.model_checks import check_positions_fit
from minilib.longcontext.positions import MODES
from minilib.longcontext.scoring import head_weight
from minilib.longcontext.shared_prefix import check_route
from minilib.losses.validation import check_choice
from minilib.trainers.collator import PairCollator, as_packed, draw_positions, number_rows
from minilib.trainers.lora import delta_norm, with_adapters
from minilib.trainers.objectives import Objective, make_objective
from minilib.trainers.stay_finite import StayFinite
from minilib.trainers.trainer_utils import RowMeans, inside_forward, sealed

if TYPE_CHECKING:
    from peft import PeftConfig


def _help(text: str) -> dict:
    return {"metadata": {"help": text}}


@dataclass
class LogoConfig(TrainingArguments):
    """The arguments of a `LogoTrainer`; ValueError, one sentence, for settings that do not go together."""

    loss_type: str = field(default="logo", **_help("logo, simpo, cpo, orpo, dpo or sft; see `trainers.objectives`."))
    beta: float | None = field(default=None, **_help("Scale of the reward; None: the loss's own default."))
    gamma: float | None = field(default=None, **_help("Margin asked for: itself, not its ratio to beta."))
    sft_weight: float | None = field(default=None, **_help("Weight of the SFT term."))
    num_rejected: int | None = field(default=None, **_help("M: the first M rejected answers of each row; None: all."))
    rejected_weights: list[float] | None = field(default=None, **_help("M weights of rejected answers (logo only)."))
    target_length: int | None = field(default=None, **_help("K, the length that prompts seem to have; None: plain."))
    position_mode: str = field(default="mixed", **_help("mixed, continuous, sparse, pose or random."))
    vary_target: bool = field(default=False, **_help("Each prompt draws its own target in each step, up to K."))
    at_end: bool = field(default=False, **_help("Question and answers lie at the end of the target."))
    share_prompt: bool = field(default=True, **_help("A prompt is computed once; False: 1 + M full sequences."))
    route: str = field(default="auto", **_help("How a prompt is shared; see `answer_hidden`."))
    released: list[str] | None = field(default=None, **_help("Deviations of the released trainer; see `scoring`."))
    remove_unused_columns: bool | None = field(default=False, **_help("Stays False: the columns are those of rows."))

    def __post_init__(self):
        check_choice("position_mode", self.position_mode, MODES)
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns is True: leave it False, the model takes none of a row's columns.")
        self.objective()  # validates the settings of the loss
        self.released = sorted(self.released) if self.released else None
        super().__post_init__()
        if self.accelerator_config.dispatch_batches is None:  # a rank cannot cut another's rows out of a batch
            self.accelerator_config = replace(self.accelerator_config, dispatch_batches=False)

    def objective(self, reference: nn.Module | None = None) -> Objective:
        """What a step minimises under these settings."""
        return make_objective(
            self.loss_type, beta=self.beta, gamma=self.gamma, sft_weight=self.sft_weight,
            num_rejected=self.num_rejected, rejected_weights=self.rejected_weights, released=self.released or (),
            route=self.route if self.share_prompt else "separate", reference=reference,
        )  # fmt: skip


def check_model(model: nn.Module, args: LogoConfig) -> None:
    """ValueError, one sentence, for a model whose log-probabilities or positions would be wrong."""
    route = args.route if args.share_prompt else "separate"
    head_weight(model)
    if args.target_length is not None:
        check_positions_fit(model, args.target_length)
    if route == "auto" and args.gradient_checkpointing:
        route = "flex" if model.config._attn_implementation == "flex_attention" else "mask"
    check_route(model, pack_answers([0, 0], [[0], [0]]), route)


class LogoTrainer(Trainer):
    """Aligns `model` on preference pairs with LOGO's loss or one of its neighbours.

    Args:
        model: a causal language model of transformers whose head is one matrix; with `peft_config` peft wraps it.
            It is measured here (`longcontext.model_checks`): ValueError for one that the loss would score wrongly.
        args: a LogoConfig, transformers' TrainingArguments with the settings of loss and positions; never changed.
        train_dataset: rows with prompt, chosen, rejected (a list) and, for a target_length, chunks, as `build_pairs`
            writes them: a list, a `datasets` table or stream. They are checked here, those of a stream when they come.
        eval_dataset: rows of the same kind, or several such sets by name.
        processing_class: the tokenizer.
        peft_config: settings of peft, see `lora_config`; None trains all parameters that ask for it.
        callbacks, optimizers: as in transformers.
    """

    def __init__(
        self, model: nn.Module, args: LogoConfig, train_dataset=None, eval_dataset=None, *, processing_class,
        peft_config: PeftConfig | None = None, callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
    ):  # fmt: skip
        if not isinstance(args, LogoConfig):
            raise TypeError(f"args is a {type(args).__name__}: give a LogoConfig, which takes the same arguments.")
        check_model(model, args)  # before a copy is taken, which then knows the verdict as well
        adapted = peft_config is not None or hasattr(model, "disable_adapter")
        needs_copy = args.loss_type == "dpo" and not adapted
        self.objective = args.objective(copy.deepcopy(model).eval().requires_grad_(False) if needs_copy else None)
        with_chunks = args.target_length is not None
        self.number = partial(number_rows, with_chunks=with_chunks)
        wanted = 1 if args.loss_type == "sft" else None  # in training nobody looks at the rejected answers of sft
        train_dataset = self.number(train_dataset, "train_dataset", num_answers=wanted)
        eval_dataset = self.number(eval_dataset, "eval_dataset")
        collator = PairCollator(processing_class, num_rejected=args.num_rejected, with_chunks=with_chunks)
        if peft_config is not None:  # only now, as it changes the model that was given
            set_seed(args.seed)  # so that the seed decides where the adapters start, too
            model = with_adapters(model, peft_config)
        super().__init__(
            model=model, args=args, data_collator=collator, train_dataset=train_dataset, eval_dataset=eval_dataset,
            processing_class=processing_class, callbacks=callbacks, optimizers=optimizers,
        )  # fmt: skip
        self.model_accepts_loss_kwargs = False  # our loss is a mean over rows: micro-batches are averaged, not summed
        if self.objective.reference is not None:
            self.objective.reference.to(self.args.device)
        self._seen = {"train": RowMeans(), "eval": RowMeans()}
        self._since = None  # time and tokens at the last log
        self.finite = StayFinite(self)
        self.add_callback(self.finite)

    def train(self, *args, **kwargs):
        """transformers' train; what an earlier run has left to log is forgotten."""
        self._seen["train"], self._since = RowMeans(), None
        self.finite.check_start()
        return super().train(*args, **kwargs)

    def get_eval_dataloader(self, eval_dataset=None):
        """transformers' loader; rows that come with a call of `evaluate` are looked through like those of the start."""
        if not isinstance(eval_dataset, str):
            eval_dataset = self.number(eval_dataset, "eval_dataset")
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        """transformers' loader for `predict`, which gives metrics and no predictions."""
        return super().get_test_dataloader(self.number(test_dataset, "test_dataset"))

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """The loss of one micro-batch; its metrics wait for the next `log`."""
        mode = "train" if model.training else "eval"
        if mode == "train" and self._since is None:
            self._since = time.perf_counter(), self.state.num_input_tokens_seen
        batch = self.pack(inputs, mode)
        inner = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        with self.accelerator.autocast():
            loss, metrics = inside_forward(model, inner, self.objective, batch)
        self._seen[mode].add(metrics, len(inputs["number"]))
        if mode == "train":
            told = torch.tensor([self.computed_tokens(batch), not loss.isfinite()], device=self.args.device)
            tokens, broken = self.accelerator.reduce(told, "sum").tolist()
            self.state.num_input_tokens_seen += tokens
            if broken:  # on whichever rank: all stop, before the gradient is anywhere
                raise self.finite.error("the loss is not finite", self.state.global_step + 1)
        return (loss, metrics) if return_outputs else loss

    def _save_checkpoint(self, model, trial):
        """transformers' checkpoint, with the digests of its files."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with sealed(folder, self.args.should_save, self.accelerator.wait_for_everyone):
            super()._save_checkpoint(model, trial)

    def pack(self, inputs: dict[str, Tensor], mode: str = "train") -> Packed:
        """A collated batch on the model's device, its positions drawn for this step; those of evaluations are fixed."""
        args, step = self.args, self.state.global_step if mode == "train" else "eval"
        place = {"target": args.target_length, "mode": args.position_mode, "seed": f"{args.seed}/{step}"}
        draw = partial(draw_positions, at_end=args.at_end, vary=args.vary_target, **place)
        return as_packed(inputs, None if args.target_length is None else draw).to(args.device)

    def computed_tokens(self, batch: Packed) -> int:
        """Tokens that the model reads for this batch, padding left out: a shared prompt counts once."""
        real = (batch.segment_ids >= 0).sum()
        model = self.accelerator.unwrap_model(self.model)
        if check_route(model, batch, self.objective.route)[1] == "separate":  # "auto" may stand for it
            real = real + (batch.num_answers // len(batch.input_ids) - 1) * (batch.segment_ids == 0).sum()
        return int(real)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss of an evaluation batch; its metrics are logged as means over all batches."""
        with torch.no_grad():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """transformers' log; our metrics of the steps since the last one join the loss of these steps."""
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
        (before, counted), self._since = self._since, (time.perf_counter(), self.state.num_input_tokens_seen)
        now, tokens = self._since
        on_gpu = self.args.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.args.device) if on_gpu else process_peak()
        speed = (tokens - counted) / max(now - before, 1e-9)
        values = {"tokens": tokens, "tokens_per_second": speed, "peak_memory": peak}
        moved = delta_norm(self.accelerator.unwrap_model(self.model))
        return values if moved is None else values | {"lora_delta_norm": moved}
