"""python -m minilib clip and eval: train two towers on your own pairs, and measure what they retrieve.

`torchrun --nproc-per-node 4 -m minilib clip` takes the same flags and trains the same model on four ranks, over NCCL
where there are GPUs, else over gloo.
"""

import json
from pathlib import Path

import psutil
import torch
from tqdm.auto import tqdm

from minilib.cli import faults, run_folder
from minilib.common import best_device
from minilib.data import digits_dataset, load_pairs, scenes_dataset
from minilib.distributed import ranks
from minilib.evals import evaluate_retrieval
from minilib.losses.validation import check_numbers
from minilib.models import TwoTowers
from minilib.trainers import ContrastiveTrainer, checkpoint

NOT_COMPARED = ("output", "save_every", "timeout", "backend")  # what may change when a run goes on


def clip(
    data: str = "scenes",
    output: Path = Path("runs/clip"),
    pairs: int = 16_384,
    batch_size: int = 1_024,
    micro_batch_size: int = 1_024,
    steps: int = 64,
    loss: str = "clip",
    backend: str = "auto",
    lr: float = 2e-3,
    warmup: int = 10,
    dim: int = 64,
    frozen: str | None = None,
    seed: int = 0,
    save_every: int = 10,
    timeout: float = 600.0,
) -> None:
    """Train small image and text towers with a contrastive loss; the same command goes on after an interrupt.

    Started by torchrun, all ranks share each batch; rank 0 writes and prints.

    Args:
        data: "scenes" (rendered), "digits" (handwriting), or the path of your own pairs: a folder of images with
            metadata.jsonl, or a JSON Lines, Parquet or Arrow file with the columns image and caption.
        output: folder of checkpoint.pt, model.json and records.json.
        pairs: how many scenes or digit strips to make.
        batch_size: pairs compared with each other in one step, of all ranks together.
        micro_batch_size: pairs the encoders of a rank see at a time; their memory depends on this alone.
        steps: optimizer steps.
        loss: "clip" (InfoNCE) or "siglip" (pairwise sigmoid).
        backend: "auto", "dense" (one process only), "tiled" or "fused".
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        dim: width of the features.
        frozen: "image" or "text" keeps that tower as it is.
        seed: weights, data order and random draws.
        save_every: steps between checkpoints.
        timeout: seconds after which a rank that does not answer counts as lost.
    """
    given = dict(locals())
    _check(pairs, dim, seed, data)
    with run_folder.opened(output), ranks.launched(timeout) as rank:
        compared = {name: value for name, value in given.items() if name not in NOT_COMPARED}
        run_folder.begin(output, compared, "clip", given)
        dataset = _pairs(data, pairs, seed=0)
        torch.manual_seed(seed)
        model = TwoTowers(_vocabulary(data, dataset, progress=rank == 0), dim=dim).to(best_device())
        trainer = ContrastiveTrainer(
            model, dataset, batch_size=batch_size, micro_batch_size=micro_batch_size, steps=steps, loss=loss,
            backend=backend, lr=lr, warmup=warmup, frozen=frozen, seed=seed, output_dir=output, save_every=save_every,
            callbacks=[stop_when_asked],
        )  # fmt: skip
        with faults.training():
            records = trainer.train()
    if rank == 0:
        (output / "model.json").write_text(json.dumps({"vocabulary": model.vocabulary, "dim": dim}))
        (output / "records.json").write_text(json.dumps(records, indent=1))
        print(_summary(records, batch_size))


def stop_when_asked(trainer: ContrastiveTrainer, record: dict) -> None:
    """After a step: where a signal has come to any rank, save and end the command."""
    if ranks.any_rank(trainer.group, faults.asked() is not None, trainer.model.logit_scale.device):
        trainer.save()
        step, steps = record["step"] + 1, trainer.config.steps
        faults.stop(f"step {step} of {steps} is saved, {run_folder.go_on(trainer.path.parent, 'clip')}")


def evaluate(data: str = "scenes", run: Path = Path("runs/clip"), pairs: int = 1_000, seed: int = 1) -> None:
    """Print recall at 1, 5 and 10 of a trained model, both ways, and write it to evaluation.json in the run's folder.

    Args:
        data: as in `clip`; made pairs come from another seed than those of the training.
        run: the output folder of `clip`.
        pairs: how many scenes or digit strips to make.
        seed: of the made pairs.
    """
    check_numbers({"pairs": pairs, "seed": seed}, counts=("pairs",), least={"seed": 0})
    if not (run / "model.json").exists():
        raise ValueError(f"run {run} holds no trained model: run `python -m minilib clip --output {run}` first.")
    damaged = f"{run / 'model.json'} is damaged"
    try:
        shape = run_folder.read_object(run / "model.json", damaged)
        model = TwoTowers(shape["vocabulary"], dim=shape["dim"]).to(best_device())
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{damaged}: delete it, and {run_folder.go_on(run, 'clip')}.") from error
    checkpoint.load_weights(run / "checkpoint.pt", model)
    recall = evaluate_retrieval(model, _pairs(data, pairs, seed=seed, split="test"))
    for way, values in recall.items():
        print(f"{way.replace('_', ' '):13s}", "  ".join(f"recall@{k} {value:.1%}" for k, value in values.items()))
    (run / "evaluation.json").write_text(json.dumps(recall, indent=1))


def _check(pairs: int, dim: int, seed: int, data: str) -> None:
    """ValueError for settings that would be found wrong only after the data have been made or read."""
    check_numbers({"pairs": pairs, "dim": dim, "seed": seed}, counts=("pairs", "dim"), least={"seed": 0})
    if not data.strip():
        raise ValueError("data is empty: give 'scenes', 'digits' or the path of your own pairs.")
    made = pairs * 3 * 32 * 32 if data in ("scenes", "digits") else 0
    for name, value, size in (("pairs", pairs, made), ("dim", dim, dim * 2_500 * 16)):  # weights, gradient, AdamW
        if size > psutil.virtual_memory().available:
            raise ValueError(
                f"{name} is {value:,}, which takes {size / 1e9:,.1f} GB and more than is free: give fewer."
            )


def _pairs(data: str, pairs: int, *, seed: int, split: str = "train"):
    if data == "scenes":
        return scenes_dataset(pairs, seed=seed)
    if data == "digits":
        return digits_dataset(pairs, seed=seed, split=split)
    return load_pairs(data)


def _summary(records: list[dict], batch_size: int) -> str:
    losses = f"loss {records[0]['loss']:.3f} -> {records[-1]['loss']:.3f}"
    return f"{losses} in {len(records)} steps of {batch_size:,} pairs"


def _vocabulary(data: str, dataset, *, progress: bool) -> list[str] | None:
    """Every word of your own captions; None for the built-in data, whose words the model knows."""
    if data in ("scenes", "digits"):
        return None
    words = set()
    for start in tqdm(range(0, len(dataset), 1_000), desc="words", disable=not progress):
        words.update(word for caption in dataset[start : start + 1_000]["caption"] for word in caption.lower().split())
    return sorted(words)
