"""Language models by name, for the commands: the tiny one, one of transformers, or what `logo` has written.

    name        "tiny", "smollm2" once it is fetched, a folder of transformers, or a name on the hub
    run folder  adapter_config.json (LoRA: the base model with the adapter on it) or config.json (all weights)

Under LoRA a GPU keeps the frozen weights in bf16; weights that are trained themselves need fp32, because steps of 1e-7
vanish in eight bits of mantissa. Positions may be stretched while loading (`minilib.longcontext.rope`); the window that
is reported is the one from before.

Nothing that comes with a model is run: `trust_remote_code` is False unless the caller says otherwise, whatever a folder
or a run's settings say, and transformers never asks. Weights are read from safetensors, or by torch with weights_only.
Weights that are missing, not finite or too few for the tokenizer raise an error. Taught in
notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from minilib.longcontext.rope import stretch_config
from minilib.models import fetched
from minilib.models.tiny_lm import FOLDER
from minilib.trainers.trainer_utils import not_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
LONG_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ATTENTIONS = ("auto", "sdpa", "eager", "flex_attention")


class NotFiniteError(ValueError):
    """A model whose files hold NaN or infinity."""


class Loaded(NamedTuple):
    """A model, its tokenizer, and the tokens that it was trained to read."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    window: int


def is_tiny(name: str) -> bool:
    """Whether the name stands for the model that comes with minilib."""
    return name == "tiny"


def place_of(name: str) -> str:
    """What transformers loads for this name: a folder of ours, or the name itself. ValueError for what is not there."""
    return str(FOLDER) if is_tiny(name) else fetched.place_of(name)


def window_of(name: str, *, trust_remote_code: bool = False) -> int:
    """The tokens that the model of this name was trained to read."""
    return _window(_config(name, trust_remote_code), name)


def load_language_model(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    attention: str = "auto",
    rope: str = "none",
    target: int | None = None,
    trust_remote_code: bool = False,
) -> Loaded:
    """The model of this name on the CPU, in evaluation mode.

    attention: one of ATTENTIONS; "auto" is sdpa. rope: one of `rope.METHODS`, which stretches it to `target` positions.
    trust_remote_code: whether Python files that come with the model may run.
    Raises ValueError: one sentence, when there is no such model, it is damaged, or it cannot be stretched.
    """
    from transformers import AutoModelForCausalLM

    config = _config(name, trust_remote_code)
    window = _window(config, name)
    used = config if rope == "none" else stretch_config(config, rope, target or window)
    settings = {"config": used, "dtype": dtype}
    if pick_attention(attention) == attention:  # else transformers takes sdpa, and eager for models that lack it
        settings["attn_implementation"] = attention
    with _in_one_sentence(name):
        model, found = AutoModelForCausalLM.from_pretrained(
            place_of(name), **settings, output_loading_info=True, trust_remote_code=trust_remote_code
        )
    _check_weights(model, found, name)
    if rope != "none":
        check_stretched(model, config, rope)
    tokenizer = _tokenizer(place_of(name), name, trust_remote_code)
    _check_vocabulary(model, tokenizer, name)
    return Loaded(model.eval(), tokenizer, window)


def load_aligned(
    run: Path, *, dtype: torch.dtype = torch.float32, attention: str = "auto", trust_remote_code: bool = False
) -> Loaded:
    """What `logo` has left in the folder `run`: its model with the adapter on it, or the model itself."""
    settings = {"dtype": dtype, "attention": attention, "trust_remote_code": trust_remote_code}
    if not (run / "adapter_config.json").exists():
        found = load_language_model(str(run), **settings)  # its config is stretched already
        return found._replace(window=_begun(run).get("window", found.window))
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    base = load_base(run, **settings)
    if base is None:
        raise ValueError(f"run {run} names no model that its adapter belongs to: set base_model_name_or_path.")
    with _in_one_sentence(str(run)):
        adapted = PeftModel.from_pretrained(base.model, run).eval()
        lacking = sorted(
            set(get_peft_model_state_dict(adapted, save_embedding_layers=False)) - {*load_peft_weights(run)}
        )
    if lacking:
        raise ValueError(
            f"run {run} has an adapter whose file lacks {lacking[0]}: get the whole file, or fix adapter_config.json."
        )
    _check_finite(adapted, str(run))
    tokenizer = base.tokenizer
    if (run / "tokenizer_config.json").exists():
        tokenizer = _tokenizer(str(run), str(run), trust_remote_code)
    return Loaded(adapted, tokenizer, base.window)


def load_base(
    run: Path, *, dtype: torch.dtype = torch.float32, attention: str = "auto", trust_remote_code: bool = False
) -> Loaded | None:
    """The model that the run began with, its angles stretched as there; None where nothing says which it was."""
    begun, name = _begun(run), None
    if (run / "adapter_config.json").exists():
        name = read_json(run / "adapter_config.json").get("base_model_name_or_path")
    started, rope, target = begun.get("model", name), begun.get("rope", "none"), begun.get("target_length")
    if not isinstance(started, str):
        return None
    moved = started in fetched.MODELS and Path(name or "").name == started  # the repository was elsewhere then
    if name not in (None, started, place_of(started)) and not is_tiny(started) and not moved:
        raise ValueError(
            f"run {run} names the model {started!r} in settings.json and {name!r} in adapter_config.json: name in both "
            "the one that the adapter belongs to."
        )
    if not isinstance(rope, str) or not isinstance(target, (int, type(None))):
        raise ValueError(
            f"run {run} has a settings.json with rope={rope!r} and target_length={target!r}: fix the file."
        )
    stretch = {"rope": rope, "target": target}
    trust = {"trust_remote_code": trust_remote_code}  # never what the run's own files say
    return load_language_model(started, dtype=dtype, attention=attention, **stretch, **trust)


def check_stretched(model, config, method: str) -> None:
    """ValueError unless the rotary frequencies of `model` differ from those of `config`, from before the stretching."""
    changed = []
    for module in model.modules():
        if hasattr(module, "inv_freq") and hasattr(module, "config"):
            before = type(module)(config.get_text_config())
            same = before.inv_freq.shape == module.inv_freq.shape and torch.allclose(
                before.inv_freq.cpu(), module.inv_freq.cpu(), rtol=1e-6, atol=0
            )
            changed.append(not same or getattr(module, "rope_type", None) == "dynamic")  # which changes when it is long
    if not changed or not all(changed):
        raise ValueError(
            f"rope is {method!r} and the angles of a {type(model).__name__} do not follow the settings of its config: "
            "give a model with one rotary embedding for all layers, such as Llama, or rope 'none'."
        )


def write_merged(run: Path, folder: Path, *, trust_remote_code: bool = False) -> None:
    """Write the aligned model of the run `run` as a plain folder of transformers, its adapter merged, in fp32.

    Stretched angles are in its config. Raises ValueError where there is no adapter, or where merging changes the model.
    """
    if not (run / "adapter_config.json").exists():
        raise ValueError(f"run {run} holds no adapter to merge: it is a plain folder of transformers, or not finished.")
    loaded = load_aligned(run, trust_remote_code=trust_remote_code)
    ids = torch.arange(min(16, loaded.model.get_input_embeddings().weight.shape[0]))[None]
    with torch.no_grad():
        before = loaded.model(input_ids=ids).logits
        merged = loaded.model.merge_and_unload(safe_merge=True)
        if not torch.allclose(merged(input_ids=ids).logits, before, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"run {run} has an adapter that cannot be merged without changing the model, such as one on embeddings "
                "that are the head as well: use it with peft."
            )
    merged.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def holds_language_model(folder: Path) -> bool:
    """Whether transformers or peft have written a model into the folder."""
    return (folder / "adapter_config.json").exists() or (folder / "config.json").exists()


def pick_attention(attention: str) -> str:
    """The attention that "auto" stands for: sdpa, which takes our masks on every device."""
    if attention not in ATTENTIONS:
        raise ValueError(f"attention {attention!r} is unknown: choose one of {', '.join(map(repr, ATTENTIONS))}.")
    return "sdpa" if attention == "auto" else attention


def best_device() -> str:
    """Where the commands put their models: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """The dtype that "auto" stands for: bf16 on a GPU, else fp32."""
    dtype = LONG_NAMES.get(dtype, dtype)
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown: choose one of {', '.join(map(repr, DTYPES))}.")
    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return getattr(torch, dtype)


def read_json(path: Path) -> dict:
    """The object in a JSON file; ValueError in one sentence when it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}): fix the file or choose another.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__} and no object: fix the file or choose another.")
    return found


def _begun(run: Path) -> dict:
    return read_json(run / "settings.json") if (run / "settings.json").exists() else {}


def _config(name: str, trust_remote_code: bool):
    from transformers import AutoConfig

    if (Path(name) / "adapter_config.json").exists():
        raise ValueError(f"model {name!r} is an adapter: give the model that it belongs to, or evaluate it with --run.")
    place = Path(place_of(name))
    with _in_one_sentence(name):
        if not name.strip():
            raise OSError("the name is empty")
        if place.is_file():
            raise OSError("it is a file")
        if place.is_dir() and not (place / "config.json").is_file():
            raise OSError("the folder has no config.json")
        if not place.exists() and (name[0] in "/.~" or name.count("/") > 1):
            raise OSError("there is no such folder")
        return AutoConfig.from_pretrained(place_of(name), trust_remote_code=trust_remote_code)


def _tokenizer(place: str, name: str, trust_remote_code: bool):
    from transformers import AutoTokenizer

    with _in_one_sentence(name):
        return AutoTokenizer.from_pretrained(place, padding_side="left", trust_remote_code=trust_remote_code)


def _check_weights(model, found: dict, name: str) -> None:
    """ValueError for weights that the files lack, which transformers fills with random numbers, and for others."""
    for key, words in (("missing_keys", "lack"), ("mismatched_keys", "have another shape of")):
        if lacking := sorted(map(str, found.get(key) or ())):
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise ValueError(
                f"model {name!r} has weight files that {words} {lacking[0]}{more}: get the whole files, or fix "
                "config.json."
            )
    _check_finite(model, name)


def _check_finite(model, name: str) -> None:
    if fault := not_finite(model):
        raise NotFiniteError(f"model {name!r} cannot be used, {fault}: get the files anew.")


def _check_vocabulary(model, tokenizer, name: str) -> None:
    """ValueError for tokens without a row in the embedding; a pad token may be, since any id serves for padding."""
    rows, pad = model.get_input_embeddings().weight.shape[0], tokenizer.pad_token_id
    beyond = [token for token, number in tokenizer.get_vocab().items() if number >= rows and number != pad]
    if beyond:
        raise ValueError(
            f"model {name!r} has {rows:,} rows of embeddings and its tokenizer {len(tokenizer):,} tokens, such as "
            f"{beyond[0]!r}: give the tokenizer that belongs to the model, or resize its embeddings."
        )


def _window(config, name: str) -> int:
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(window, int):
        raise ValueError(f"model {name!r} names no window (max_position_embeddings): choose a model with one.")
    return window


@contextmanager
def _in_one_sentence(name: str) -> Iterator[None]:
    """The many errors of loading as one sentence that names the model."""
    try:
        yield
    except Exception as error:  # damaged files raise whatever their readers raise
        cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"model {name!r} comes with Python code, which is not run: read the code, and give "
                "--trust_remote_code true if you trust it."
            ) from error
        if "weights_only" in str(error):
            raise ValueError(
                f"model {name!r} has weight files in which more than tensors is pickled, which is not run: get it as "
                "safetensors."
            ) from error
        there = Path(name or "-").is_dir() and any(Path(name).glob("*config.json"))
        fix = "get its files anew, or choose another." if there else "give 'tiny', a folder or a name on the hub."
        raise ValueError(f"model {name!r} could not be loaded ({cause}): {fix}") from error
