"""One checkpoint file that is always whole: written next to its place, then moved over the old one.

Loading compares settings and model first: a checkpoint of another run raises before anything is overwritten.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from minilib.common import atomic_path, different_setting


def save(path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict, **state: Any) -> None:
    """Write model, optimizer, settings and further plain state to `path`, all or nothing."""
    whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "settings": settings, **state}
    with atomic_path(path) as unfinished:
        torch.save(whole, unfinished)


def load(path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict) -> dict[str, Any]:
    """Load `path` into model and optimizer; returns the rest. ValueError for a file of another run or model."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found = saved.pop("settings")
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} cannot be read ({type(error).__name__}): delete it to start anew."
        ) from error
    if different := different_setting({name: found.get(name) for name in settings}, settings):
        name, there, here = different
        raise ValueError(
            f"checkpoint {path} was made with {name}={there!r}, this run has {name}={here!r}: "
            "use the same setting or another output_dir."
        )
    _compare_model(path, saved["model"], model.state_dict())
    model.load_state_dict(saved.pop("model"))
    optimizer.load_state_dict(saved.pop("optimizer"))
    return saved


def load_weights(path: Path, model: nn.Module) -> nn.Module:
    """Put the weights of checkpoint `path` into `model`, wherever it lives, and return it: to use, not to train on."""
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
    return model


def _compare_model(path: Path, found: dict, wanted: dict) -> None:
    for name in wanted.keys() | found.keys():
        shapes = [tuple(side[name].shape) if name in side else "absent" for side in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"checkpoint {path} belongs to another model: {name} is {shapes[0]} there and {shapes[1]} here; "
                "build the same model or use another output_dir."
            )
