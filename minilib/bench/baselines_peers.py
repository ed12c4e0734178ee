"""The named peers of the contrastive losses, each called as its authors mean it to be called, or a sentence why not.

`inf-cl` 1.2.1, the authors' package, runs on a GPU only, and is called once per direction:

    loss = ( mean_i flash(img, txt)_i + mean_i flash(txt, img)_i ) / 2

where
    flash   `cal_flash_loss`, log-sum-exp minus positive of every row; it multiplies the rows by the scale, widens both
            sides to fp32 and multiplies them as TF32

Its two backward kernels per direction each compute the logits again: 1 + 4 matmuls per direction, 10 in all. It works
on blocks of 256 features, and its backward pass reads past the end of a batch that is not a multiple of 64.

`siglip-kernel` takes the logarithm of the scale, and SigLIP in chunks of rows, whose size it chooses by the GPU or is
told: 1,024 is what its authors name as the one with the least memory.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minilib.bench import harness
from minilib.bench.baselines import BLURRED, ROUNDED, Inputs, backward, dense_clip
from minilib.bench.harness import Method, UnavailableError, first_line

COMPILE_SECONDS = 240.0  # the time that a trial compilation may take
BUILTIN_CHUNK_ROWS = 2048  # of 512 to 4,096 and the built-in choice, the fastest at b = 8,192
CACHED_CHUNK_ROWS = 512  # of 32 (its default, meant for encoders) to 2,048, the fastest at 4,096 and 8,192
INF_CL_BLOCK = 256  # features that its kernels take at a time


def available(names: tuple[str, ...] | None = None, device: str = "cpu") -> tuple[list[Method], dict[str, str]]:
    """The peers that run on `device`, and for each of the others a sentence that says why not."""
    known = PEERS if device == "cpu" else GPU_PEERS
    return harness.available({name: build for name, build in known.items() if names is None or name in names})


def compiled_dense() -> Method:
    """The dense loss under `torch.compile`, after a trial in another process with a limit on its time."""
    trial = "from minilib.bench import baselines, baselines_peers as peers; "
    trial += "peers.compiled_step(peers.plain_dense)(baselines.make_inputs(64, 64, 14.3))"
    try:
        subprocess.run([sys.executable, "-c", trial], check=True, capture_output=True, timeout=COMPILE_SECONDS)
    except subprocess.TimeoutExpired:
        sentence = f"torch.compile took longer than {COMPILE_SECONDS:.0f} s: run it on a faster machine."
        raise UnavailableError(sentence) from None
    except subprocess.CalledProcessError as error:
        complaint = (error.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise UnavailableError(f"torch.compile failed ({complaint}): install a C++ compiler, such as g++.") from None
    return Method("compiled dense", compiled_step(plain_dense), products=3, matrices=3)


def compiled_step(dense: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Inputs], Tensor]:
    """A step whose dense loss is compiled anew for every shape, as a training run with one batch size would have it."""
    loss = torch.compile(dense, dynamic=False)
    return lambda x: backward(loss(*x[:3]))


def plain_dense(img: Tensor, txt: Tensor, scale: Tensor) -> Tensor:
    """The dense loss without the checks of its inputs, which would break the compiled graph into pieces."""
    logits, labels = scale * img @ txt.T, torch.arange(len(img))  # (b, b)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def linear_cross_entropy() -> Method:
    """Torch's own chunked loss, once for images against texts and once for texts against images."""
    if not hasattr(F, "linear_cross_entropy"):
        raise UnavailableError(f"F.linear_cross_entropy is not in torch {torch.__version__}: it came with torch 2.13.")
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=BUILTIN_CHUNK_ROWS, chunking_method=None)

    def step(x: Inputs) -> Tensor:
        labels = torch.arange(len(x.img), device=x.img.device)
        img = F.linear_cross_entropy(x.scale * x.img, x.txt, labels, options=options)
        txt = F.linear_cross_entropy(x.scale * x.txt, x.img, labels, options=options)
        return backward((img + txt) / 2)

    return Method("F.linear_cross_entropy, twice", step, products=6, matrices=0.5)


def open_clip(name: str) -> Method:
    """`ClipLoss` (two logit matrices in one process) or `SigLipLoss` (one, and a matrix of labels) of open_clip."""
    # The package itself imports torchvision, which must match torch's build; the losses stand in one file that needs
    # torch alone, so that file is loaded from the installed distribution without importing the package.
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        how = '`pip install --no-deps "open_clip_torch>=3.3,<4"` adds it next to torch.'
        raise UnavailableError(f"open_clip is not installed: {how}")
    path = Path(package.submodule_search_locations[0]) / "loss.py"
    spec = importlib.util.spec_from_file_location("minilib.bench._open_clip_loss", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loss = getattr(module, name)()
    if name == "ClipLoss":
        return Method(f"open_clip {name}", lambda x: backward(loss(*x[:3])), products=6, matrices=6)
    return Method(f"open_clip {name}", lambda x: backward(loss(*x)), products=3, matrices=6, loss="siglip")


def sentence_transformers_cached() -> Method:
    """The loss stage of the cached in-batch loss, which compares with ours: finished embeddings, no encoder around it.

    Rows in chunks, both directions with a softmax each. Its scale is a constant, so no gradient of it is computed, and
    the features are normalised already, so it takes their dot products.
    """
    how = 'is not installed: `pip install -e ".[bench]"` in the repository adds it.'
    harness.require("sentence_transformers", f"sentence-transformers {how}")
    try:
        from sentence_transformers.sentence_transformer import losses
        from sentence_transformers.util import dot_score
    except Exception as error:  # its dependencies fail in many ways, a torchvision of another build among them
        how = "repair its installation, or remove a torchvision that does not match torch."
        raise UnavailableError(f"sentence-transformers cannot be imported ({first_line(error)}): {how}") from None
    options = {"mini_batch_size": CACHED_CHUNK_ROWS, "partition_mode": "per_direction"}
    options |= {"directions": ("query_to_doc", "doc_to_query"), "similarity_fct": dot_score}

    def step(x: Inputs) -> Tensor:
        encoder = torch.nn.Sequential(torch.nn.Identity())  # never called
        loss = losses.CachedMultipleNegativesRankingLoss(encoder, scale=x.scale.item(), **options)
        return loss.calculate_loss([[x.img], [x.txt]], with_backward=True)

    return Method("sentence-transformers cached", step, products=6, matrices=0.5, missing=("scale",))


def inf_cl(half: torch.dtype = torch.bfloat16) -> Method:
    """`cal_flash_loss` twice; needs a CUDA GPU, for its kernels hold instructions of such a GPU."""
    if not torch.cuda.is_available():
        why = "its kernels hold instructions of such a GPU, which no interpreter runs."
        raise UnavailableError(f"inf-cl needs a CUDA GPU: {why}")
    harness.require("inf_cl", "inf-cl is not installed: `pip install inf-cl==1.2.1` adds it next to torch and triton.")
    try:
        from inf_cl import cal_flash_loss
    except Exception as error:  # a package that meets another triton than its own may fail in any way
        raise UnavailableError(f"inf-cl cannot be imported ({first_line(error)}): repair its installation.") from None

    def step(x: Inputs) -> Tensor:
        images = cal_flash_loss(x.img, x.txt, scale=x.scale).mean()
        return backward((images + cal_flash_loss(x.txt, x.img, scale=x.scale).mean()) / 2)

    return halved(Method("inf-cl", step, products=10, matrices=0, multiple=INF_CL_BLOCK), half)


def siglip_kernel(chunk: int = 0, half: torch.dtype = torch.bfloat16) -> Method:
    """The fused SigLIP loss of siglip-kernel in half precision; `chunk` rows at a time, 0 for its own choice."""
    harness.require("siglip_kernel", "siglip-kernel is not installed: pip install siglip-kernel.")
    try:
        from siglip_kernel import fused_chunked_bf16_siglip_loss as loss
    except Exception as error:  # a package that meets another triton than its own may fail in any way
        raise UnavailableError(f"siglip-kernel cannot be imported ({first_line(error)}).") from None

    def step(x: Inputs) -> Tensor:  # its loss has the dtype of the features, so it is summed up no finer
        return backward(loss(x.img, x.txt, x.scale.log(), x.bias, chunk))

    name = f"siglip-kernel{f', chunks of {chunk:,}' if chunk else ''}"
    return halved(Method(name, step, products=3, matrices=0.2, loss="siglip"), half)._replace(tolerance=BLURRED)


def halved(peer: Method, half: torch.dtype = torch.bfloat16) -> Method:
    """The same peer on features of half precision, its errors allowed to be those of such features."""
    return peer._replace(dtype=half, tolerance=ROUNDED)


def blurred(peer: Method) -> Method:
    """The same, for a peer whose logits are rounded as well."""
    return halved(peer)._replace(tolerance=BLURRED)


PEERS = {
    "compiled dense": compiled_dense,
    "F.linear_cross_entropy, twice": linear_cross_entropy,
    "open_clip ClipLoss": lambda: open_clip("ClipLoss"),
    "sentence-transformers cached": sentence_transformers_cached,
    "open_clip SigLipLoss": lambda: open_clip("SigLipLoss"),
    "inf-cl": inf_cl,
}
# In half precision, each on the features that it is given; compiled without a trial, to save time.
GPU_PEERS = {
    "compiled dense": lambda: blurred(Method("compiled dense", compiled_step(dense_clip), products=3, matrices=3)),
    **{n: lambda build=build: blurred(build()) for n, build in PEERS.items() if n.startswith(("F.", "open_clip"))},
    "inf-cl": inf_cl,
    "siglip-kernel": siglip_kernel,
    "siglip-kernel, chunks of 1,024": lambda: siglip_kernel(1024),
}
