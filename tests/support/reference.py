"""What the tests of the losses share: tolerances, features, the fp64 judge, and what a refusal looks like."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

# Largest relative error, by norm, that each dtype may show against the dense fp64 answer for the same inputs.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}

# The same for the fused kernels; half-precision gradients are rounded once, when they are handed over (2^-12, 2^-9).
FUSED_TOLERANCE = {torch.float32: 2e-6, torch.float16: 3e-4, torch.bfloat16: 4e-3}


def unit_rows(rows: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random rows of length 1, `(rows, dim)`."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64)).to(dtype)


def value_and_grads(loss_fn, *tensors: Tensor) -> list[Tensor]:
    """The loss and its gradient with respect to every tensor, on fresh leaves."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    loss = loss_fn(*leaves)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def assert_close(got: list[Tensor], judge: list[Tensor], tolerance: float, rounding: float = 1e-15) -> None:
    """Loss by relative size, feature gradients by relative norm, scalar gradients by their natural size.

    The gradient of the scale is an inner product of features and gradients whose terms may cancel to nearly nothing;
    its natural size is what the factors allow, |features| |gradient|. `rounding` is an absolute
    allowance for gradients whose true value is zero.
    """
    names = ["loss", "image gradient", "text gradient", "scale gradient", "bias gradient"]
    natural = (judge[1].double().norm() * len(judge[1]) ** 0.5).item()
    for name, mine, true in zip(names, got, judge):
        size = true.double().norm().item()
        if mine.ndim == 0 and name != "loss":
            size = max(size, natural)
        difference = (mine.double() - true.double()).abs()
        assert difference.norm().item() <= tolerance * size + rounding, (
            f"{name}: largest difference {difference.max():.3g}, mean {difference.mean():.3g}, size {size:.3g}"
        )


def refused(error: type[Exception], words: str, call) -> None:
    """`call` must raise `error` with one sentence that holds `words`."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert message.endswith(".")
