"""On a GPU the vocabulary's tiles multiply bf16 operands as they are, with fp32 sums, and never a widened copy.

There is no GPU here: tensors say that they are on one, and a stub takes the place of products with `out_dtype`, which
no CPU has. It computes what such a product gives and remembers what it was given.
"""

import pytest
import torch

from minilib.bench.correctness import relative
from minilib.kernels import vocab_tiled
from minilib.losses.logps import token_logps

SIZES = {"n": 40, "d": 24, "v": 130}


class Products:
    """torch.mm and torch.addmm as a GPU has them; the dtypes of every product asked for with `out_dtype`."""

    def __init__(self):
        self.mm, self.addmm, self.seen = torch.mm, torch.addmm, []

    def multiply(self, a, b, out_dtype=None, out=None):
        if out_dtype is None:
            return self.mm(a, b, out=out)
        self.seen.append((a.dtype, b.dtype, out_dtype))
        return out.copy_(self.mm(a.to(out_dtype), b.to(out_dtype)))

    def add(self, total, a, b, out_dtype=None, alpha=1, out=None):
        if out_dtype is None:
            return self.addmm(total, a, b, alpha=alpha, out=out)
        self.seen.append((a.dtype, b.dtype, out_dtype))
        return out.copy_(total + alpha * self.mm(a.to(out_dtype), b.to(out_dtype)))


@pytest.fixture
def products(monkeypatch):
    stub = Products()
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    monkeypatch.setattr(torch, "mm", stub.multiply)
    monkeypatch.setattr(torch, "addmm", stub.add)
    return stub


def made(dtype, n, d, v):
    hidden, weight = torch.randn(n, d).to(dtype), (torch.randn(v, d) / d**0.5).to(dtype)
    return hidden, weight, torch.randint(v, (n,)), torch.randn(n) / n


def judge(hidden, weight, labels, factors):
    leaves = [x.double().requires_grad_() for x in (hidden, weight)]
    logps = token_logps(*leaves, labels, backend="dense")
    (logps * factors).sum().backward()
    return [logps.detach(), *(leaf.grad for leaf in leaves)]


def swept(hidden, weight, labels, factors, tile_size):
    grads = [
        torch.zeros(x.shape, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
        for x in (hidden, weight)
    ]
    return [vocab_tiled.sweep(hidden, weight, labels, factors.to(grads[0].dtype), grads, tile_size), *grads]


def visited_twice(hidden, weight, labels, factors, tile_size):
    sums, picked = vocab_tiled.log_sums(hidden, weight, labels, tile_size)
    grads = [torch.zeros_like(x, dtype=sums.dtype) for x in (hidden, weight)]
    vocab_tiled.add_grads(hidden, weight, labels, sums, factors.to(sums.dtype), grads, tile_size)
    return [picked - sums, *grads]


@pytest.mark.parametrize("way", [swept, visited_twice])
@pytest.mark.parametrize("tile_size", [None, 16])
def test_every_product_takes_bf16_and_sums_in_fp32(way, tile_size, products):
    given = made(torch.bfloat16, **SIZES)
    found = way(*given, tile_size)
    blocks = 1 if tile_size is None else 3 * 9  # of 40 rows and 130 entries
    # The tile again for the gradients of the second way; a sweep's gradients are two products for each block of rows.
    per_way = {swept: blocks + 2 * (1 if tile_size is None else 3), visited_twice: 4 * blocks}
    assert len(products.seen) == per_way[way]
    assert set(products.seen) == {(torch.bfloat16, torch.bfloat16, torch.float32)}
    assert [x.dtype for x in found] == [torch.float32] * 3
    for mine, true, most in zip(found, judge(*given), (1e-5, 1e-2, 1e-2)):
        assert relative(mine, true) < most


@pytest.mark.parametrize("way", [swept, visited_twice])
@pytest.mark.parametrize("tile_size", [None, 16])
def test_the_numbers_are_those_of_dense_in_fp64(way, tile_size, products):
    given = made(torch.float64, **SIZES)
    assert all(relative(mine, true) < 1e-12 for mine, true in zip(way(*given, tile_size), judge(*given)))
    assert products.seen == []


@pytest.mark.parametrize("way", [swept, visited_twice])
def test_fp16_is_widened_because_small_gradients_of_logits_would_vanish(way, products):
    given = made(torch.float16, **SIZES)
    given = (*given[:3], given[3] * 1e-6)
    assert all(relative(mine, true) < 1e-3 for mine, true in zip(way(*given, None), judge(*given)))
    assert products.seen == []


def test_a_label_whose_probability_nears_one_keeps_its_gradient(products):
    weight = torch.eye(8, dtype=torch.bfloat16)
    hidden, labels = 9.0 * weight, torch.arange(8)
    given = hidden, weight, labels, torch.ones(8)
    for mine, true in zip(swept(*given, None)[1:], judge(*given)[1:]):
        assert relative(mine, true) < 1e-2
