"""python -m minilib tour: Inf-CL and LOGO end to end on this machine, in minutes, with pictures.

Nine stops, each a claim with its measurement; the first five are here, the others in `tour_logo`:

    wall      dense memory grows with b^2, tiled memory with b: predicted, then measured in fresh processes
    curves    dense and tiled train the same model to the same curve
    batches   recall against batch size at equal pairs seen, whatever comes out
    giant     training goes on at a batch whose matrices this machine could not hold
    found     what the model retrieves now
    pairs     a tiny language model answers from the right chunks of a long text and from wrong ones
    align     LOGO and SFT train on these answers from one start
    needles   what the model finds in long texts before and after, and what it keeps in short ones
    answers   held-out questions, answered side by side

Everything is written to the output folder: one PNG per figure, metrics.json and report.html. A tour that is
interrupted goes on where it stopped: finished stops are read from metrics.json, a training run from its checkpoint. A
tour that has ended starts anew.
"""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import psutil
import torch

from minilib import clip_loss
from minilib.common import process_peak, write_text
from minilib.data import glyphs_dataset
from minilib.evals import evaluate_retrieval
from minilib.models import TwoTowers
from minilib.models.loading import best_device
from minilib.models.towers import words_of
from minilib.teaching import memory, plots
from minilib.teaching.machine import machine_lines
from minilib.teaching.tour.report import save_figure, write_report
from minilib.trainers import ContrastiveTrainer, checkpoint

DIM, WIDTH = 64, 32
CURVE_LR = 2e-3
GIANT_LR = 1e-5  # the first steps of Adam move every weight by this much, however small its gradient
SIZES = {
    # pairs: drawings to train on; held_out: characters of the evaluation; peaks: batches whose memory is measured
    "full": {
        "pairs": 65_536, "held_out": 1_000, "peaks": (2_048, 4_096, 8_192), "curve_batch": 512, "curve_steps": 32,
        "batches": (32, 128, 512, 2_048), "seeds": (0, 1, 2), "micro": 2_048, "giant_steps": 3, "giant": None,
    },
    "small": {
        "pairs": 2_048, "held_out": 100, "peaks": (256, 512), "curve_batch": 128, "curve_steps": 4,
        "batches": (64, 256), "seeds": (0,), "micro": 256, "giant_steps": 1, "giant": 1_024,
    },
}  # fmt: skip


def tour(output: Path = Path("runs/tour"), size: str = "full") -> None:
    """Train dense, tiled and at a giant batch, then align by LOGO; write figures, metrics.json and report.html.

    Args:
        output: folder for everything that the tour writes.
        size: "full" takes some minutes on two cores; "small" runs the same stops in seconds, too few to learn much.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}: choose one of {', '.join(map(repr, SIZES))}.")
    output = Path(output)
    metrics = _unfinished(output, size)
    write_text(output / "metrics.json", json.dumps(metrics, indent=2))  # a place that cannot be written is told at once
    print("\n".join(machine_lines()))
    from minilib.teaching.tour import logo  # imports transformers, for which no other command shall wait

    first = {"wall": wall, "curves": curves, "batches": batches, "giant": giant, "found": found}
    second = {"pairs": logo.pairs, "align": logo.align, "needles": logo.needles, "answers": logo.answers}
    for name, stop in (first | second).items():
        if name not in metrics:
            print(f"\n{name}: {stop.__doc__.splitlines()[0]}", flush=True)
            metrics[name] = stop(output, (SIZES if name in first else logo.SIZES)[size], metrics)
            write_text(output / "metrics.json", json.dumps(metrics, indent=2))
    write_report(output, metrics)
    shutil.rmtree(output / "training", ignore_errors=True)  # a finished tour starts anew the next time
    write_text(output / "metrics.json", json.dumps({**metrics, "finished": True}, indent=2))
    print(f"\nOpen {output / 'report.html'}")


def wall(output: Path, size: dict, metrics: dict) -> dict:
    """Predict the memory of both losses, then measure it in fresh processes."""
    rows = []
    for batch in size["peaks"]:
        for backend in ("dense", "tiled"):
            predicted = memory.predict_bytes(batch, DIM, backend=backend)["total"]
            measured = memory.measure_loss_peak(batch, DIM, backend)
            rows.append({"backend": backend, "batch": batch, "predicted": predicted, "measured": measured})
    reach = [2**k for k in range(8, 21)]
    dense, tiled = ([memory.predict_bytes(b, DIM, backend=name)["total"] for b in reach] for name in ("dense", "tiled"))
    limit = psutil.virtual_memory().total
    save_figure(output, "memory_wall", plots.memory_wall(reach, dense, tiled, limit_bytes=limit))
    labels = [f"{row['backend']} {row['batch']:,}" for row in rows]
    bars = [[row[kind] for row in rows] for kind in ("predicted", "measured")]
    save_figure(output, "predicted_vs_measured", plots.predicted_vs_measured(labels, *bars))
    return {"rows": rows, "machine_bytes": limit, "largest_dense_batch": memory.largest_dense_batch(limit)}


def curves(output: Path, size: dict, metrics: dict) -> dict:
    """Train one model twice from one seed, dense and tiled: the curves lie on each other."""
    losses = {}
    for backend in ("dense", "tiled"):
        name, batch, steps = f"curve {backend}", size["curve_batch"], size["curve_steps"]
        trainer = _trainer(output, size, name, batch, steps, backend=backend, lr=CURVE_LR)
        losses[backend] = [record["loss"] for record in trainer.train()]
    difference = max(abs(a - b) for a, b in zip(*losses.values()))
    title = f"Dense and tiled: one curve (largest difference {difference:.0e})"
    save_figure(output, "loss_curves", plots.loss_curves(losses, title=title))
    return {"batch": size["curve_batch"], "losses": losses, "largest_difference": difference}


def batches(output: Path, size: dict, metrics: dict) -> dict:
    """Train at growing batch sizes on equal pairs: does recall rise with the batch?"""
    test = _pictures(size)[1]
    recall = {batch: [] for batch in size["batches"]}
    for seed in size["seeds"]:
        for batch in size["batches"]:
            steps = size["pairs"] // batch
            trainer = _trainer(output, size, f"batch {batch:,} seed {seed}", batch, steps, seed=seed)
            trainer.train()
            found = evaluate_retrieval(trainer.model, test, progress=False)
            recall[batch].append({way: {f"recall@{k}": v for k, v in ks.items()} for way, ks in found.items()})
    spread = {
        way.replace("_", " "): tuple(
            [float(reduce([run[way]["recall@1"] for run in recall[batch]])) for batch in recall]
            for reduce in (np.mean, np.min, np.max)
        )
        for way in ("image_to_text", "text_to_image")
    }
    mean_recall = dict(zip(recall, (float(mean) for mean in np.mean([means for means, _, _ in spread.values()], 0))))
    chance = 1 / size["held_out"]
    save_figure(output, "recall_vs_batch", plots.recall_vs_batch(list(recall), spread, chance=chance))
    return {
        "pairs_seen": size["pairs"],
        "seeds": list(size["seeds"]),
        "recall": recall,
        "mean_recall": mean_recall,
        "chance": chance,
    }


def giant(output: Path, size: dict, metrics: dict) -> dict:
    """Go on training at a batch whose four matrices this machine cannot hold."""
    batch = size["giant"] or giant_batch(metrics["wall"]["machine_bytes"])
    best = max(metrics["batches"]["mean_recall"].items(), key=lambda item: item[1])[0]
    model = _trained(output, size, f"batch {int(best):,} seed {size['seeds'][0]}")
    trainer = _trainer(output, size, f"giant {batch:,}", batch, size["giant_steps"], model=model, lr=GIANT_LR)
    records = trainer.train()
    asked, losses = _losses_by_batch(model, trainer.dataset, batch, size["micro"])
    title = f"One model, up to {batch:,} captions to choose from"
    save_figure(output, "giant_batch", plots.loss_vs_batch(asked, {"trained model": losses}, title=title))
    return {
        "batch": batch, "losses": [record["loss"] for record in records],
        "seconds": [record["seconds"] for record in records],
        "dense_bytes": memory.dense_matrix_bytes(batch), "process_peak_bytes": process_peak(),
        "recall": evaluate_retrieval(model, _pictures(size)[1], progress=False),
    }  # fmt: skip


def _losses_by_batch(model: TwoTowers, dataset, batch: int, micro: int) -> tuple[list[int], list[float]]:
    """The loss of one model on the first b pairs, for b from 64 to `batch`, each four times the last."""
    pieces = [dataset[list(range(start, min(start + micro, batch)))] for start in range(0, batch, micro)]
    with torch.no_grad():
        img, txt = (torch.cat(side) for side in zip(*[model(rows["image"], rows["caption"]) for rows in pieces]))
        asked = sorted({batch, *(4**k for k in range(3, 9) if 4**k < batch)})
        return asked, [clip_loss(img[:b], txt[:b], model.logit_scale.exp()).item() for b in asked]


def found(output: Path, size: dict, metrics: dict) -> dict:
    """Ask the trained model for the names of characters that it has never seen drawn."""
    model = _trained(output, size, f"giant {metrics['giant']['batch']:,}").eval()
    rows = _pictures(size)[1][:]
    with torch.no_grad():
        img, txt = (side.cpu() for side in model(rows["image"], rows["caption"]))  # (n, d) each
    scores = img @ txt.T  # (n, n), for the few pictures of the evaluation
    save_figure(output, "glyphs", plots.image_grid(rows["image"][:8], rows["caption"][:8]))
    save_figure(output, "similarities", plots.similarity_matrix(scores[:8, :8]))
    top = scores[0].topk(5)
    captions, places = [rows["caption"][k] for k in top.indices], top.indices.tolist()
    truth = places.index(0) if 0 in places else None
    save_figure(output, "retrieved", plots.retrieval_examples(rows["image"][0], captions, top.values.tolist(), truth))
    return {"candidates": len(scores), "captions": captions, "scores": top.values.tolist(), "truth": truth}


def giant_batch(machine_bytes: float) -> int:
    """The smallest multiple of 8,192, from 16,384 to 98,304, whose dense matrices exceed the machine's memory."""
    sizes = range(16_384, 98_305, 8_192)
    return next((batch for batch in sizes if memory.dense_matrix_bytes(batch) > machine_bytes), sizes[-1])


def learning_rate(batch: int) -> float:
    """Rates that did well for these towers on 10,240 glyphs, in the runs of `python -m minilib bench batches`."""
    return 1.6e-2 if batch <= 512 else 4e-3


def _trainer(
    output: Path, size: dict, name: str, batch: int, steps: int, *, seed=0, model=None, lr=None, backend="auto"
) -> ContrastiveTrainer:
    """A trainer on the tour's glyphs, from the weights of `seed` unless `model` is given; resumes by itself."""
    if model is None:
        torch.manual_seed(seed)
        model = _towers(size)
    return ContrastiveTrainer(
        model, _pictures(size, at_least=batch)[0], batch_size=batch, steps=steps, micro_batch_size=size["micro"],
        lr=lr or learning_rate(batch), warmup=min(20, steps // 5), seed=seed, backend=backend,
        output_dir=_folder(output, name), save_every=max(1, 2**15 // batch), progress=name,
    )  # fmt: skip


def _trained(output: Path, size: dict, name: str) -> TwoTowers:
    return checkpoint.load_weights(_folder(output, name) / "checkpoint.pt", _towers(size))


def _towers(size: dict) -> TwoTowers:
    """Towers that know the words of the training captions."""
    words = {word for caption in _pictures(size)[0]["caption"] for word in words_of(caption)}
    return TwoTowers(words, dim=DIM, width=WIDTH).to(best_device())


def _pictures(size: dict, at_least: int = 0):
    """Drawings of characters to train on, and characters that none of them shows, a drawing each."""
    held_out = _glyphs(size["held_out"], split="test", unique=True)
    return _glyphs(max(size["pairs"], at_least)), held_out


@functools.lru_cache(maxsize=3)
def _glyphs(count: int, **settings):
    return glyphs_dataset(count, seed=0, **settings)


def _folder(output: Path, name: str) -> Path:
    return output / "training" / name.replace(" ", "_").replace(",", "")


def _unfinished(output: Path, size: str) -> dict:
    """The metrics of an interrupted tour of this size, to go on with; a fresh record otherwise."""
    path = output / "metrics.json"
    try:
        metrics = dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: delete it to start the tour anew.") from error
    if metrics.get("size") == size and not metrics.get("finished"):
        return metrics
    shutil.rmtree(output / "training", ignore_errors=True)
    return {"size": size, "dim": DIM, "machine": machine_lines()}
