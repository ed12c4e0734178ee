"""One arm under one seed, in a process of its own: train from the tiny model, then measure what came out.

A seed decides the pairs and their order, the draws of positions, LoRA's start, and the haystacks of the scores. Pairs
have eight rejected answers each, of which an arm takes the first M; scores use haystacks of other seeds. Measured:
accuracy by depth and length for single details (the needle map), accuracy and recall for two details by length, the
curve of depths at three windows, perplexity by window, and what must not be lost in the window. Costs: tokens read in
training, CPU seconds, and the memory that training added to the process.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from minilib.bench.ablation.arms import Arm, trainer_options
from minilib.models.tiny_lm import WINDOW, tiny_lm
from minilib.preferences.haystack_pairs import at_full_length, first_pairs, haystack_pairs, long_questions
from minilib.teaching.repro import quiet

DISTRACTORS = 8  # facts besides the asked one in a haystack of the scores
EVALUATION = 1_000  # added to a seed for the haystacks of the scores, which no training sees


@quiet()
def run(arm: Arm, seed: int, settings: dict[str, Any], pairs_path: Path) -> dict[str, Any]:
    """The record of this arm and seed: settings, costs, training curve, scores."""
    model, tokenizer = tiny_lm()
    record = {"arm": arm.name, "group": arm.group, "seed": seed, "settings": settings}
    if arm.loss is not None:
        pairs = _pairs_of(arm, seed, settings, pairs_path, model, tokenizer)
        model, record["costs"], record["curve"] = trained(arm, seed, settings, pairs, model, tokenizer)
    elif "rope" in arm.options:
        model = _stretched(model, arm.options["rope"], settings["target"])
    return record | {"scores": scores(model, tokenizer, seed + EVALUATION, settings)}


@quiet()
def make_pairs(seed: int, settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """Write the pairs of a seed, or find them there; returns what their report counts."""
    pairs = _pairs(*tiny_lm(), seed, settings, path)
    pairs.run()
    return {"seed": seed, "counts": pairs.report.to_dict(), "text": str(pairs.report)}


def scores(model, tokenizer, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything that is measured of a model, as plain numbers."""
    from minilib.evals.longcontext import kind_scores, lost_in_the_middle, needle_map, retention
    from minilib.evals.perplexity import perplexity_by_position

    samples = settings["samples"]
    shared = {"distractors": DISTRACTORS, "seed": seed}
    needles = needle_map(model, tokenizer, lengths=settings["lengths"], samples=samples // 5, **shared)
    double = {n: kind_scores(model, tokenizer, kind="multi", length=n, samples=samples, **shared)
              for n in settings["multi_lengths"]}  # fmt: skip
    middle = lost_in_the_middle(model, tokenizer, length=3 * WINDOW - 32, samples=samples // 4, **shared)
    text = perplexity_by_position(model, tokenizer, length=4 * WINDOW, bucket=WINDOW, seed=seed)
    kept = retention(model, tokenizer, window=WINDOW, samples=2 * samples, seed=seed)
    return {
        "needles": needles.accuracy.tolist(), "lengths": list(needles.lengths), "depths": list(needles.depths),
        "single": dict(zip(map(str, needles.lengths), needles.accuracy.mean(0).tolist())),
        "multi": {str(n): score["accuracy"] for n, score in double.items()},
        "multi_recall": {str(n): score["recall"] for n, score in double.items()},
        "middle": {"depths": list(middle.depths), "accuracy": middle.accuracy},
        "perplexity": {str(first): value for first, value in text.items()}, "retention": kept,
    }  # fmt: skip


def _pairs(model, tokenizer, seed: int, settings: dict[str, Any], path: Path):
    # Eight different wrong answers take some drawing.
    drawn = {"num_rejected": 8, "temperature": 1.0, "tries": 16, "distractors": 16, "rows": settings["rows"]}
    return haystack_pairs(model, tokenizer, seed=seed, path=path, progress=False, **drawn)


def _pairs_of(arm: Arm, seed: int, settings: dict[str, Any], path: Path, model, tokenizer) -> list[dict]:
    pairs = first_pairs(_pairs(model, tokenizer, seed, settings, path), settings["pairs"])
    if arm.full_length:
        pairs = at_full_length(pairs, long_questions(settings["rows"], tokenizer, distractors=16, seed=seed))
    return pairs


def trained(arm: Arm, seed: int, settings: dict[str, Any], pairs: list[dict], model, tokenizer):
    """The model after training on these pairs, what that cost, and the curve."""
    from minilib.common import process_peak

    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(folder, arm, seed, settings, model, tokenizer, pairs)
        before, began = process_peak(), time.process_time()
        trainer.train()
        costs = {"cpu_seconds": time.process_time() - began, "added_memory": process_peak() - before}
    costs |= {"steps": trainer.state.max_steps, "tokens": trainer.state.num_input_tokens_seen}
    costs["mean_prompt"] = statistics.mean(len(tokenizer.encode(pair["prompt"])) for pair in pairs)
    curve = [point for point in trainer.state.log_history if "loss" in point]
    return trainer.model.merge_and_unload().eval(), costs, curve


def _trainer(folder: str, arm: Arm, seed: int, settings: dict[str, Any], model, tokenizer, pairs):
    from transformers import PrinterCallback

    from minilib.trainers import LogoConfig, LogoTrainer, lora_config

    steps, rank = max(1, round(arm.steps * settings["steps"])), settings["rank"]
    args = LogoConfig(
        folder, max_steps=steps, per_device_train_batch_size=settings["batch"], learning_rate=settings["lr"],
        lr_scheduler_type="cosine", warmup_steps=max(1, steps // 20), weight_decay=0.0, max_grad_norm=arm.clip,
        logging_steps=max(1, steps // 20), save_strategy="no", report_to=[], disable_tqdm=True, seed=seed,
        use_cpu=True, **trainer_options(arm, settings["target"]),
    )  # fmt: skip
    adapters = lora_config(rank=rank, alpha=rank, modules=arm.modules or settings["modules"])
    trainer = LogoTrainer(model, args, pairs, processing_class=tokenizer, peft_config=adapters)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _stretched(model, method: str, target: int):  # the same weights under stretched rotary angles
    from transformers import LlamaForCausalLM

    from minilib.longcontext import stretch_config

    stretched = LlamaForCausalLM(stretch_config(model.config, method, target))
    stretched.load_state_dict(model.state_dict())
    return stretched.eval()
