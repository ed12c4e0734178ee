"""ContrastiveTrainer: a bare training loop for two towers, at any batch size.

One step takes the gradient of the loss over the whole batch (`grad_cache`), whatever fits into memory at once, and one
optimizer step. What happens in step k depends on nothing but the weights, the optimizer's state, the seed and k, so
that a run that was killed and resumed ends with the same bits as one that was not.

    logit scale      s = exp(min(t, ln 100)), t learned, as CLIP clamps it; without limit for the sigmoid loss
    n ranks          rank p encodes part p of the batch, the ring compares it with all others, gradients are averaged

On several ranks (`torchrun`, or any group) every rank has the loss and the weights of one process, up to rounding.
Source: Inf-CL, section 4.1 (its set-up). Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from minilib.distributed import ranks
from minilib.losses import clip_loss, siglip_loss
from minilib.losses.validation import check_choice, check_numbers, resolve_backend
from minilib.trainers import checkpoint
from minilib.trainers.grad_cache import cached_backward
from minilib.trainers.trainer_utils import DivergedError, contents, exploded, not_finite

LARGEST_LOG_SCALE = math.log(100)
WEIGHT_DECAY = 0.01  # of matrices; biases, norms and the scale have none


@dataclass
class ContrastiveConfig:
    """The settings of one training, all plain values.

    batch_size: pairs that are compared with each other in one step, of all ranks together.
    steps: steps of the whole run, from which the learning rate is scheduled.
    micro_batch_size: pairs that the encoders of a rank see at a time; their memory depends on this alone.
    loss, backend: "clip" or "siglip"; as in `clip_loss`.
    lr, warmup: peak learning rate of AdamW, and the steps until it is reached.
    frozen: "image" or "text" keeps that tower as it is (its gradient work is skipped), None trains both.
    seed: data order and random draws.
    output_dir, save_every: where `checkpoint.pt` is kept, on a disk that all ranks see (None: nowhere), and the
    steps between checkpoints.
    progress: show a tqdm bar, on rank 0; a text stands before the bar.
    """

    batch_size: int
    steps: int
    micro_batch_size: int = 512
    loss: str = "clip"
    backend: str = "auto"
    lr: float = 1e-3
    warmup: int = 0
    frozen: str | None = None
    seed: int = 0
    output_dir: str | Path | None = None
    save_every: int = 10
    progress: bool | str = True

    def __post_init__(self):  # numbers of NumPy, such as those of a sweep, become Python's
        vars(self).update({name: x.item() for name, x in vars(self).items() if isinstance(x, np.generic)})

    def to_compare(self) -> dict:
        """What must be the same for a run to go on, and on all ranks."""
        elsewhere = ("backend", "output_dir", "save_every", "progress")
        kept = {name: value for name, value in asdict(self).items() if name not in elsewhere}
        return kept | {"weight_decay": WEIGHT_DECAY}


class ContrastiveTrainer:
    """Trains `model` on `dataset` with a contrastive loss over batches of `batch_size` pairs.

    Args:
        model: has `encode_image(images)`, `encode_text(captions)` -> normalised features `(k, d)`, a parameter
            `logit_scale` (log s) and, for the sigmoid loss, `logit_bias`; see `minilib.models.TwoTowers`. On several
            ranks all start from the weights of rank 0; a DistributedDataParallel around it is taken off.
        dataset: rows by a list of indices, `dataset[[3, 1]]` -> `{"image": ..., "caption": ...}`, as `datasets` does.
            One that orders its rows itself offers `batch_indices(step, batch_size, seed)` -> row numbers.
        config: a ContrastiveConfig. settings: its fields by name instead, or some that replace those of `config`.
        callbacks: functions of (trainer, record), called on every rank after each step, before the checkpoint; what
            they add to the record is kept with it.
        group: process group of the ranks that train together; None takes the default group where there is one.

    Raises:
        ConnectionError: when a rank is lost; the last checkpoint stays usable, on any number of ranks.
        DivergedError: a ValueError, at the step whose loss or weights are not finite; nothing is saved from then on.
    """

    def __init__(
        self, model: nn.Module, dataset, config: ContrastiveConfig | None = None, *,
        callbacks: Sequence[Callable[["ContrastiveTrainer", dict], None]] = (), group=None, **settings,
    ):  # fmt: skip
        config = replace(config, **settings) if config else ContrastiveConfig(**settings)
        self.config, self.settings = config, config.to_compare() | {"dataset_rows": len(dataset)}
        self.model, self.group = ranks.unwrap(model, group)
        self.rank, self.ranks = ranks.place(self.group)
        ranks.agree(self.group, self.settings)
        _check_settings(self.settings, config.save_every, config.backend, self.ranks)
        if config.loss == "siglip" and getattr(self.model, "logit_bias", None) is None:
            lacks = f"{type(getattr(self.model, 'model', self.model)).__name__} has no logit_bias"
            fix = "choose loss 'clip', or a model with that bias such as SiglipModel"
            raise ValueError(f"loss is 'siglip' and {lacks}: {fix}.")
        ranks.share_weights(self.group, self.model)
        self.dataset, self.callbacks = dataset, callbacks
        self.loss_options = {"backend": config.backend, "group": self.group}
        self.progress = config.progress if self.rank == 0 else False
        self.path = Path(config.output_dir) / "checkpoint.pt" if config.output_dir is not None else None
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.model, config.frozen), lr=config.lr)
        self.records: list[dict] = []

    def train(self, *, resume: bool = True) -> list[dict]:
        """Run to the last step and return one plain record per step; continues from the checkpoint if there is one."""
        # Also a meeting: rank 0 may still be writing the checkpoint of an earlier run when the others come to read it.
        terms = {"resume": resume, "output_dir": "None" if self.path is None else "given"}
        terms["data"] = "None" if self.path is None else self._name_data()
        ranks.agree(self.group, terms)
        if resume and self.path is not None:
            self._resume()
        first, steps = len(self.records), self.settings["steps"]
        text = self.progress if isinstance(self.progress, str) else "steps"
        with tqdm(total=steps, initial=first, desc=text, disable=not self.progress) as bar:
            for step in range(first, steps):
                self.records.append(self.step(step))
                if fault := not_finite(self.model):
                    raise self._diverged(step, fault)
                for callback in self.callbacks:
                    callback(self, self.records[-1])
                bar.set_postfix(loss=f"{self.records[-1]['loss']:.3f}")
                bar.update()
                if self.path is not None and ((step + 1) % self.config.save_every == 0 or step + 1 == steps):
                    self.save()
        return self.records

    def step(self, step: int) -> dict:
        """One optimizer step on the batch of number `step`; returns its record."""
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.settings["steps"], self.settings["lr"], self.settings["warmup"])
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
            torch.manual_seed(seed_of_draws(self.settings["seed"], step, self.rank))
            try:
                loss = self.backward(step)
            except ValueError as error:
                # In a group a bad row is told by its own rank; weights that have exploded are the same on all.
                if getattr(error, "not_finite", False) and (self.group is None or exploded(self.model)):
                    raise self._diverged(step, str(error).split(":")[0]) from error
                raise
        if not loss.isfinite():
            raise self._diverged(step, f"the loss is {loss.item()}")
        self.optimizer.step()
        if self.settings["loss"] == "clip":  # the sigmoid loss learns larger ones
            with torch.no_grad():
                self.model.logit_scale.clamp_(0, LARGEST_LOG_SCALE)
        return {
            "step": step, "loss": loss.item(), "pairs": (step + 1) * self.settings["batch_size"],
            "lr": self.optimizer.param_groups[0]["lr"], "scale": self.model.logit_scale.exp().item(),
            "seconds": time.perf_counter() - started,
        }  # fmt: skip

    def backward(self, step: int) -> Tensor:
        """Leave the gradient of batch number `step` in the parameters and return its loss, detached."""
        batch, seed = self.settings["batch_size"], self.settings["seed"]
        own = getattr(self.dataset, "batch_indices", None)
        indices = own(step, batch, seed) if own else batch_indices(step, len(self.dataset), batch, seed)
        # Each rank goes backward through its own part; then all exchange gradients and losses, once.
        share = self._backward(part_of(indices, self.rank, self.ranks))
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return ranks.average(self.group, trained, share)

    def _backward(self, indices: Tensor) -> Tensor:
        """The gradient of these rows' share of the loss, through the gradient cache where they do not fit at once."""
        micro_batches = indices.split(self.settings["micro_batch_size"])
        frozen = [self.settings["frozen"] == side for side in ("image", "text")]
        model = self.model
        encoders = [lambda rows: model.encode_image(rows["image"]), lambda rows: model.encode_text(rows["caption"])]
        if len(micro_batches) > 1:
            return cached_backward(encoders, _Rows(self.dataset, micro_batches), self.loss, frozen=frozen)
        rows, features = self.dataset[indices.tolist()], []  # nothing to cache: one pass does it
        for encode, is_frozen in zip(encoders, frozen):
            with torch.set_grad_enabled(not is_frozen):
                features.append(encode(rows))  # (b, d)
        loss = self.loss(*features)
        loss.backward()
        return loss.detach()

    def loss(self, img: Tensor, txt: Tensor) -> Tensor:
        """The loss of features `(b, d)` under the model's own scale (and bias)."""
        scale = self.model.logit_scale.exp()
        if self.settings["loss"] == "siglip":
            return siglip_loss(img, txt, scale, self.model.logit_bias, **self.loss_options)
        return clip_loss(img, txt, scale, **self.loss_options)

    def _diverged(self, step: int, what: str) -> DivergedError:
        rates = self.optimizer.param_groups[0]["lr"], self.settings["lr"]
        kept = self.path if self.path is not None and checkpoint.exists(self.path) else None
        return DivergedError.at(what, step + 1, self.settings["steps"], rates, kept)

    def save(self) -> None:
        """Write the checkpoint, on rank 0; the one before it is kept, and stays alone where a weight is not finite."""
        if self.path is None:
            raise ValueError("output_dir is None: give a folder for the checkpoint.")
        if fault := not_finite(self.model):
            raise self._diverged(len(self.records) - 1, fault)
        if self.rank == 0:
            self._name_data()
            checkpoint.save(
                self.path, model=self.model, optimizer=self.optimizer, settings=self.settings, records=self.records
            )

    def _name_data(self) -> str:
        """A run goes on with the data that it was begun with: their fingerprint is one of its settings."""
        if "data_sha256" not in self.settings:
            self.settings["data_sha256"] = contents(self.dataset, len(self.dataset))
        return self.settings["data_sha256"]

    def _resume(self) -> None:
        """Go on from the checkpoint if there is one, on all ranks from the same."""
        damaged = False
        with ranks.errors_told(self.group):
            if checkpoint.exists(self.path):
                saved = checkpoint.load(self.path, model=self.model, optimizer=self.optimizer, settings=self.settings)
                self.records, damaged = saved["records"], saved["path"] != self.path
        found = f"at step {len(self.records)}, loss {self.records[-1]['loss']}," if self.records else "absent"
        ranks.agree(self.group, {"checkpoint": found}, "give all ranks one output_dir on a disk that they all see")
        if self.rank == 0 and damaged:  # so that no save keeps the damaged file instead of the whole one
            os.replace(checkpoint.previous(self.path), self.path)


class _Rows:
    """Micro-batches of a dataset, read anew in each pass: the rows of a large batch are never all in memory."""

    def __init__(self, dataset, micro_batches: tuple[Tensor, ...]):
        self.dataset, self.micro_batches = dataset, micro_batches

    def __len__(self) -> int:
        return len(self.micro_batches)

    def __iter__(self):
        return (self.dataset[indices.tolist()] for indices in self.micro_batches)


def _parameter_groups(model: nn.Module, frozen: str | None) -> list[dict]:
    """Weights with decay; biases, norms and the scale without; a frozen tower's parameters not at all."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    trained = [p for name, p in named if not (frozen and name.startswith(f"{frozen}_tower."))]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


# What step k depends on beyond weights and optimizer


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    return peak * min(1.0, (step + 1) / max(1, warmup)) * (1 + math.cos(math.pi * step / steps)) / 2


def batch_indices(step: int, rows: int, batch_size: int, seed: int) -> Tensor:
    """Row numbers `(batch_size,)` of batch number `step`: each epoch a new permutation, its ragged end left out."""
    epoch, number = divmod(step, rows // batch_size)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(_mix(seed, epoch)))
    return order[number * batch_size : (number + 1) * batch_size]


def part_of(indices: Tensor, rank: int, ranks: int) -> Tensor:
    """The part of a batch that `rank` takes: consecutive rows, as even as possible, the longer parts first."""
    return indices.tensor_split(ranks)[rank]


def seed_of_draws(seed: int, step: int, rank: int) -> int:
    """Where the random draws of a step begin on a rank; those of rank 0 are those of one process."""
    return _mix(_mix(rank, seed), step)


def _mix(seed: int, number: int) -> int:
    return seed * 1_000_003 + number


def _check_settings(settings: dict, save_every: int, backend: str, ranks: int) -> None:
    resolve_backend(backend)
    check_numbers(
        {**settings, "save_every": save_every}, counts=("batch_size", "micro_batch_size", "steps", "save_every"),
        least={"warmup": 0, "seed": 0}, positive=("lr",),
    )  # fmt: skip
    batch, rows, fault = settings["batch_size"], settings["dataset_rows"], ""
    if batch > rows:
        fault = f" but the dataset has {rows} rows: take a smaller batch or a larger dataset"
    elif batch == 1 and settings["loss"] == "clip":
        fault = ": a pair is told from the others of its batch, give at least 2"
    elif batch < ranks:
        fault = f" and {ranks} ranks share it: give at least one pair per rank, or start fewer ranks"
    if fault:
        raise ValueError(f"batch_size is {batch}{fault}.")
    check_choice("loss", settings["loss"], ("clip", "siglip"))
    check_choice("frozen", settings["frozen"], (None, "image", "text"))
