"""One alignment of the tour: the pairs, LogoTrainer with the tour's settings, the margin while it trains, a checkpoint.

    margin = mean_token log pi(chosen | x) - mean_j mean_token log pi(rejected_j | x)        nats per token

where
    x    the whole text of a pair that nobody trains on, so that the margin speaks of what alignment is for

The margins are kept in the Trainer's own history, which lies in every checkpoint: a run that goes on after an interrupt
has its whole curve. Everything takes the CPU.

Departure from the paper, which has one target for all prompts: each draws its own in every step (`vary_target`). With
one target the model hardly sees the middle distances of a short text, and loses what it could do in its window.
"""

import time
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback, TrainerState

from minilib.models.tiny_lm import tiny_lm
from minilib.preferences.assembly import Pairs
from minilib.preferences.haystack_pairs import at_full_length, first_pairs, haystack_pairs, long_questions
from minilib.trainers import LogoConfig, LogoTrainer, last_checkpoint, lora_config, remove_unfinished_checkpoints
from minilib.trainers.collator import PairCollator, as_packed
from minilib.trainers.objectives import make_objective

NUM_REJECTED, TARGET = 2, 1_000  # M, and the most that prompts of 224 tokens shall seem to be long
STRETCHED = {"target_length": TARGET, "vary_target": True}
METHODS = {
    "SFT": {"loss_type": "sft"},
    "stretched SFT": {"loss_type": "sft", **STRETCHED},
    "LOGO": {"loss_type": "logo", **STRETCHED},
}


def training_pairs(output: Path, questions: int, progress: bool = False) -> Pairs:
    """The pairs of training; those that a file of this tour holds are not answered again."""
    path = output / "training" / "pairs.jsonl"
    return haystack_pairs(*tiny_lm(), rows=questions, num_rejected=NUM_REJECTED, path=path, progress=progress)


def held_out_pairs(count: int, *, seed: int) -> list[dict]:
    """Pairs that nobody trains on, with the whole text in the prompt."""
    model, tokenizer = tiny_lm()
    asked = 2 * count + 8
    built = haystack_pairs(model, tokenizer, rows=asked, num_rejected=NUM_REJECTED, seed=seed, progress=False)
    return at_full_length(first_pairs(built, count), long_questions(asked, tokenizer, seed=seed))


def train(output: Path, name: str, rows: list[dict], watched: list[dict], *, steps: int, every: int) -> dict:
    """One alignment from the tiny model, to its end; returns its margins, its seconds and its tokens."""
    folder = _folder(output, name)
    remove_unfinished_checkpoints(folder)
    last = last_checkpoint(folder)
    # A run that has ended is not gone on with: the Trainer would take one more step.
    if last is None or Path(last).name != f"checkpoint-{steps}":
        trainer = _trainer(folder, name, rows, watched, steps, every)
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=last)
        last = last_checkpoint(folder)
    state = TrainerState.load_from_json(str(Path(last) / "trainer_state.json"))
    noted = [record for record in state.log_history if "held_out_margin" in record]
    margins = [(record["step"], record["held_out_margin"]) for record in noted]
    return {"margins": margins, "seconds": noted[-1]["seconds"], "tokens": state.num_input_tokens_seen}


def _trainer(folder: Path, name: str, rows: list[dict], watched: list[dict], steps: int, every: int) -> LogoTrainer:
    settings = LogoConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=8, learning_rate=1e-3,
        lr_scheduler_type="cosine", warmup_steps=min(10, steps // 4), weight_decay=0.0, seed=0, use_cpu=True,
        report_to=[], disable_tqdm=True, logging_steps=every, save_steps=max(1, steps // 4), save_total_limit=2,
        dataloader_pin_memory=False, num_rejected=NUM_REJECTED, **METHODS[name],
    )  # fmt: skip
    model, tokenizer = tiny_lm()
    return LogoTrainer(
        model, settings, rows, processing_class=tokenizer,
        # Queries and keys decide what is looked at; adapting values as well costs perplexity and finds no more.
        peft_config=lora_config(rank=16, modules=("q_proj", "k_proj")),
        callbacks=[_Watch(name, every, watched, tokenizer)],
    )  # fmt: skip


def aligned(output: Path, name: str) -> nn.Module:
    """The model as a finished run has left it, its adapters folded into the weights."""
    model = PeftModel.from_pretrained(tiny_lm()[0], last_checkpoint(_folder(output, name)))
    return model.merge_and_unload().eval()


class _Watch(TrainerCallback):
    """A bar with the run's name; the held-out margin at the start and every so many steps, kept in the checkpoint."""

    def __init__(self, name: str, every: int, watched: list[dict], tokenizer):
        self.name, self.every = name, every
        collate, self.judge = PairCollator(tokenizer, num_rejected=NUM_REJECTED), make_objective("logo")
        self.batches = [as_packed(collate([row | {"number": k}])) for k, row in enumerate(watched)]

    def on_train_begin(self, args, state, control, model=None, **_):
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.name, unit="step")
        before = [record["seconds"] for record in state.log_history if "held_out_margin" in record]
        self.began = time.perf_counter() - (before[-1] if before else 0)
        if state.global_step == 0:
            self._note(state, model)

    def on_step_end(self, args, state, control, model=None, **_):
        self.bar.update()
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._note(state, model)

    def on_train_end(self, args, state, control, **_):
        self.bar.close()

    @torch.no_grad()
    def _note(self, state, model: nn.Module) -> None:
        rewards = [self.judge(model, batch)[1]["rewards/margins"].item() for batch in self.batches]
        margin = sum(rewards) / len(rewards) / self.judge.beta  # a reward is beta times a mean log-probability
        seconds = time.perf_counter() - self.began  # those of interrupted runs count as far as they were noted
        state.log_history.append({"step": state.global_step, "held_out_margin": margin, "seconds": seconds})


def _folder(output: Path, name: str) -> Path:
    return output / "training" / name.replace(" ", "_")
