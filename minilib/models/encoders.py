"""Encoders of transformers by folder or name, and what of them is trained.

    --model X                        CLIP, SigLIP, or any dual encoder with get_image_features
    --image_model X --text_model Y   any two encoders, joined by two projections that start at random; "minilm" is one

    full      every weight
    linear    the projections (SigLIP: the pooling heads), scale and bias
    lora      low-rank additions to the attention projections, and what `linear` trains

Nothing that comes with a model is run unless `trust_remote_code` says so. A model is tried on one picture and one long
caption before it is trusted with more.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from minilib.common import Notice
from minilib.data.tables import hub
from minilib.models.loading import place_of, read_json
from minilib.models.pretrained import HFTowers, inner, pooled, side_of
from minilib.trainers.trainer_utils import not_finite

MODES = ("full", "linear", "lora")
PROJECTIONS = ("visual_projection", "text_projection", "vision_projection", "vision_model.head", "text_model.head")
ATTENTION = (  # how models call the linear maps of their attention
    "q_proj", "k_proj", "v_proj", "out_proj", "o_proj", "query", "key", "value", "qkv", "q_lin", "k_lin", "v_lin",
    "out_lin", "Wqkv", "Wo", "c_attn", "q", "k", "v",
)  # fmt: skip


def load_towers(name: str, *, trust_remote_code: bool = False) -> HFTowers:
    """The dual encoder of this folder or name with its own processor. Raises ValueError, one sentence."""
    from transformers import AutoModel

    name = place_of(name)
    with _told(name):
        model, found = AutoModel.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        _check_weights(model, found)
        if not hasattr(model, "get_image_features"):
            raise ValueError(f"{type(model).__name__} has one side only, join two with image_model and text_model")
        return _towers(model, _processor(name, name, trust_remote_code))


def join_towers(image: str, text: str, *, dim: int = 512, trust_remote_code: bool = False) -> HFTowers:
    """A vision and a text encoder with projections to `dim` features. Raises ValueError, one sentence."""
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    image, text = place_of(image), place_of(text)
    vision_model = _encoder(image, "vision_config", "pixel_values", trust_remote_code)
    text_model = _encoder(text, "text_config", "input_ids", trust_remote_code)
    with _told(image, text):
        config = VisionTextDualEncoderConfig.from_vision_text_configs(
            vision_model.config, text_model.config, projection_dim=dim
        )
        model = VisionTextDualEncoderModel(config, vision_model, text_model)
        return _towers(model, _processor(image, text, trust_remote_code))


def choose_trained(towers: HFTowers, mode: str = "full", frozen: str | None = None, rank: int = 16) -> str:
    """Leave trainable what `mode` says, of the side that is not frozen; returns a line that says what that is."""
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown: choose one of {', '.join(MODES)}.")
    model = towers.model
    heads = [name for name, _ in model.named_modules() if name in PROJECTIONS]
    if mode != "full" and not heads:
        raise ValueError(f"mode {mode!r} needs projections and {type(model).__name__} has none: choose mode 'full'.")
    if "visual_projection" in heads or "vision_projection" in heads:
        heads = [name for name in heads if not name.endswith(".head")]
    adapted = []
    if mode == "lora":
        adapted = _attention(model, frozen)
        model = towers.model = _with_adapters(model, adapted, rank)
    for name, parameter in model.named_parameters():
        place = name.removeprefix("base_model.model.")
        head = place.startswith(tuple(f"{head}." for head in heads)) or side_of(place) is None
        trained = mode == "full" or head or "lora_" in name
        parameter.requires_grad_(trained and not (frozen and side_of(place) == frozen))
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    kinds = sorted({name.rpartition(".")[2] for name in adapted})
    what = f"LoRA of rank {rank} on {', '.join(kinds)} of {len(adapted)} matrices, " if adapted else ""
    return f"trained: {what}{count:,} of {total:,} weights ({mode}{f', {frozen} tower frozen' if frozen else ''})"


def save_towers(towers: HFTowers, folder: Path) -> None:
    """Write model and processor as a plain folder of transformers; adapters are merged into the weights."""
    if hasattr(towers.model, "merge_and_unload"):
        towers.model = towers.model.merge_and_unload(safe_merge=True)
    towers.model.save_pretrained(folder)
    for part in (towers.processor.image_processor, towers.processor.tokenizer):
        part.save_pretrained(folder)


def try_out(towers: HFTowers, name: str) -> None:
    """One picture and one caption as long as captions may be; ValueError where the model cannot take them."""
    from PIL import Image

    mode = towers.training
    rows, table = len(towers.processor.tokenizer), None
    with suppress(NotImplementedError):  # of models that do not tell
        table = getattr(inner(towers.model), "text_model", inner(towers.model)).get_input_embeddings()
    if isinstance(table, nn.Embedding) and rows > table.num_embeddings:
        raise ValueError(
            f"model {name!r} has {table.num_embeddings:,} token embeddings and its tokenizer {rows:,} tokens: take the "
            "tokenizer that belongs to the model."
        )
    with _told(*name.split(" with ")), torch.no_grad():
        towers.eval()
        img = towers.encode_image([Image.new("RGB", (80, 60), "gray")])
        txt = towers.encode_text(["one caption " * 2_000])
        if img.shape != txt.shape:
            raise ValueError(f"an image has features of shape {tuple(img.shape)}, a text of {tuple(txt.shape)}")
        for side, features in (("image", img), ("text", txt)):
            if not features.isfinite().all():
                raise ValueError(f"its {side} features are not finite")
    towers.train(mode)


def check_reading(towers: HFTowers, name: str, captions: Sequence[str]) -> None:
    """ValueError where the text side reads no word of the captions, or not to their end."""
    tokenizer, longest = towers.processor.tokenizer, max(captions[:1_000], key=len)
    fix = "give a folder with the tokenizer and the config.json that belong to the model."
    ids = tokenizer(list(captions[:1_000]), add_special_tokens=False)["input_ids"]
    if {token for row in ids for token in row} <= {tokenizer.unk_token_id}:
        raise ValueError(f"model {name!r} has a tokenizer that knows nothing of the captions: {fix}")
    words = longest.split()
    both = [longest, " ".join(words[: len(words) // 2])]
    settings = {"truncation": True, "max_length": towers.max_tokens} if towers.max_tokens else {}
    first, second = tokenizer(both, **settings)["input_ids"]
    mode = towers.training
    with torch.no_grad():
        features = towers.eval().encode_text(both)
    towers.train(mode)
    if len(words) > 1 and first != second and torch.allclose(features[0], features[1], rtol=0, atol=1e-6):
        raise ValueError(f"model {name!r} gives half of a caption the features of all of it (eos_token_id?): {fix}")


def make_augment(size: int, scale: tuple[float, float] = (0.5, 1.0)) -> tuple:
    """A random crop of a picture, turned into `size` x `size` pixels, and the line that says by which library."""
    if find_spec("torchvision"):
        from torchvision.transforms import v2

        return v2.RandomResizedCrop(
            (size, size), scale=scale, antialias=True
        ), "augmentation: torchvision's random crops"
    if find_spec("kornia"):
        from kornia.augmentation import RandomResizedCrop

        return _Kornia(RandomResizedCrop((size, size), scale=scale)), "augmentation: kornia's random crops"
    return None, "augmentation: none, since neither torchvision nor kornia is installed"


class _Kornia:
    """kornia's crop, which works on batches of floats, for one pillow image."""

    def __init__(self, crop):
        self.crop = crop

    def __call__(self, image):
        import numpy as np
        from PIL import Image

        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        return Image.fromarray((self.crop(pixels)[0].permute(1, 2, 0) * 255).round().byte().numpy())


def image_side(towers: HFTowers) -> int:
    """The pixels that the processor gives a picture, on its shorter side."""
    from PIL import Image

    pixels = towers.processor.image_processor(images=[Image.new("RGB", (80, 60))], return_tensors="pt")["pixel_values"]
    if pixels.ndim != 4:  # patches, of pictures of any size
        raise ValueError("augment is True and the model takes pictures of any size: leave augment out.")
    return min(pixels.shape[-2:])


def _towers(model: nn.Module, processor) -> HFTowers:
    sigmoid = getattr(model, "logit_bias", None) is not None
    towers = HFTowers(model, processor, padding="max_length" if sigmoid else True)
    if towers.max_tokens is not None:
        processor.tokenizer.model_max_length = towers.max_tokens  # so that the saved tokenizer knows it
    return towers


def _processor(image: str, text: str, trust: bool):
    from transformers import AutoImageProcessor, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(text, trust_remote_code=trust)
    if tokenizer.pad_token is None:
        spare = tokenizer.eos_token or tokenizer.unk_token
        if spare is None:
            raise ValueError("its tokenizer has no token to pad with: set pad_token and save it once more")
        tokenizer.pad_token = spare
    return SimpleNamespace(
        image_processor=AutoImageProcessor.from_pretrained(image, trust_remote_code=trust), tokenizer=tokenizer
    )


def _encoder(name: str, part: str, takes: str, trust: bool) -> nn.Module:
    """The encoder of this name, or the one side of a dual encoder; it takes `pixel_values` or `input_ids`."""
    from transformers import AutoConfig, AutoModel

    with _told(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust)
        model, found = AutoModel.from_pretrained(
            name, config=getattr(config, part, config), dtype=torch.float32, output_loading_info=True,
            ignore_mismatched_sizes=True, trust_remote_code=trust,
        )  # fmt: skip
        if found["missing_keys"] and all("pooler" in key for key in found["missing_keys"]):
            found["missing_keys"] = ()
            warnings.warn(f"model {name}: its pooler starts at random, the file has none.", Notice, stacklevel=3)
        _check_weights(model, found)
        if model.main_input_name != takes:
            raise ValueError(f"a {type(model).__name__} takes {model.main_input_name}, and {takes} are needed here")
        pooling = Path(name) / "1_Pooling" / "config.json"  # of sentence-transformers, whose pooler is not trained
        if pooling.is_file() and read_json(pooling).get("pooling_mode_mean_tokens"):
            model.config.pooling = "mean"  # which is saved with the model
        if not hasattr(model.config, "hidden_size"):  # such as a ResNet, which has one size for each stage
            with torch.no_grad():
                blank = torch.zeros(1, 3, 64, 64) if takes == "pixel_values" else torch.zeros(1, 4, dtype=torch.long)
                output = model.eval()(blank)
            model.config.hidden_size = pooled(output, None).shape[-1]
    return model


def _check_weights(model: nn.Module, found: dict) -> None:
    """ValueError for weights that the files lack or have in another shape or as NaN, and for an adapter."""
    for key, what in (("missing_keys", "missing"), ("mismatched_keys", "of another shape than config.json says")):
        names = sorted(entry if isinstance(entry, str) else entry[0] for entry in found[key])
        if names:
            raise ValueError(f"{len(names)} of its weights are {what}, the first is {names[0]}")
    if getattr(model, "_hf_peft_config_loaded", False):  # transformers has put it onto its model, and could not save it
        raise ValueError("it is an adapter, merge it into its model and save that")
    if fault := not_finite(model):
        raise ValueError(fault)


def _attention(model: nn.Module, frozen: str | None) -> list[str]:
    """The full names of the linear maps in the attention of the towers that are trained."""
    inside = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    found = [
        name
        for name, module in model.named_modules()
        # torch's own MultiheadAttention reads the weights of its maps and would not call an adapter.
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in ATTENTION
        and name.rpartition(".")[0] not in inside
        and side_of(name) not in (None, frozen)
    ]  # fmt: skip
    if not found:
        raise ValueError(f"mode 'lora' found no attention in {type(model).__name__}: choose mode 'full' or 'linear'.")
    return found


def _with_adapters(model: nn.Module, names: list[str], rank: int) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():  # peft asks for what transformers has begun to call otherwise
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=names))


@contextmanager
def _told(*names: str) -> Iterator[None]:
    """Whatever goes wrong with these models is one sentence, and transformers says nothing more."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        here = [name for name in names if Path(name).exists()]
        if any(name not in here and (name[:1] in ("/", ".", "~", "") or name.count("/") > 1) for name in names):
            raise FileNotFoundError("there is no such folder")
        if any(Path(name).is_file() for name in here):
            raise NotADirectoryError("it is a file")
        with nullcontext() if len(here) == len(names) else hub():
            yield
    except Exception as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "custom code" in said or "trust_remote_code" in str(error):
            said = "it brings code of its own, which is not run: pass trust_remote_code if you trust it"
        which = " with ".join(names)
        raise ValueError(
            f"model {which!r} cannot be used ({said.rstrip('.'):.240}): give a folder of transformers, or a name on "
            "the hub, with model, image processor and tokenizer."
        ) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
