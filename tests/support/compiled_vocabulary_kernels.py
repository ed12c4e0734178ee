"""Compiles the vocabulary's kernels for an H100 or H200 and prints what came out, one JSON record each; needs no GPU.

Run by test_fused_logps_equal_dense.py in a process of its own, in which Triton does not interpret.
"""

import json

import triton
from support.compiled_kernels import CUOBJDUMP, machine_code
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from minilib.kernels import (
    triton_launch as launch,
)
from minilib.kernels import (
    triton_tiles as triton_vocabulary,
)

NUMBERS = ("rows", "cols", "dim", "hidden_stride", "weight_stride", "partner", "first", "grad_stride")


def facts(name, dtype):
    """What the compiler made of a kernel for operands (n, 512) of `dtype`, sizes and addresses divisible by 16."""
    kernel = getattr(triton_vocabulary, name)
    options = launch.choose(name, 4 if dtype == "fp32" else 2, 0)[1]
    constants = {"BM": options.pop("BM"), "BN": options.pop("BN"), "BK": 32 if dtype == "fp32" else 64, "EVEN": True}
    constants["PRECISION"] = "tf32x3" if dtype == "fp32" else "ieee"
    kinds = dict.fromkeys(kernel.arg_names, "*fp32") | dict.fromkeys(("hidden", "weight", "grad"), f"*{dtype}")
    kinds |= dict.fromkeys(NUMBERS, "i32") | {"labels": "*i64"}
    signature = {argument: "constexpr" if argument in constants else kinds[argument] for argument in kernel.arg_names}
    constexprs = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
    divisible = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind != "constexpr"}
    source = ASTSource(kernel, signature, constexprs, divisible)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    record = {"kernel": name, "dtype": dtype, "shared": compiled.metadata.shared}
    rows, cols, warps = constants["BM"], constants["BN"], options["num_warps"]
    record["least_exponentials"] = rows * cols // (32 * warps)
    record["wgmma"] = compiled.asm["ptx"].count("wgmma.mma_async")
    return record | (machine_code(compiled.asm["cubin"]) if CUOBJDUMP.exists() else {})


if __name__ == "__main__":
    print(json.dumps([facts(name, dtype) for name in ("row_sums", "row_grads") for dtype in ("bf16", "fp32")]))
