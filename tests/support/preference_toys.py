"""What the tests of the preference losses share: log-probabilities of answers, and gradients on fresh leaves."""

import torch


def answers(b=5, m=3, seed=0, scale=1.0):
    """Log-probabilities of chosen (b,) and rejected (b, m) answers, below 0, fp64."""
    generator = torch.Generator().manual_seed(seed)
    values = -scale * torch.rand(b, 1 + m, generator=generator, dtype=torch.float64) - 0.01
    return values[:, 0], values[:, 1:]


def gradient(loss, *tensors):
    """The gradient of the loss with respect to every tensor."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    return torch.autograd.grad(loss(*leaves), leaves)
