"""The fused log-probabilities, run by Triton's interpreter where there is no GPU, equal dense in value and gradients.

The judge is log-softmax in fp64 on the very numbers that the kernels received. Sizes sit around the edges of the
interpreter's 64 x 64 tiles and of its two slices of the vocabulary; widths are odd.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.reference import FUSED_TOLERANCE, refused
from test_token_logps_equal_dense import TRAINED, assert_equal, inputs, judge, value_and_gradients

from minilib.losses.logps import token_logps

pytest.importorskip("triton", reason="the fused kernels need triton, which this machine does not have")
from minilib.kernels import triton_launch as launch

DEVICE = "cpu" if launch.INTERPRETED else "cuda"
HALVES = [torch.float16] if launch.INTERPRETED else [torch.float16, torch.bfloat16]
FP32 = FUSED_TOLERANCE[torch.float32] if launch.INTERPRETED else 1e-4  # three TF32 products on a GPU


def check(row, dtype=torch.float32, trained=(True, True), tolerance=FP32, **options):
    hidden, weight, labels, upstream = (x.to(DEVICE) for x in row)
    given = [hidden.to(dtype), weight.to(dtype)]
    got = value_and_gradients(*given, labels, upstream.float(), trained, backend="fused", **options)
    assert got[0].dtype == torch.float32
    true = judge(*given, labels, upstream.float())
    assert_equal(got[:1], true[:1], FP32)  # no logit is rounded
    assert_equal(got, true, tolerance)
    return got


@pytest.mark.parametrize(("n", "words", "dim"), [(1, 1, 1), (63, 64, 16), (64, 65, 33), (65, 200, 96), (130, 129, 7)])
@pytest.mark.parametrize("size", [0.1, 3.0])
def test_fused_equals_log_softmax_in_value_and_gradients(n, words, dim, size):
    check(inputs(n, dim, words, size, ignored=n // 5))


@pytest.mark.parametrize("trained", TRAINED.values(), ids=TRAINED)
def test_whichever_side_is_frozen_the_other_gets_its_gradient(trained):
    got = check(inputs(70, 12, 90), trained=trained)
    assert [g is not None for g in got[1:]] == list(trained)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("upstream", [1e-6, 1.0, 1e4])
def test_half_precision_is_multiplied_as_it_is_and_small_upstream_gradients_survive(dtype, upstream):
    hidden, weight, labels, own = inputs(100, 24, 150)
    row = hidden.to(DEVICE, dtype), weight.to(DEVICE, dtype), labels.to(DEVICE), (own * upstream).float().to(DEVICE)
    true = judge(*row)
    leaves = [x.clone().requires_grad_() for x in row[:2]]
    logps = token_logps(*leaves, row[2], backend="fused")
    assert_equal([logps.detach()], true, FP32)
    # Gradients are handed over in half precision: what does not fit its range is the trainer's business (loss scaling).
    from minilib.kernels import vocab_fused as vocabulary_fused

    grads = torch.zeros_like(leaves[0], dtype=torch.float32), torch.zeros_like(leaves[1], dtype=torch.float32)
    sums, _ = vocabulary_fused.log_sums(row[0], row[1], row[2])
    vocabulary_fused.add_grads(row[0], row[1], row[2], sums, row[3], grads)
    assert_equal([logps.detach(), *grads], true, 4 * FUSED_TOLERANCE[dtype])


@pytest.mark.parametrize("chunk_size", [16, 50, 64, 8192])
def test_chunks_of_any_size_agree(chunk_size):
    check(inputs(90, 20, 130), chunk_size=chunk_size)


def test_rows_that_are_not_contiguous_are_served():
    hidden, weight, labels, upstream = (x.to(DEVICE) for x in inputs(40, 24, 70))
    true = judge(hidden.float()[:, ::2], weight.float()[:, ::2], labels, upstream.float())
    got = token_logps(hidden.float()[:, ::2], weight.float()[:, ::2], labels, backend="fused")
    assert_equal([got], true, FP32)


def test_labels_with_gaps_between_them_and_one_number_for_all_upstream_are_served():
    hidden, weight, labels, _ = (x.to(DEVICE) for x in inputs(40, 24, 70))
    table = torch.stack([labels, torch.zeros_like(labels)], 1)
    leaves = [x.float().requires_grad_() for x in (hidden, weight)]
    token_logps(*leaves, table[:, 0], backend="fused").sum().backward()
    true = judge(hidden.float(), weight.float(), labels, torch.ones(40, device=DEVICE))
    assert_equal([true[0], *(leaf.grad for leaf in leaves)], true, FP32)


def test_no_label_to_score_costs_no_launch():
    hidden, weight, labels, upstream = (x.to(DEVICE) for x in inputs(40, 24, 70))
    none = torch.full_like(labels, -100)
    got = value_and_gradients(hidden.float(), weight.float(), none, upstream, backend="fused")
    assert all((x == 0).all() for x in got)


BAD = {
    "fp64": (torch.float64, torch.float64, "hidden is torch.float64: the fused backend takes fp32, fp16 and bf16"),
    "two dtypes": (torch.float32, torch.float16, "hidden is torch.float32 and weight torch.float16"),
    "bf16": (torch.bfloat16, torch.bfloat16, "Triton's interpreter cannot multiply bf16"),
}


@pytest.mark.parametrize("case", BAD if launch.INTERPRETED else list(BAD)[:2])
def test_what_the_kernels_cannot_multiply_is_refused(case):
    hidden, weight, words = BAD[case]
    row = inputs()
    refused(TypeError, words, lambda: token_logps(row[0].to(hidden), row[1].to(weight), row[2], backend="fused"))


@pytest.mark.slow
def test_both_kernels_compile_for_a_gpu_without_spilling_or_atomics(tmp_path):
    script = Path(__file__).parents[1] / "support" / "compiled_vocabulary_kernels.py"
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(
            [str(script.parents[1]), str(script.parents[2]), os.environ.get("PYTHONPATH", "")]
        ),
    }
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    for record in json.loads(result.stdout):
        assert record["wgmma"] > 0, record
        assert record["shared"] <= 227 * 1024, record
        if "reg" in record:
            assert record["stack"] == 0, record
            assert not {"STL", "LDL", "ATOM", "ATOMG", "RED", "REDG"} & set(record["instructions"]), record
            # one exponential per logit and, in half precision, two programs on a multiprocessor
            assert record["exponentials"] <= record["least_exponentials"] + 2, record
            if record["dtype"] == "bf16":
                assert 2 * record["reg"] * 32 * 8 <= 65_536, record
