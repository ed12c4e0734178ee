"""The named peers, each called as its authors mean it to be called; a peer that cannot run says why in a sentence.

compiled dense           `torch.compile` of the dense loss, static shapes; needs a C++ compiler
F.linear_cross_entropy   torch's chunked loss, once per direction, scaled images as rows (torch 2.13 and newer)
open_clip                `ClipLoss` and `SigLipLoss` as one process calls them
sentence-transformers    `CachedMultipleNegativesRankingLoss`, both directions, on embeddings that exist already
inf-cl                   the authors' package, on a card only: see `authors`
"""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from minilib.bench import authors, on_card
from minilib.bench.harness import first_line
from minilib.bench.methods import ROUNDED, Inputs, Method, UnavailableError, backward

COMPILE_SECONDS = 240.0  # the time that a trial compilation may take
BUILTIN_CHUNK_ROWS = 2048  # of 512 to 4,096 and the built-in choice, the fastest at b = 8,192
CACHED_CHUNK_ROWS = 512  # of 32 (its default, meant for encoders) to 2,048, the fastest at 4,096 and 8,192


def available(names: tuple[str, ...] | None = None, device: str = "cpu") -> tuple[list[Method], dict[str, str]]:
    """The peers that run on `device`, and for each of the others a sentence that says why not."""
    methods, skipped = [], {}
    for name, build in (PEERS if device == "cpu" else CARD_PEERS).items():
        if names is not None and name not in names:
            continue
        try:
            methods.append(build())
        except UnavailableError as reason:
            skipped[name] = str(reason)
    return methods, skipped


def compiled_dense() -> Method:
    """The dense loss under `torch.compile`, after a trial in another process with a limit on its time."""
    trial = "from minilib.bench import methods, peers; peers.compiled_step()(methods.make_inputs(64, 64, 14.3))"
    try:
        subprocess.run([sys.executable, "-c", trial], check=True, capture_output=True, timeout=COMPILE_SECONDS)
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            f"torch.compile took longer than {COMPILE_SECONDS:.0f} s: run it on a faster machine."
        ) from None
    except subprocess.CalledProcessError as error:
        complaint = (error.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise UnavailableError(f"torch.compile failed ({complaint}): install a C++ compiler, such as g++.") from None
    return Method("compiled dense", compiled_step(), products=3, matrices=3)


def compiled_step() -> Callable[[Inputs], Tensor]:
    """A step whose dense loss is compiled anew for every shape, as a training run with one batch size would have it."""
    loss = torch.compile(_dense_loss, dynamic=False)
    return lambda x: backward(loss(x.img, x.txt, x.scale))


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


def open_clip() -> Method:
    """`ClipLoss` of open_clip: two logit matrices in one process."""
    loss = _open_clip_losses().ClipLoss()
    return Method("open_clip ClipLoss", lambda x: backward(loss(x.img, x.txt, x.scale)), products=6, matrices=6)


def open_clip_siglip() -> Method:
    """`SigLipLoss` of open_clip: one logit matrix and one matrix of labels."""
    loss = _open_clip_losses().SigLipLoss()
    return Method(
        "open_clip SigLipLoss",
        lambda x: backward(loss(x.img, x.txt, x.scale, x.bias)),
        products=3,
        matrices=6,
        loss="siglip",
    )


def sentence_transformers_cached() -> Method:
    """The loss stage of the cached in-batch loss: `calculate_loss(..., with_backward=True)`, no encoder around it.

    That is the part which stands beside ours: loss and gradients of finished embeddings, rows in chunks, both
    directions with a softmax each. Its scale is a constant, so no gradient of it is computed, and the features are
    normalised already, so it takes their dot products.
    """
    losses, dot_score = _sentence_transformers()

    def step(x: Inputs) -> Tensor:
        loss = losses.CachedMultipleNegativesRankingLoss(
            torch.nn.Sequential(torch.nn.Identity()),  # stands where the encoder would; never called
            scale=x.scale.item(),
            similarity_fct=dot_score,
            mini_batch_size=CACHED_CHUNK_ROWS,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        )
        return loss.calculate_loss([[x.img], [x.txt]], with_backward=True)

    return Method("sentence-transformers cached", step, products=6, matrices=0.5, missing=("scale",))


def halved(peer: Method, half: torch.dtype = torch.bfloat16) -> Method:
    """The same peer on features of half precision, its errors allowed to be those of such features."""
    return peer._replace(dtype=half, tolerance=ROUNDED)


def _dense_loss(img: Tensor, txt: Tensor, scale: Tensor) -> Tensor:
    # The dense loss without the checks of its inputs, which would break the compiled graph into pieces.
    logits = scale * img @ txt.T  # (b, b)
    labels = torch.arange(len(img))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _open_clip_losses() -> ModuleType:
    # The package itself imports torchvision, which must match torch's build; the losses stand in one file that needs
    # torch alone, so that file is loaded from the installed distribution without importing the package.
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise UnavailableError(
            'open_clip is not installed: `pip install --no-deps "open_clip_torch>=3.3,<4"` adds it beside torch.'
        )
    path = Path(package.submodule_search_locations[0]) / "loss.py"
    spec = importlib.util.spec_from_file_location("minilib.bench._open_clip_loss", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sentence_transformers() -> tuple[ModuleType, Callable[[Tensor, Tensor], Tensor]]:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise UnavailableError(
            'sentence-transformers is not installed: `pip install -e ".[bench]"` in the repository adds it.'
        )
    try:
        from sentence_transformers.sentence_transformer import losses
        from sentence_transformers.util import dot_score
    except Exception as error:  # its dependencies fail in many ways, a torchvision of another build among them
        raise UnavailableError(
            f"sentence-transformers cannot be imported ({first_line(error)}): repair its installation, "
            "or remove a torchvision that does not match torch."
        ) from None
    return losses, dot_score


PEERS = {
    "compiled dense": compiled_dense,
    "F.linear_cross_entropy, twice": linear_cross_entropy,
    "open_clip ClipLoss": open_clip,
    "sentence-transformers cached": sentence_transformers_cached,
    "open_clip SigLipLoss": open_clip_siglip,
    "inf-cl": authors.inf_cl,
}
CARD_PEERS = {  # in half precision, each on the features that it is given
    "compiled dense": on_card.compiled_dense,
    "F.linear_cross_entropy, twice": lambda: halved(linear_cross_entropy()),
    "open_clip ClipLoss": lambda: halved(open_clip()),
    "open_clip SigLipLoss": lambda: halved(open_clip_siglip()),
    "inf-cl": authors.inf_cl,
}
