"""Runs a computation of ours as the forward pass of a model that DDP, FSDP or DeepSpeed has wrapped.

    wrapper(*inputs)  ->  wrapper's own work before  ->  module.forward  ->  wrapper's own work behind
                                                         = function(module, *inputs), this once

Hidden states, head and loss are not what a model's own forward returns. But the wrappers gather weights and arrange the
exchange of gradients around a forward pass, so a computation that went past it would train on every rank for itself.
Newer FSDP leaves the model unwrapped and hooks its call; so a call it is even where wrapper and module are the same.

Proven in tests/test_logo_training_on_two_ranks_equals_one.py.
"""

from collections.abc import Callable
from typing import Any

from torch import nn


def inside_forward(wrapper: nn.Module, module: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(module, *inputs)`, called within `wrapper`'s forward pass; `module` is what it wraps, or itself."""
    own = vars(module).get("forward")  # accelerate gives a module one of its own; else the class has it

    def once(*given: Any) -> Any:
        restore()  # what we call in here may call the module itself
        return function(module, *given)

    def restore() -> None:
        if own is None:
            vars(module).pop("forward", None)
        else:
            module.forward = own

    module.forward = once
    try:
        return wrapper(*inputs)
    finally:
        restore()
