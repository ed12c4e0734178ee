"""python -m minilib clip and eval: train two towers on your own pairs, and measure what they retrieve.

`torchrun --nproc-per-node 4 -m minilib clip` takes the same flags and trains the same model on four ranks, over NCCL
where there are GPUs, else over gloo.
"""

import json
from pathlib import Path

import torch
from tqdm.auto import tqdm

from minilib.common import best_device
from minilib.data import digits_dataset, load_pairs, scenes_dataset
from minilib.distributed import ranks
from minilib.evals import evaluate_retrieval
from minilib.models import TwoTowers
from minilib.trainers import ContrastiveTrainer, checkpoint


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
    with ranks.launched(timeout) as rank:
        dataset = _pairs(data, pairs, seed=0)
        torch.manual_seed(seed)
        model = TwoTowers(_vocabulary(data, dataset, progress=rank == 0), dim=dim).to(best_device())
        trainer = ContrastiveTrainer(
            model, dataset, batch_size=batch_size, micro_batch_size=micro_batch_size, steps=steps, loss=loss,
            backend=backend, lr=lr, warmup=warmup, frozen=frozen, seed=seed, output_dir=output, save_every=save_every,
        )  # fmt: skip
        if rank == 0:
            print(ranks.who_trains(trainer.ranks, "the ring over " + str(ranks.comm_backend())))
        records = trainer.train()
    if rank == 0:
        (output / "model.json").write_text(json.dumps({"vocabulary": model.vocabulary, "dim": dim}))
        (output / "records.json").write_text(json.dumps(records, indent=1))
        print(_summary(records, batch_size))


def evaluate(data: str = "scenes", run: Path = Path("runs/clip"), pairs: int = 1_000, seed: int = 1) -> None:
    """Print recall at 1, 5 and 10 of a trained model, both ways, and write it to evaluation.json in the run's folder.

    Args:
        data: as in `clip`; made pairs come from another seed than those of the training.
        run: the output folder of `clip`.
        pairs: how many scenes or digit strips to make.
        seed: of the made pairs.
    """
    if not (run / "model.json").exists():
        raise ValueError(f"run {run} holds no trained model: run `python -m minilib clip --output {run}` first.")
    model = TwoTowers(**json.loads((run / "model.json").read_text())).to(best_device())
    checkpoint.load_weights(run / "checkpoint.pt", model)
    recall = evaluate_retrieval(model, _pairs(data, pairs, seed=seed, split="test"))
    for way, values in recall.items():
        print(f"{way.replace('_', ' '):13s}", "  ".join(f"recall@{k} {value:.1%}" for k, value in values.items()))
    (run / "evaluation.json").write_text(json.dumps(recall, indent=1))


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
