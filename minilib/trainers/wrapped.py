"""Runs a computation of ours as the forward pass of a model that DDP, FSDP or DeepSpeed has wrapped.

    wrapper(*inputs)  ->  wrapper's own work before  ->  module.forward  ->  wrapper's own work behind
                                                         = function(module, *inputs), this once

Hidden states, head and loss are not what a model's own forward returns. But the wrappers gather weights and arrange the
exchange of gradients around a forward pass, so a computation that went past it would train on every rank for itself.

Proven in tests/test_logo_training_on_two_ranks_equals_one.py.
"""

from collections.abc import Callable
from typing import Any

from torch import nn


def inside_forward(wrapper: nn.Module, module: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(module, *inputs)`, called within `wrapper`'s forward pass; `module` is what it wraps, or itself."""
    if wrapper is module:
        return function(module, *inputs)
    usual = module.forward

    def once(*given: Any) -> Any:
        module.forward = usual  # what we call in here may call the module itself
        return function(module, *given)

    module.forward = once
    try:
        return wrapper(*inputs)
    finally:
        module.forward = usual
