"""Compiles every kernel for an H100 or H200 and prints what came out, one JSON record per kernel; needs no GPU.

Run by test_kernels_compile_for_a_gpu.py in a process of its own, in which Triton does not interpret.
"""

import collections
import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from minilib.kernels import triton_launch as launch
from minilib.kernels import triton_tiles

FLAGS = {
    "shifted_sums": [{}],
    "pair_sums": [{}],
    "softmax_grads": [{"PAIRS": False}, {"PAIRS": True}],
    "sigmoid_visit": [{"GAIN": 1.0}, {"GAIN": 0.0}],
}
NUMBERS = ("rows", "cols", "dim", "img_stride", "txt_stride", "partner", "grad_stride")
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def compile_kernel(name, dtype, tile, flags):
    """The compiled kernel for features (b, 512) of `dtype`, sizes and addresses divisible by 16."""
    kernel, config = getattr(triton_tiles, name), launch.config(*tile).all_kwargs()
    constants = {
        "BM": config.pop("BM"),
        "BN": config.pop("BN"),
        "BK": 32 if dtype == "fp32" else 64,
        "EVEN": True,
        "PRECISION": "tf32x3" if dtype == "fp32" else "ieee",
        **flags,
    }
    kinds = dict.fromkeys(kernel.arg_names, "*fp32")
    kinds |= dict.fromkeys(("img", "txt", "grad"), f"*{dtype}") | dict.fromkeys(NUMBERS, "i32")
    signature = {argument: "constexpr" if argument in constants else kinds[argument] for argument in kernel.arg_names}
    constexprs = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
    divisible = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind != "constexpr"}
    source = ASTSource(kernel, signature, constexprs, divisible)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=config)


def facts(name, dtype, tile, flags, chosen):
    compiled = compile_kernel(name, dtype, tile, flags)
    record = {"kernel": name, "dtype": dtype, "tile": tile, "flags": flags, "chosen": chosen}
    record["shared"] = compiled.metadata.shared
    record["wgmma"] = compiled.asm["ptx"].count("wgmma.mma_async")
    if chosen and CUOBJDUMP.exists():
        record |= machine_code(compiled.asm["cubin"])
    return record


def machine_code(cubin):
    """Registers, bytes of stack and the instructions by name, as Triton's own cuobjdump reads them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (dump(option, file.name) for option in ("-res-usage", "-sass"))
    record = {key.lower(): int(value) for key, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    names = re.findall(r"^\s+/\*\w{4,}\*/\s+(?:@\S+ )?([A-Z]\w*)", sass, re.M)
    record["instructions"] = dict(collections.Counter(names))
    record["exponentials"], record["tf32"] = sass.count("MUFU.EX2"), len(re.findall(r"HGMMA\S*TF32", sass))
    return record


def dump(option, path):
    result = subprocess.run([str(CUOBJDUMP), option, path], capture_output=True, text=True, check=True)
    return result.stdout + result.stderr


def jobs():
    """The fixed choice for every kernel, dtype and flag; then the other tiles, candidates for the tuner only."""
    for name, variants in FLAGS.items():
        chosen = launch.CAPPED.get(name, launch.FIXED[2])
        for flags in variants:
            yield name, "bf16", chosen, flags, True
            yield name, "fp32", launch.FIXED[4], flags, True
        if name != "pair_sums":
            launch.tuned(name)  # the tuner accepts its table
            yield name, "fp16", chosen, variants[0], True
            yield from ((name, "bf16", tile, variants[0], False) for tile in launch.TUNED if tile != chosen)


if __name__ == "__main__":
    print(json.dumps([facts(*job) for job in jobs()]))
