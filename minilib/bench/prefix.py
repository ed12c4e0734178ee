"""One prompt for many answers, side by side with 1 + M full passes, in one run: does reading the prompt once pay?

    ratio(route) = median over rounds of  t(route) / t(1 + M passes)

where
    t              CPU seconds of one training step: hidden states, logits of the answer tokens, backward
    1 + M passes   the full sequences, prompt and answer, as one batch; also one by one

Methods: those two; the routes "mask" and "cache" of `answer_hidden`; and "cache, copied", which repeats the prompt's
cache 1 + M times and runs the answers as a batch. All must first agree with fp64 in loss and gradients. The model is a
random Llama: ratios depend on its width, because attention weighs more in a narrow model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilib.bench import correctness, harness, report, targets
from minilib.bench.device import named
from minilib.bench.step_models import random_llama
from minilib.longcontext import Packed, answer_hidden, pack_answers, synthesize_positions

BASE = "1 + M passes, one batch"
ONE_BY_ONE = "1 + M passes, one by one"
QUICK = {"prompt": 96, "answer": 8, "rejected": 2, "width": 64, "layers": 1, "rounds": 2}


def bench_prefix(
    prompt: int = 2048, answer: int = 128, rejected: int = 2, width: int = 256, layers: int = 2, rounds: int = 5,
    threads: int | None = None, quick: bool = False, output: Path = Path("runs/bench/prefix.json"),
) -> dict[str, Any]:  # fmt: skip
    """Time one training step on 1 + M answers behind one prompt; return the document written as JSON.

    Args:
        prompt: tokens of the prompt.
        answer: tokens of each answer.
        rejected: M, answers besides the chosen one.
        width: hidden size of the model, a multiple of 64.
        layers: its layers.
        rounds: timed calls of each method; one more warms it up.
        threads: threads to compute with; by default one for each usable core.
        quick: a tiny model and prompt, to see that everything runs; its figures judge nothing.
        output: JSON file to write; its folder is made.
    """
    asked = {"prompt": prompt, "answer": answer, "rejected": rejected, "width": width, "layers": layers}
    asked |= {"rounds": rounds, "threads": threads}
    settings = harness.settings_of({}, asked, QUICK if quick else None)
    harness.validate_at_least_one(settings, *asked)
    if settings["width"] % 64:
        raise ValueError(f"width is {settings['width']}: give a multiple of 64, such as 256.")
    return harness.run_apart("minilib.bench.prefix", settings, output)


def measure(settings: dict[str, Any], output: str | None = None) -> dict[str, Any]:
    """Check every method against fp64, time them in interleaved rounds, return settings, errors, ratios and samples."""
    document, pack = harness.opened("prefix", settings, named("cpu")), _pack(settings)
    document["error"], model = equality(settings, pack), _model(settings)
    steps = {name: lambda _, run=run: _step(model, run, pack) for name, run in METHODS.items()}
    harness.run_bench(document, steps, dict.fromkeys(METHODS, BASE), lambda number: lambda name: None)
    for name, sentence in document["skipped"].items():  # all are ours: one that breaks ends the run
        raise RuntimeError(f"{name}: {sentence}")
    each = {n: [r[n]["spent"] / r[ONE_BY_ONE]["spent"] for r in document["rounds"]] for n in METHODS}
    document["ratio_one_by_one"] = {name: harness.spread(ratios) for name, ratios in each.items()}
    claim = f"cache / {BASE}, time"
    document["bars"] = [targets.judged(claim, targets.PREFIX, document["ratio"]["cache"]["median"])]
    return harness.finish(document, output, report.prefix(document, report.plain))


def equality(settings: dict[str, Any], pack: Packed) -> dict[str, float]:
    """Largest relative error of a method's gradient, over all parameters, against separate passes in fp64."""
    judge = _step(_model(settings).double(), METHODS[ONE_BY_ONE], pack)
    errors = {}
    for name, run in METHODS.items():
        errors[name] = correctness.largest(_step(_model(settings), run, pack), judge)
        if errors[name] > 1e-4:
            raise RuntimeError(f"{name}: its gradients are off by {errors[name]:.1e}, so nothing was timed.")
    return errors


def _model(settings: dict[str, Any]):
    width = settings["width"]
    shape = (1024, width, 3 * width, settings["layers"], width // 32, width // 64, False)
    return random_llama(shape, 8 * settings["prompt"])


def _pack(settings: dict[str, Any]) -> Packed:
    generator = torch.Generator().manual_seed(0)
    prompt, answer, count = settings["prompt"], settings["answer"], 1 + settings["rejected"]
    positions = synthesize_positions([prompt // 2, prompt - prompt // 2], 8 * prompt, generator=generator)
    answers = torch.randint(1024, (count, answer), generator=generator)
    return pack_answers(torch.randint(1024, (prompt,), generator=generator), answers, positions)


def _step(model, run: Callable, pack: Packed) -> list[Tensor]:
    logits = model.lm_head(run(model, pack))
    loss = torch.nn.functional.cross_entropy(logits, pack.labels)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def _rows(pack: Packed) -> tuple[Tensor, Tensor, int]:
    """Ids and positions of the 1 + M full sequences, `(1 + M, P + n)`, and P; all answers have n tokens."""
    size = int((pack.segment_ids == 0).sum())
    split = [field[size:].view(pack.num_answers, -1) for field in (pack.input_ids, pack.position_ids)]
    whole = [pack.input_ids, pack.position_ids]
    return *(torch.cat([w[:size].expand(len(s), -1), s], 1) for w, s in zip(whole, split)), size


def _one_by_one(model, pack: Packed) -> Tensor:
    ids, positions, size = _rows(pack)
    each = (_full(model, i[None], p[None]) for i, p in zip(ids, positions))
    return torch.cat([found.last_hidden_state[0, size - 1 : -1] for found in each])


def _copied(model, pack: Packed) -> Tensor:
    ids, positions, size = _rows(pack)
    prompt = _full(model, ids[:1, :size], positions[:1, :size], use_cache=True)
    prompt.past_key_values.batch_repeat_interleave(len(ids))
    seen = {"past_key_values": prompt.past_key_values, "attention_mask": torch.ones_like(ids[:, :-1])}
    rest = _full(model, ids[:, size:-1], positions[:, size:-1], use_cache=True, **seen).last_hidden_state
    return torch.cat([prompt.last_hidden_state[:, -1:].expand(len(ids), -1, -1), rest], 1).flatten(0, 1)


def _full(model, ids: Tensor, positions: Tensor, **options):
    options = {"attention_mask": torch.ones_like(ids), "use_cache": False} | options
    return model.get_decoder()(input_ids=ids, position_ids=positions, **options)


METHODS = {
    BASE: lambda model, pack: answer_hidden(model, pack, "separate"),
    ONE_BY_ONE: _one_by_one,
    "mask": lambda model, pack: answer_hidden(model, pack, "mask"),
    "cache": lambda model, pack: answer_hidden(model, pack, "cache"),
    "cache, copied": _copied,
}
