"""One arm under one seed: train from the real model, measure, and leave a record; stopped at any moment, it goes on.

    OUTPUT/runs/ARM-SEED/      checkpoints of every ten steps, the adapter, the parts of the scores that are done
    OUTPUT/records/ARM-SEED.json

A seed decides the order of the pairs, positions, LoRA's start, and the texts of the scores. All arms of a seed take the
same pairs and texts. `quick` swaps in a random model of two layers and answers that are written by rule.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from minilib.bench import device
from minilib.bench.real_alignment import people, recipe, scores
from minilib.bench.real_alignment.arms import Arm
from minilib.common import process_peak, write_text
from minilib.teaching.repro import quiet

EVALUATION = 1_000  # added to a seed for the texts of the scores


class OutOfTimeError(Exception):
    """The budget is spent; what is done so far is saved."""


def pairs_file(output: Path) -> Path:
    """The campaign's own pairs, or where it has none those of the folder above, if there are any."""
    own, above = output / "pairs.jsonl", output.parent / "pairs.jsonl"
    return above if above.exists() and not own.exists() else own


@quiet()
def make_pairs(model_name: str, settings: dict, wanted: int, path: Path, deadline: float | None) -> dict[str, Any]:
    """Write pairs until there are so many, or find them there; returns what their report counts."""
    model, tokenizer = loaded(model_name, settings)
    answer = _by_rule() if settings["quick"] else asking(model, tokenizer)
    found = recipe.pairs(answer, tokenizer, settings, path)
    made = 0
    for made, _ in enumerate(found, 1):
        if made >= wanted:
            break
        check_time(deadline)
    return {"pairs": made, "report": found.report.to_dict()}


@quiet()
def run(arm: Arm, seed: int, model_name: str, settings: dict, output: Path, deadline: float | None) -> dict[str, Any]:
    """The record of this arm and seed. Raises OutOfTimeError at the deadline."""
    folder = output / "runs" / arm.under(seed)
    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = loaded(model_name, settings)
    record: dict[str, Any] = {"arm": arm.name, "seed": seed, "model": model_name, "settings": settings}
    record["machine"] = device.describe()
    if arm.loss is not None:

        def rows() -> list[dict[str, Any]]:
            return training_rows(pairs_file(output), tokenizer, round(arm.pairs * settings["pairs"]))

        model, noted = train(arm, seed, settings, folder, model, tokenizer, rows, deadline)
        record |= noted
    asked = settings | {"texts": texts_of(seed, settings)}
    found = scores.measured(
        model, tokenizer, seed + EVALUATION, asked, folder / "scores.json", lambda: check_time(deadline)
    )
    record["scores"] = {name: part["found"] for name, part in found.items()}
    record["scores_cpu_seconds"] = sum(part["cpu_seconds"] for part in found.values())
    return record | {"peak_memory": process_peak()}


def texts_of(seed: int, settings: dict[str, Any]) -> dict[str, int]:
    """{tokens: texts} that this seed is asked about; those beyond the window under one seed alone."""
    beyond = seed == settings["beyond_seed"]
    return {n: texts for n, texts in settings["texts"].items() if beyond or int(n) <= settings["window"]}


def train(
    arm: Arm, seed: int, settings: dict[str, Any], folder: Path, model, tokenizer, rows: Callable[[], list[dict]],
    deadline: float | None,
):  # fmt: skip
    """The trained model with its adapter merged; `costs`, `curve` and `machine` of training. `rows` gives the pairs."""
    from transformers import TrainerCallback

    from minilib.trainers.trainer_utils import last_checkpoint, remove_unfinished_checkpoints

    done = folder / "trained.json"
    if not done.exists():
        trainer = make_trainer(arm, seed, settings, folder, model, tokenizer, rows())
        kept = folder / "spent.json"
        before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else 0.0
        began = time.process_time()

        class Watch(TrainerCallback):
            def on_save(self, *_, **__):  # a run that is killed later goes on from here
                write_text(kept, json.dumps(before + time.process_time() - began))

            def on_step_end(self, args, state, control, **_):
                if deadline is not None and time.time() > deadline and state.global_step < state.max_steps:
                    control.should_save = control.should_training_stop = True

        trainer.add_callback(Watch())
        remove_unfinished_checkpoints(folder)
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        spent = before + time.process_time() - began
        if trainer.state.global_step < trainer.state.max_steps:
            raise OutOfTimeError
        trainer.save_model(str(folder / "adapter"))
        costs = {"cpu_seconds": spent, "tokens": trainer.state.num_input_tokens_seen, "peak_memory": process_peak()}
        curve = [entry for entry in trainer.state.log_history if "loss" in entry]
        write_text(done, json.dumps({"costs": costs, "curve": curve, "machine": device.describe()}) + "\n")
        trained = trainer.model
    else:
        from peft import PeftModel

        trained = PeftModel.from_pretrained(model, folder / "adapter")
    return trained.merge_and_unload().eval(), json.loads(done.read_text(encoding="utf-8"))


def training_rows(path: Path, tokenizer, count: int) -> list[dict[str, Any]]:
    """The first `count` pairs of the file, each with the short prompt of its critical chunks."""
    make, found = recipe.prompt_maker(tokenizer), []
    with open(path, encoding="utf-8") as file:
        for line in islice(file, count):
            pair = json.loads(line)
            critical = [chunk for chunk, score in zip(pair["chunks"], pair["scores"]) if score > 0]
            found.append(pair | {"short_prompt": make(critical, pair["question"])})
    if len(found) < count:
        raise ValueError(f"{path} holds {len(found)} pairs and {count} are wanted: let the pairs be made first.")
    return found


def make_trainer(arm: Arm, seed: int, settings, folder: Path, model, tokenizer, rows):
    """The trainer of an arm: one epoch over its rows, LoRA on all of attention."""
    from transformers import PrinterCallback

    from minilib.bench.real_alignment.neighbours import neighbour_trainer
    from minilib.trainers import LogoConfig, LogoTrainer, lora_config

    steps = max(1, len(rows) // settings["accumulate"])
    args = LogoConfig(
        str(folder), max_steps=steps, per_device_train_batch_size=1, learning_rate=settings["lr"],
        gradient_accumulation_steps=settings["accumulate"], lr_scheduler_type="cosine", weight_decay=0.0,
        warmup_steps=max(1, steps // 10), logging_steps=1, save_steps=settings["save_every"], save_total_limit=2,
        report_to=[], disable_tqdm=True, seed=seed, use_cpu=True, loss_type=arm.loss,
        target_length=settings["target"] if arm.target else None, **arm.options,
    )  # fmt: skip
    more = {"processing_class": tokenizer, "peft_config": lora_config(rank=settings["rank"], alpha=settings["alpha"])}
    if arm.neighbour:
        trainer = neighbour_trainer(arm.neighbour, model, args, rows, **more)
    else:
        trainer = LogoTrainer(model, args, rows, **more)
    trainer.remove_callback(PrinterCallback)
    return trainer


def check_time(deadline: float | None) -> None:
    if deadline is not None and time.time() > deadline:
        raise OutOfTimeError


def loaded(name: str, settings: dict[str, Any]):
    """Model and tokenizer; for a quick look a random model, its tokenizer that of the tiny one in a chat template."""
    from minilib.models.loading import load_language_model

    if not settings["quick"]:
        found = load_language_model(name)
        return found.model, found.tokenizer
    import torch

    from minilib.models.tiny_lm import new_model, tiny_lm

    torch.manual_seed(0)
    tokenizer = tiny_lm()[1]
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return new_model(len(tokenizer), dim=16, layers=2, heads=2, groups=1).eval(), tokenizer


def asking(model, tokenizer, temperature: float = 0.0) -> Callable[[list[str]], list[str]]:
    """A function from prompts to the model's answers, greedy unless there is a temperature."""
    from minilib.models.generation import make_answer_fn

    return make_answer_fn(model, tokenizer, max_new_tokens=recipe.ANSWER, temperature=temperature, batch_tokens=8_192)


def _by_rule() -> Callable[[list[str]], list[str]]:
    """Answers of nobody: what the last text in a prompt says of the asked person, as far as it does."""

    def answer(prompts: list[str]) -> list[str]:
        told = []
        for number, prompt in enumerate(prompts):
            name = re.findall(r"In one sentence, what does (\w+ \w+) work as", prompt)[-1]
            found = {}
            for kind, tell in people.TELLS.items():
                if said := re.search(tell.format(name, r"(\w+)"), prompt):
                    found[kind] = said[1]
            told.append(people.sentence(name, found) if len(found) > 1 else f"{name} works as number {number}.")
        return told

    return answer
