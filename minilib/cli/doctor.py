"""python -m minilib doctor: what this machine can run, which backend `auto` picks, and why."""

import importlib.util
import json
from importlib import metadata

import psutil
import torch

from minilib.cli.launch import comm_backend
from minilib.kernels import HELD_ON, gate_of
from minilib.losses.validation import BACKENDS, resolve_backend
from minilib.models.loading import best_device
from minilib.teaching.machine import machine_lines
from minilib.teaching.memory import largest_dense_batch

EXTRAS = {  # what a command of the Makefile installs when it is first called
    "make lab": ("jupyterlab", "ipywidgets", "nbval"),
    "make book": ("jupyter-book",),
    "make bench": ("open_clip_torch", "sentence-transformers", "inf-cl"),
}


def doctor() -> None:
    """Say in a few lines what this machine can run and why."""
    print("\n".join(diagnosis()))


def diagnosis() -> list[str]:
    """The lines that `doctor` prints."""
    dense = largest_dense_batch(psutil.virtual_memory().available)
    return [
        *machine_lines(),
        f"triton    {_triton()}",
        f"backends  {', '.join(BACKENDS[1:])}; auto picks {_auto()}: same value and gradients as "
        "dense, a tile of the similarity matrix at a time (on a CPU up to 256 MiB of them are kept)",
        f"ring      {_ring()}",
        f"logo      {_logo()}",
        f"batches   dense fills the free memory at about {dense:,} pairs (4 fp32 matrices); tiled needs b x d numbers",
        *(f"extra     {_extra(name)}" for name in EXTRAS),
    ]


def _auto() -> str:
    """What "auto" stands for here; on a GPU also why."""
    if not torch.cuda.is_available():
        return resolve_backend("auto")
    gpu = torch.cuda.get_device_name()
    if found := gate_of(gpu):
        dtypes = " and ".join(found["dtypes"])
        return f"fused in {dtypes} and else tiled on this {gpu}, where the gate held (book/results/{found['record']})"
    return f"tiled, as no gate of the fused kernels has held on a {gpu} yet (python -m minilib bench gpu runs it)"


def _ring() -> str:
    """What ranks on this machine would talk through, and how to start them."""
    found = comm_backend()
    if found is None:
        return "not here: this build of torch has no torch.distributed, training stays in one process"
    gpus = torch.cuda.device_count()
    where, ranks = (f"between {gpus} GPUs", gpus) if found == "nccl" else ("on this machine", "N")
    return f"{found} {where}; start ranks with torchrun --nproc-per-node {ranks} -m minilib clip"


def _logo() -> str:
    """What `logo` would align a language model with, and what its "auto" settings stand for here."""
    packages = ("transformers", "peft", "accelerate")
    missing = [package for package in packages if not _installed(package)]
    if missing:
        return f"not here: it needs {' and '.join(missing)} (pip install {' '.join(missing)})"
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    dtype = "bf16" if best_device() == "cuda" else "fp32"
    return f"{versions}; auto picks {dtype}, sdpa attention and the cache route, under checkpointing the mask route"


def _triton() -> str:
    if not importlib.util.find_spec("triton"):
        return "not installed: the fused backend needs it (pip install triton)"
    gpus = ", ".join(json.loads(HELD_ON.read_text(encoding="utf-8")))
    proven = f"and on {gpus}" if gpus else "not yet run on a GPU"
    return f"installed: the fused backend is proven in the interpreter (TRITON_INTERPRET=1), {proven}"


def _extra(name: str) -> str:
    missing = [package for package in EXTRAS[name] if not _installed(package)]
    return f"{name}: {'will install ' + ', '.join(missing) if missing else 'ready'}"


def _installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False
