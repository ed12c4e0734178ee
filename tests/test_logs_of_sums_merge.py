"""The pair (m, s) is a commutative monoid: this is all that tiles, rings and vocabularies ask of it.

Proven as properties over random logits, -inf among them, and at the corners where other code breaks: overflow at large
logits, the identity, and rows of nothing but -inf.
"""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from minilib import lse

logits = st.lists(st.one_of(st.floats(-1e4, 1e4), st.just(-math.inf)), min_size=1, max_size=12)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def same(a, b):
    return torch.allclose(lse.value(a), lse.value(b), rtol=1e-12, atol=1e-12)


@given(logits, logits)
def test_merging_two_blocks_gives_the_pair_of_both(x, y):
    merged = lse.merge(lse.of_block(tensor(x)), lse.of_block(tensor(y)))
    torch.testing.assert_close(lse.value(merged), torch.logsumexp(tensor(x + y), 0), rtol=1e-12, atol=1e-12)


@given(logits, logits, logits)
def test_merging_is_associative(x, y, z):
    a, b, c = (lse.of_block(tensor(v)) for v in (x, y, z))
    assert same(lse.merge(lse.merge(a, b), c), lse.merge(a, lse.merge(b, c)))


@given(logits, logits)
def test_merging_is_commutative(x, y):
    a, b = lse.of_block(tensor(x)), lse.of_block(tensor(y))
    assert same(lse.merge(a, b), lse.merge(b, a))


@given(logits)
def test_the_empty_pair_is_the_identity(x):
    pair, nothing = lse.of_block(tensor(x)), lse.empty((), dtype=torch.float64)
    for merged in (lse.merge(pair, nothing), lse.merge(nothing, pair)):
        assert torch.equal(merged.m, pair.m)
        assert torch.equal(merged.s, pair.s)


@given(logits, st.permutations(range(12)))
def test_updating_block_by_block_in_any_order_gives_the_same_sum(x, order):
    pair = lse.empty((), dtype=torch.float64)
    for k in (k for k in order if k < len(x)):
        pair = lse.update(pair, tensor(x[k : k + 1]))
    torch.testing.assert_close(lse.value(pair), torch.logsumexp(tensor(x), 0), rtol=1e-12, atol=1e-12)


def test_merging_identities_never_gives_nan():
    nothing = lse.empty((3,))
    merged = lse.merge(nothing, nothing)
    assert torch.equal(merged.m, torch.full((3,), -math.inf))
    assert torch.equal(merged.s, torch.zeros(3))
    assert torch.equal(lse.value(merged), torch.full((3,), -math.inf))


def test_logits_that_overflow_a_plain_sum_are_exact():
    x = torch.tensor([[100.0, 100.0], [1e30, 1.0], [-1e30, -1e30]])
    assert torch.isinf(x.exp().sum(1)[:2]).all()
    expected = torch.tensor([100 + math.log(2), 1e30, -1e30])
    torch.testing.assert_close(lse.value(lse.of_block(x)), expected)


def test_infinite_logits_give_infinity_and_not_nan():
    pair = lse.update(lse.empty((1,)), torch.tensor([[math.inf, 0.0]]))
    assert lse.value(lse.merge(pair, lse.empty((1,)))).item() == math.inf


def test_a_block_without_columns_is_the_identity():
    pair = lse.of_block(torch.empty(2, 0))
    assert torch.equal(pair.m, torch.full((2,), -math.inf))
    assert torch.equal(pair.s, torch.zeros(2))


def test_the_first_value_of_the_paper_would_add_a_phantom_term():
    # Inf-CL's Eq. 4 starts at 0, as if there were one more logit of 0; -inf is the start that changes nothing.
    x = torch.full((4,), -2.0, dtype=torch.float64)
    phantom = lse.update((torch.zeros((), dtype=x.dtype), torch.ones((), dtype=x.dtype)), x)
    assert (lse.value(phantom) - torch.logsumexp(x, 0)).item() > 1
    assert same(lse.update(lse.empty((), dtype=x.dtype), x), lse.of_block(x))
