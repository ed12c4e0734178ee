"""The training of a `logo` run: a LogoTrainer made from its settings, a bar instead of a flood, and what it leaves.

    optimizer   AdamW, no weight decay, cosine from `lr` after `warmup` steps                    (transformers)
    batch       batch_size x accumulate x ranks prompts for each step, each with its 1 + M answers
    precision   weights in `dtype` under LoRA, else fp32 with autocast to `dtype`

A checkpoint is written every `save_every` steps but the last, and the two newest are kept. Each step leaves one record.

Departure from the paper: see `LogoTrainer`, which does the work.

Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import distributed as dist
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainingArguments, set_seed

from minilib.cli.run_folder import RECORDS, write_json
from minilib.longcontext import answer_hidden, pack_answers
from minilib.models.loading import Loaded, load_language_model, pick_dtype
from minilib.trainers.logo import LogoTrainer
from minilib.trainers.lora import lora_config
from minilib.trainers.trainer_utils import last_checkpoint

SHOWN = ("loss", "margin", "accuracy")
# peft and we still say gradient checkpointing, which transformers has begun to call otherwise.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing. is deprecated", category=FutureWarning)


def own_device() -> str:
    """Where this rank computes: its own card, else the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def load_policy(settings: dict) -> Loaded:
    """The model that is aligned, on this rank's device; ValueError for what this device cannot train."""
    for name, value in (("dtype", "float16"), ("attention", "flex_attention")):
        if settings[name] == value and own_device() == "cpu":
            raise ValueError(f"{name} is {value!r} and there is no card: choose 'auto', training needs one for that.")
    dtype = pick_dtype(settings["dtype"], own_device()) if settings["lora_rank"] else torch.float32
    wanted = {name: settings[name] for name in ("attention", "rope", "target")}
    loaded = load_language_model(settings["model"], dtype=dtype, **wanted)
    return loaded._replace(model=loaded.model.to(own_device()))


@torch.no_grad()
def try_layout(loaded: Loaded, settings: dict) -> None:
    """One pass over a prompt of the size to come: a model that cannot take it is told before hours of answering."""
    ids = (
        torch.arange(settings["chunk_size"] * settings["num_chunks"]) % loaded.model.config.get_text_config().vocab_size
    )
    answer_hidden(loaded.model, pack_answers(ids, [ids[:2]] * (1 + settings["num_rejected"])))


def make_trainer(settings: dict, loaded: Loaded, rows) -> LogoTrainer:
    """The trainer of these settings; the ranks that a launcher has started meet here."""
    args = _arguments(settings)
    set_seed(settings["seed"])  # the adapters' first weights
    rank, alpha, modules = (settings[name] for name in ("lora_rank", "lora_alpha", "lora_modules"))
    same = ("loss", "beta", "gamma", "sft_weight", "num_rejected", "positions", "vary_target", "share_prompt")
    trainer = LogoTrainer(
        loaded.model, args, rows, processing_class=loaded.tokenizer, target=settings["target"] or None,
        lora=lora_config(rank=rank, alpha=alpha, modules=modules) if rank else None,
        **{name: settings[name] for name in same},
    )  # fmt: skip
    for printing in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(_Bar)
    return trainer


def run(trainer: LogoTrainer, output: Path) -> list[dict]:
    """Train from the last whole checkpoint to the end, write model, tokenizer and records, return the records."""
    with trainer.args.main_process_first(local=False):  # one rank clears away what a killed run left half written
        checkpoint = last_checkpoint(output)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(output))
    records = [entry for entry in trainer.state.log_history if "loss" in entry]
    if trainer.is_world_process_zero():
        write_json(output / RECORDS, records)
    trainer.accelerator.wait_for_everyone()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    return records


def _arguments(settings: dict) -> TrainingArguments:
    dtype = pick_dtype(settings["dtype"], own_device())
    return TrainingArguments(
        output_dir=str(settings["output"]),
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["batch_size"],
        gradient_accumulation_steps=settings["accumulate"],
        learning_rate=settings["lr"],
        warmup_steps=settings["warmup"],
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        seed=settings["seed"],
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        save_steps=settings["save_every"],
        save_total_limit=2,
        logging_steps=1,
        report_to=[],
        use_cpu=own_device() == "cpu",
        **({"gradient_checkpointing": True} if settings["gradient_checkpointing"] else {}),  # warns of its new name
    )


class _Bar(TrainerCallback):
    """One bar with the newest numbers, on the first rank, and no checkpoint at the end.

    transformers' own bar prints every record in full.
    """

    def on_train_begin(self, args, state, control, **_):
        hidden = not state.is_world_process_zero
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="logo", unit="step", disable=hidden)

    def on_step_end(self, args, state, control, **_):
        self.bar.update(state.global_step - self.bar.n)
        # A run that goes on from its last step would take one more; the end is written to the folder itself.
        control.should_save &= state.global_step < state.max_steps

    def on_log(self, args, state, control, logs=None, **_):
        self.bar.set_postfix({name: f"{logs[name]:.2f}" for name in SHOWN if name in (logs or {})})

    def on_train_end(self, args, state, control, **_):
        self.bar.close()
