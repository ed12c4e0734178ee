"""The settings of one `clip` run: what was asked for, with every gap filled.

setting    small towers   --model, full   linear   lora      where it comes from
lr         2e-3           1e-5            1e-3     1e-4      usual values; ours for the small towers
loss       clip           the model's own: siglip where it has a bias
dim        64             the model's own; 512 where two encoders are joined
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from minilib.losses.validation import check_numbers

WORDED = ("scenes", "digits")  # whose words the small towers know by themselves
MADE = (*WORDED, "glyphs")
MODES = ("full", "linear", "lora")
DTYPES = {"float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16"}
LEARNING_RATES = {"full": 1e-5, "linear": 1e-3, "lora": 1e-4}
ELSEWHERE = ("output", "save_every", "timeout", "backend")  # may change when a run goes on


@dataclass(frozen=True)
class ClipSettings:
    """Train an image and a text encoder with a contrastive loss; the same command goes on after an interrupt.

    Started by torchrun, all ranks share each batch; rank 0 writes and prints.

    Args:
        data: "scenes" (rendered), "digits" (handwriting), "glyphs" (characters with their names), or your own pairs: a
            folder (images with metadata.jsonl or a .txt each, COCO, shards, what save_to_disk wrote), a file (JSON
            Lines, JSON, CSV, TSV, Parquet, Arrow, tar), or a name on the hub.
        output: folder of checkpoint.pt, log.jsonl, records.json, and of the trained model.
        model: a CLIP, a SigLIP or another dual encoder of transformers, by folder or name; by default small towers.
        image_model: a vision encoder of transformers, to be joined with text_model.
        text_model: a text encoder of transformers, to be joined with image_model.
        mode: of a model: "full" trains all weights, "linear" the projections, "lora" adapters and projections.
        lora_rank: rank of the adapters.
        frozen: "image" or "text" keeps that tower as it is.
        dtype: of a model: "float32", or "bfloat16" for autocast.
        augment: of a model: whether pictures are cropped at random, by torchvision or kornia, where one is installed.
        pairs: how many scenes, digit strips or glyphs to make.
        split: of your own data, by default "train" or the only one; may be sliced, "train[:80%]".
        validation: a split, or a share such as 0.1 of the images, that is scored with every checkpoint.
        image_column: found by its name where it is not given.
        caption_column: found by its name where it is not given.
        label_column: of classes, whose names become captions.
        image_folder: what the paths of images are relative to, by default the folder of the data.
        allow_outside: whether paths and links may lead out of the data folder.
        trust_remote_code: whether Python files that come with a model may run.
        streaming: read your own data row by row and never whole.
        shuffle_buffer: rows of a stream among which the next one is drawn.
        batch_size: pairs compared with each other in one step, of all ranks together.
        micro_batch_size: pairs the encoders of a rank see at a time; their memory depends on this alone.
        steps: optimizer steps.
        loss: "clip" (InfoNCE) or "siglip" (pairwise sigmoid), by default the model's own.
        backend: "auto", "dense" (one process only), "tiled" or "fused".
        lr: peak learning rate, by default 2e-3 (of a model 1e-5, linear 1e-3, lora 1e-4).
        warmup: steps of linear warm-up.
        dim: width of the features, by default 64 (of joined encoders 512).
        image_size: side of the pictures that small towers see, a multiple of 8; a model has its own.
        seed: weights, data order and random draws.
        save_every: steps between checkpoints.
        timeout: seconds after which a rank that does not answer counts as lost.
    """

    data: str = "scenes"
    output: Path = Path("runs/clip")
    model: str | None = None
    image_model: str | None = None
    text_model: str | None = None
    mode: str = "full"
    lora_rank: int = 16
    frozen: str | None = None
    dtype: str = "float32"
    augment: bool = False
    pairs: int = 16_384
    split: str | None = None
    validation: str | float | None = None
    image_column: str | None = None
    caption_column: str | None = None
    label_column: str | None = None
    image_folder: Path | None = None
    allow_outside: bool = False
    trust_remote_code: bool = False
    streaming: bool = False
    shuffle_buffer: int = 1_000
    batch_size: int = 1_024
    micro_batch_size: int = 1_024
    steps: int = 64
    loss: str | None = None
    backend: str = "auto"
    lr: float | None = None
    warmup: int = 10
    dim: int | None = None
    image_size: int = 32
    seed: int = 0
    save_every: int = 10
    timeout: float = 600.0


def is_pretrained(settings: ClipSettings) -> bool:
    """Whether the encoders come from transformers. (No property: jsonargparse takes those for commands.)"""
    return settings.model is not None or settings.image_model is not None


def columns_of(settings: ClipSettings) -> dict:
    """Which columns of your own data are read."""
    return {name: getattr(settings, name) for name in ("image_column", "caption_column", "label_column")}


def fill(given: ClipSettings) -> ClipSettings:
    """The settings with their defaults. Raises ValueError for what would be found wrong only after hours of reading."""
    _check_names(given)
    counts = ("pairs", "lora_rank", "shuffle_buffer", "batch_size", "steps", "save_every", "micro_batch_size")
    filled = replace(
        given,
        dtype=DTYPES[given.dtype],
        validation=None if given.validation is None else str(given.validation),
        lr=given.lr if given.lr is not None else LEARNING_RATES[given.mode] if is_pretrained(given) else 2e-3,
        dim=given.dim if given.dim is not None else 512 if is_pretrained(given) else 64,
    )
    values = {**vars(filled), "image_size": filled.image_size}
    check_numbers(values, counts=(*counts, "dim"), least={"seed": 0, "warmup": 0}, positive=("lr",))
    made = filled.pairs * 3 * filled.image_size**2 if filled.data in MADE else 0
    for name, size in (("pairs", made), ("dim", filled.dim * 2_500 * 16)):  # weights, gradient, AdamW
        if size > psutil.virtual_memory().available:
            raise ValueError(
                f"{name} is {values[name]:,}, which takes {size / 1e9:,.1f} GB and more than is free: give fewer."
            )
    return filled


def share_of(validation: str | float | None) -> float | None:
    """The share that is held out; None where `validation` names a split or nothing."""
    try:
        share = float(validation)
    except (TypeError, ValueError):
        return None
    if not 0 < share < 1:
        raise ValueError(f"validation is {validation}: give a share between 0 and 1, or the name of a split.")
    return share


def _check_names(given: ClipSettings) -> None:
    if not given.data.strip():
        raise ValueError("data is empty: give 'scenes', 'digits', 'glyphs' or the path of your own pairs.")
    for name, known in (("mode", MODES), ("dtype", tuple(DTYPES)), ("frozen", (None, "image", "text"))):
        if getattr(given, name) not in known:
            choices = ", ".join(repr(choice) for choice in known if choice)
            raise ValueError(f"{name} is {getattr(given, name)!r}: choose {choices}{' or None' * (None in known)}.")
    if given.model is not None and (given.image_model or given.text_model):
        raise ValueError("model and image_model or text_model are given: take one dual encoder, or one encoder each.")
    if (given.image_model is None) != (given.text_model is None):
        raise ValueError("image_model and text_model go together: give both, or a dual encoder as model.")
    if given.model is not None and given.dim is not None:
        raise ValueError(f"dim is {given.dim} and the model has its own: leave it out.")
    if is_pretrained(given) and given.image_size != ClipSettings.image_size:
        raise ValueError(f"image_size is {given.image_size} and a model has its own: leave it out.")
    if given.mode != "lora" and given.lora_rank != ClipSettings.lora_rank:
        raise ValueError(f"lora_rank is {given.lora_rank} and mode {given.mode!r}: give mode 'lora', or leave it out.")
    if not is_pretrained(given):
        for name, plain in (("mode", "full"), ("augment", False)):
            if getattr(given, name) != plain:
                raise ValueError(f"{name} is {getattr(given, name)!r} and there is no model: give one with --model.")
        if DTYPES[given.dtype] != "float32":
            raise ValueError(f"dtype is {given.dtype!r} and there is no model: the small towers train in float32.")
    share = share_of(given.validation)
    if given.data not in MADE and given.output.resolve() == Path(given.data).resolve():
        raise ValueError(f"output {given.output} is the folder of the data: choose another, such as a folder in it.")
    if given.data in MADE:
        for name in ("split", "streaming", "label_column", "image_column", "caption_column", "image_folder"):
            if getattr(given, name):
                raise ValueError(f"{name} is given and data {given.data!r} is made here: leave it out.")
        if given.validation is not None and share is None:
            raise ValueError(f"validation is {given.validation!r} and data {given.data!r} has no splits: give a share.")
    if given.streaming and share is not None:
        raise ValueError("validation is a share, which no stream can give: name a split.")
