"""The stops of a run on a GPU, in the order of their worth, with their predicted seconds on one H100.

    seconds = 4 (CUDA context, first call) + kernels compiled here / workers x 3 + tuning + calls + what `how` names

where
    calls    matmuls 2 b^2 d (or 2 n V d) / 400 TFLOP/s in bf16, half of what torch.mm reaches; peers as they are published
    tuning   0.15 s for each of six tiles and kernel, once in all, kept in Triton's cache next to the compiled kernels

A stop whose prediction is longer than what is left is left out. `dry` are the settings that make it small enough for a
CPU, where kernels run in Triton's interpreter, which takes fp16 and no bf16.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minilib.bench.targets import LOGPS_GPU_SIZE

RESERVE = 15.0  # seconds of the budget for starting and for writing
HALF = {"half": "bf16"}
FUSED, SIGMOID = "fused bf16", "fused SigLIP bf16"
SIGLIP_PEERS = ["siglip-kernel", "siglip-kernel, chunks of 1,024"]
HEAD = [
    "three bare matmuls",
    "margin sweep",
    "margin sweep, no SFT term",
    "dense",
    "tiled",
    "fused",
    "tiled, frozen head",
]
HEAD_PEERS = ["margin sweep", "dense", "Liger SimPO", "cut-cross-entropy"]
MILLION = 1_048_576


class Stop(NamedTuple):
    """One measurement: `module.measure(settings, output)` in a process of its own."""

    name: str
    what: str
    module: str
    seconds: float  # predicted on an H100, everything counted
    how: str  # what the prediction is made of
    settings: dict[str, Any]
    dry: dict[str, Any]


def _contrastive(name: str, what: str, seconds: float, how: str, cells: list, names: list[str] | None = None, **more):
    """A stop of `minilib.bench.contrastive`: cells of (batch, width, methods, batch of the warm-up)."""
    names = names or list(dict.fromkeys(method for cell in cells for method in cell[2]))
    settings = {"cells": cells, "names": names, "dim": 512, "rounds": 5, "gate_batch": 4096, "others": True}
    settings |= {"scale": 14.3, "memory_batches": [], "ranks": [], **HALF, **more}
    small = [[48 + 16 * k, 32, [_in_fp16(m) for m in cell[2]], cell[3:] and 32] for k, cell in enumerate(cells)]
    dry = {"cells": small, "names": [_in_fp16(m) for m in names if not m.startswith("compiled")], "half": "fp16"}
    return Stop(
        name,
        what,
        "minilib.bench.contrastive",
        seconds,
        how,
        settings,
        dry | {"dim": 32, "gate_batch": 48, "rounds": 1},
    )


def _in_fp16(method: str) -> str:
    return method.replace("bf16", "fp16")


def _logps(name: str, what: str, seconds: float, how: str, names: list[str]):
    settings = LOGPS_GPU_SIZE | {"dtype": "bf16", "rounds": 5, "memory": False, "names": names}
    dry = {
        "tokens": 32,
        "dim": 32,
        "words": 96,
        "dtype": "fp16",
        "rounds": 1,
        "gate": {"tokens": 32, "dim": 32, "words": 96},
    }
    return Stop(name, what, "minilib.bench.logps", seconds, how, settings, dry)


STOPS = (
    Stop(
        "machine", "what the GPU reaches", "minilib.bench.gpu.parts", 8, "context 4, a dozen matmuls and copies 4",
        {"part": "machine"}, {},
    ),
    Stop(
        "gate", "every fused kernel against fp64", "minilib.bench.gpu.gate", 60,
        "16 processes at once: context 8, at most 12 kernels each at 3, comparisons 10", {"workers": True}, {"workers": False},
    ),
    _contrastive(
        "infonce", "InfoNCE, b = 65,536 and 32,768, d = 512, bf16", 24,
        "context 4, gate 4, tuning 4, widened tiles and dense 5, six calls of 4 matmuls 6",
        [[65_536, 512, [FUSED, f"{FUSED}, forward"]], [32_768, 512, [FUSED, "dense", "tiled"]]],
    ),
    _contrastive(
        "infonce peers", "InfoNCE next to inf-cl and torch.compile", 52,
        "context 4, gate 4, inf-cl: compiling 8, six calls at 1; torch.compile 28",
        [[65_536, 512, [FUSED, "inf-cl"]], [32_768, 512, [FUSED, "compiled dense"]]], [FUSED, "inf-cl", "compiled dense"],
        ungated=["compiled dense"],
    ),
    _contrastive(
        "million", "InfoNCE, b = 1,048,576, d = 512, once", 30,
        "context 4, gate 3, one call at 65,536, features 2, 4 matmuls of 1.13e15 operations 12, the same again for safety",
        [[MILLION, 512, [FUSED], 65_536]],
    ),
    _contrastive(
        "siglip", "SigLIP, b = 65,536, d = 768 and 512, bf16, next to siglip-kernel", 32,
        "context 4, gate 5, tuning 3, siglip-kernel: compiling 6; three methods, six calls each at two widths 6; dense 4",
        [[65_536, d, [SIGMOID, *SIGLIP_PEERS]] for d in (768, 512)] + [[32_768, 512, [SIGMOID, "dense SigLIP"]]],
    ),
    _logps(
        "head", "a head of 128,256 entries, 8,192 tokens, d = 4,096, bf16", 28,
        "context 4, gate 5, inputs 4, seven methods, six calls each at 0.06 to 0.25 s", HEAD,
    ),
    _logps(
        "head peers", "the head next to Liger and cut-cross-entropy", 32,
        "context 4, gate 8 with compiling, tuning of cut-cross-entropy 10, six calls each at 0.06 to 0.4 s", HEAD_PEERS,
    ),
    Stop(
        "logo", "one LOGO step of an 8B Llama with LoRA, prompt 4,096, three answers of 128", "minilib.bench.step", 92,
        "transformers 6, context 4, FlexAttention compiled for the gate 25 and the model 35, weights 8, four steps each 14",
        {
            "model": "8b", "prompt": 4096, "answer": 128, "target": 65_536, "rounds": 3, "rejected": [2], "route": "flex",
            "dtype": "bfloat16", "checkpointing": True, "memory": False, "gate_rejected": [2],
        },
        {
            "model": "tiny", "prompt": 48, "answer": 4, "target": 256, "rounds": 1, "route": "auto", "dtype": "float32",
            "checkpointing": False, "plain": True, "device": "cpu",
        },
    ),
    _contrastive(
        "memory", "memory against b", 10, "context 4, calls 4, gate 2",
        [[b, 512, [FUSED, SIGMOID], 16_384] for b in (16_384, 65_536, 262_144)],
    ),
    _contrastive(
        "precision", "errors against fp64 by precision", 10, "context 4, ten methods with four cases each 6", [],
        [FUSED, "fused fp16", "fused fp32", SIGMOID, "dense", "tiled", "dense SigLIP", "inf-cl", "siglip-kernel"],
    ),
    Stop(
        "ring", "a ring over NCCL: one rank, and two ranks on this GPU", "minilib.bench.gpu.parts", 26,
        "twice: context 4, NCCL 5, steps 4",
        {"part": "ring", "ring_batch": 16_384, "ring_gate_batch": 1024, "ring_steps": 3, "dim": 512, "scale": 14.3},
        {"ring_batch": 64, "ring_gate_batch": 32, "ring_steps": 1, "dim": 16},
    ),
    Stop(
        "profile", "the kernels of the stop furthest from its floor", "minilib.bench.gpu.parts", 12,
        "context 4, tuned kernels, two calls under torch.profiler 5",
        {"part": "profile", "of": "infonce", "batch": 65_536, "dim": 512, **HALF, **LOGPS_GPU_SIZE},
        {"batch": 48, "dim": 32, "tokens": 32, "words": 96, "half": "fp16"},
    ),
)  # fmt: skip


def settings_of(stop: Stop, seed: int, dry: bool) -> dict[str, Any]:
    """What `measure` is given: fresh numbers by the seed; at toy sizes on a CPU in a dry run."""
    common = {"device": "dry" if dry else "cuda", "threads": 1 if dry else 8, "seed": seed}
    return common | stop.settings | (stop.dry if dry else {})


def too_late(stop: Stop, left: float) -> str | None:
    """A sentence for a stop that does not fit into the seconds that are left."""
    if stop.seconds <= left:
        return None
    return f"it needs about {stop.seconds:.0f} s and {max(left, 0):.0f} s were left."


def limit(stop: Stop, left: float) -> float:
    """The seconds after which a stop is ended: well beyond its prediction, never beyond what is left."""
    return min(left, 2 * stop.seconds + 20)
