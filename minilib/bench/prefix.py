"""One prompt for many answers, side by side with 1 + M full passes, in one run: does reading the prompt once pay?

    ratio(route) = median over rounds of  t(route) / t(1 + M passes)

where
    t              CPU seconds of one training step: hidden states, logits of the answer tokens, backward
    1 + M passes   the full sequences, prompt and answer, as one batch; also one by one

Methods: those two; the routes "mask" and "cache" of `answer_hidden`; and "cache, copied", which repeats the prompt's
cache 1 + M times and runs the answers as a batch. All of them must first agree with fp64 in loss and gradients.
Positions are synthesised. The model is a random Llama, small enough for a laptop: ratios depend on its width, because
attention weighs more in a narrow model.

`bench_prefix` measures in a fresh process, in the environment of `harness.quiet_environment`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from minilib.bench import harness
from minilib.longcontext import Packed, answer_hidden, pack_answers, synthesize_positions

BASE = "1 + M passes, one batch"
ONE_BY_ONE = "1 + M passes, one by one"
BAR = 0.50
QUICK = {"prompt": 96, "answer": 8, "rejected": 2, "width": 64, "layers": 1, "rounds": 2}


def bench_prefix(
    prompt: int = 2048,
    answer: int = 128,
    rejected: int = 2,
    width: int = 256,
    layers: int = 2,
    rounds: int = 5,
    threads: int | None = None,
    quick: bool = False,
    output: Path = Path("runs/bench/prefix.json"),
) -> dict[str, Any]:
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
    settings = {"prompt": prompt, "answer": answer, "rejected": rejected, "width": width, "layers": layers}
    settings |= {"rounds": rounds, "threads": harness.usable_cores() if threads is None else threads}
    settings |= QUICK if quick else {}
    harness.refuse_below_one(settings)
    if settings["width"] % 64:
        raise ValueError(f"width is {settings['width']}: give a multiple of 64, such as 256.")
    return harness.run_apart("minilib.bench.prefix", settings, output)


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Check every method against fp64, time them in interleaved rounds, return settings, errors, ratios and samples."""
    torch.set_num_threads(settings["threads"])
    pack = _pack(settings)
    errors = equality(settings, pack)
    model = _model(settings, torch.float32)
    steps = {name: lambda _, run=run: _step(model, run, pack) for name, run in METHODS.items()}
    with tqdm(total=len(steps) * (settings["rounds"] + 1), desc="prefix", unit="call", leave=False) as bar:
        _, failed = harness.warm_up(steps, lambda name: None, bar)
        if failed:
            raise RuntimeError(f"{next(iter(failed))}: {next(iter(failed.values()))}")
        done = [harness.one_round(steps, lambda name: None, k, bar) for k in range(1, settings["rounds"] + 1)]
    return {
        "benchmark": "prefix",
        "settings": settings,
        "error": errors,
        "cpu": {name: harness.spread([r.samples[name].spent for r in done]) for name in METHODS},
        "ratio": {name: harness.spread(harness.ratios(done, name, BASE)) for name in METHODS},
        "ratio_one_by_one": {name: harness.spread(harness.ratios(done, name, ONE_BY_ONE)) for name in METHODS},
        "rounds": [{name: sample._asdict() for name, sample in r.samples.items()} for r in done],
        "bar": {"at_most": BAR, "met": harness.spread(harness.ratios(done, "cache", BASE))["median"] <= BAR},
    }


def equality(settings: dict[str, Any], pack: Packed) -> dict[str, float]:
    """Largest relative error of a method's gradient, over all parameters, against separate passes in fp64."""
    judge = _step(_model(settings, torch.float64), METHODS[ONE_BY_ONE], pack)
    errors = {}
    for name, run in METHODS.items():
        grads = _step(_model(settings, torch.float32), run, pack)
        errors[name] = max(((g - j).norm() / j.norm()).item() for g, j in zip(grads, judge, strict=True))
        if errors[name] > 1e-4:
            raise RuntimeError(f"{name}: its gradients are off by {errors[name]:.1e}, so nothing was timed.")
    return errors


def table(document: dict[str, Any]) -> str:
    """The ratios as plain text."""
    rows = [f"{'method':28}{'CPU s':>8}{'ratio':>8}{'to one by one':>15}{'error':>10}"]
    for name, ratio in document["ratio"].items():
        alone, error = document["ratio_one_by_one"][name]["median"], document["error"][name]
        rows.append(f"{name:28}{document['cpu'][name]['median']:8.3f}{ratio['median']:8.2f}{alone:15.2f}{error:10.0e}")
    return "\n".join([*rows, f"bar: cache at most {BAR:.2f}, {'met' if document['bar']['met'] else 'missed'}"])


def _model(settings: dict[str, Any], dtype: torch.dtype):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=settings["width"],
        intermediate_size=3 * settings["width"],
        num_hidden_layers=settings["layers"],
        num_attention_heads=settings["width"] // 32,
        num_key_value_heads=settings["width"] // 64,
        max_position_embeddings=8 * settings["prompt"],
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype)


def _pack(settings: dict[str, Any]) -> Packed:
    generator = torch.Generator().manual_seed(0)
    prompt, answer, count = settings["prompt"], settings["answer"], 1 + settings["rejected"]
    positions = synthesize_positions([prompt // 2, prompt - prompt // 2], 8 * prompt, generator=generator)
    answers = torch.randint(1024, (count, answer), generator=generator)
    return pack_answers(torch.randint(1024, (prompt,), generator=generator), answers, positions)


def _step(model, run: Callable, pack: Packed) -> list[Tensor]:
    logits = model.lm_head(run(model, pack))
    loss = torch.nn.functional.cross_entropy(logits, pack.labels)
    return [grad.double() for grad in torch.autograd.grad(loss, list(model.parameters()))]


def _rows(pack: Packed) -> tuple[Tensor, Tensor, int]:
    """Ids and positions of the 1 + M full sequences, `(1 + M, P + n)`, and P; all answers have n tokens."""
    size = int((pack.segment_ids == 0).sum())
    split = [field[size:].view(pack.num_answers, -1) for field in (pack.input_ids, pack.position_ids)]
    whole = [pack.input_ids, pack.position_ids]
    return *(torch.cat([w[:size].expand(len(s), -1), s], 1) for w, s in zip(whole, split)), size


def _one_by_one(model, pack: Packed) -> Tensor:
    ids, positions, size = _rows(pack)
    return torch.cat([_full(model, i[None], p[None])[0, size - 1 : -1] for i, p in zip(ids, positions)])


def _copied(model, pack: Packed) -> Tensor:
    ids, positions, size = _rows(pack)
    prompt = _full(model, ids[:1, :size], positions[:1, :size], whole=True, use_cache=True)
    prompt.past_key_values.batch_repeat_interleave(len(ids))
    decoder, everyone = model.get_decoder(), torch.ones_like(ids[:, :-1])
    rest = decoder(
        input_ids=ids[:, size:-1],
        position_ids=positions[:, size:-1],
        attention_mask=everyone,
        past_key_values=prompt.past_key_values,
        use_cache=True,
    ).last_hidden_state
    return torch.cat([prompt.last_hidden_state[:, -1:].expand(len(ids), -1, -1), rest], 1).flatten(0, 1)


def _full(model, ids: Tensor, positions: Tensor, whole: bool = False, use_cache: bool = False):
    mask = torch.ones_like(ids)
    out = model.get_decoder()(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=use_cache)
    return out if whole else out.last_hidden_state


METHODS = {
    BASE: lambda model, pack: answer_hidden(model, pack, "separate"),
    ONE_BY_ONE: _one_by_one,
    "mask": lambda model, pack: answer_hidden(model, pack, "mask"),
    "cache": lambda model, pack: answer_hidden(model, pack, "cache"),
    "cache, copied": _copied,
}
