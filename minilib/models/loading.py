"""Language models by name, for the commands: the tiny one, one of transformers, or what `logo` has written.

    name        "tiny", a folder of transformers, or a name on the hub
    run folder  adapter_config.json (LoRA: the base model with the adapter on it) or config.json (all weights)

Under LoRA a GPU keeps the frozen weights in bf16; weights that are trained themselves need fp32, because steps of 1e-7
vanish in eight bits of mantissa. Positions may be stretched while loading (`minilib.longcontext.rope`); the window that
is reported is the one from before. Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from minilib.longcontext.rope import stretch_config
from minilib.models.tiny_lm import FOLDER

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTIONS = ("auto", "sdpa", "eager", "flex_attention")


class Loaded(NamedTuple):
    """A model, its tokenizer, and the tokens that it was trained to read."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    window: int


def is_tiny(name: str) -> bool:
    """Whether the name stands for the model that comes with minilib."""
    return name == "tiny"


def window_of(name: str) -> int:
    """The tokens that the model of this name was trained to read."""
    return _window(_config(name), name)


def load_language_model(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    attention: str = "auto",
    rope: str = "none",
    target: int | None = None,
) -> Loaded:
    """The model of this name on the CPU, in evaluation mode.

    attention: one of ATTENTIONS; "auto" is sdpa. rope: one of `rope.METHODS`, which stretches it to `target` positions.
    Raises ValueError: one sentence, when there is no such model or it cannot be stretched.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = _config(name)
    window = _window(config, name)
    if rope != "none":
        config = stretch_config(config, rope, target or window)
    settings = {"config": config, "dtype": dtype, "attn_implementation": pick_attention(attention)}
    with _in_one_sentence(name):
        model = AutoModelForCausalLM.from_pretrained(_place(name), **settings)
        tokenizer = AutoTokenizer.from_pretrained(_place(name), padding_side="left")
    return Loaded(model.eval(), tokenizer, window)


def load_aligned(run: Path, *, dtype: torch.dtype = torch.float32, attention: str = "auto") -> Loaded:
    """What `logo` has left in the folder `run`: its model with the adapter on it, or the model itself."""
    from transformers import AutoTokenizer

    if not (run / "adapter_config.json").exists():
        found = load_language_model(str(run), dtype=dtype, attention=attention)  # its config is stretched already
        return found._replace(window=_begun(run).get("window", found.window))
    from peft import PeftModel

    base = load_base(run, dtype=dtype, attention=attention)
    with _in_one_sentence(str(run)):
        adapted = PeftModel.from_pretrained(base.model, run).eval()
        tokenizer = base.tokenizer
        if (run / "tokenizer_config.json").exists():
            tokenizer = AutoTokenizer.from_pretrained(run, padding_side="left")
    return Loaded(adapted, tokenizer, base.window)


def load_base(run: Path, *, dtype: torch.dtype = torch.float32, attention: str = "auto") -> Loaded | None:
    """The model that the run began with, its angles stretched as there; None where nothing says which it was."""
    begun, name = _begun(run), None
    if (run / "adapter_config.json").exists():
        name = read_json(run / "adapter_config.json")["base_model_name_or_path"]
    if (name := begun.get("model", name)) is None:
        return None
    stretch = {"rope": begun.get("rope", "none"), "target": begun.get("target_length")}
    return load_language_model(name, dtype=dtype, attention=attention, **stretch)


def holds_language_model(folder: Path) -> bool:
    """Whether transformers or peft have written a model into the folder."""
    return (folder / "adapter_config.json").exists() or (folder / "config.json").exists()


def pick_attention(attention: str) -> str:
    """The attention that "auto" stands for: sdpa, which takes our masks on every device."""
    if attention not in ATTENTIONS:
        raise ValueError(f"attention {attention!r} is unknown: choose one of {', '.join(map(repr, ATTENTIONS))}.")
    return "sdpa" if attention == "auto" else attention


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """The dtype that "auto" stands for: bf16 on a GPU, else fp32."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown: choose one of {', '.join(map(repr, DTYPES))}.")
    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return getattr(torch, dtype)


def read_json(path: Path) -> dict:
    """The object in a JSON file; ValueError in one sentence when it is damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}): fix the file or choose another.") from error
    return found


def _begun(run: Path) -> dict:
    return read_json(run / "settings.json") if (run / "settings.json").exists() else {}


def _config(name: str):
    from transformers import AutoConfig

    if (Path(name) / "adapter_config.json").exists():
        raise ValueError(f"model {name!r} is an adapter: give the model that it belongs to, or evaluate it with --run.")
    with _in_one_sentence(name):
        return AutoConfig.from_pretrained(_place(name))


def _window(config, name: str) -> int:
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(window, int):
        raise ValueError(f"model {name!r} names no window (max_position_embeddings): choose a model with one.")
    return window


def _place(name: str) -> str:
    return str(FOLDER) if is_tiny(name) else name


@contextmanager
def _in_one_sentence(name: str) -> Iterator[None]:
    """The many errors of loading as one sentence that names the model."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(
            f"model {name!r} could not be loaded ({cause}): give 'tiny', a folder or a name on the hub."
        ) from error
