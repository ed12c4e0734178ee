"""What the experiment compares: every arm starts from the same tiny model, the same pairs, and as many steps.

The arms stand in `arms.yaml`, group by group with what a group asks; here come those with each deviation of the
released trainer. "LOGO" without further words is M = 2, lambda = 0.1, mixed positions, as the paper has it. Departure
from the paper: every prompt has a target of its own, where the paper has one for all. LoRA of rank 16 sits on the
projections q and k alone, where positions act; the paper adapts all of attention and the embeddings, which costs this
model running text. Reward scale and margin are those of Llama-3 (10 and 3), the learning rate is ours.
"""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from minilib.longcontext.scoring import DEVIATIONS


class Arm(NamedTuple):
    """One way to train, or with loss None not to.

    `options` go to LogoConfig, where a true `target` stands for that of the run; `steps` is a share of the others'.
    """

    name: str
    group: str
    loss: str | None = "logo"
    options: dict[str, Any] = {"num_rejected": 2, "target": True}  # noqa: RUF012, never written to
    full_length: bool = False
    steps: float = 1.0
    clip: float = 1.0
    modules: tuple[str, ...] | None = None  # those of LoRA, by default the run's


def _arm(name: str, group: str, more: dict[str, Any] | None = None, **fields: Any) -> Arm:
    arm = Arm(name, group, **fields)
    return arm._replace(options=arm.options | (more or {}))


_GROUPS = yaml.safe_load(Path(__file__).with_name("arms.yaml").read_text(encoding="utf-8"))
_RELEASED = {f"released: {name}": [name] for name in DEVIATIONS} | {"released: all four": list(DEVIATIONS)}
_GROUPS["released"] = {name: {"more": {"released": deviations}} for name, deviations in _RELEASED.items()}
ARMS = tuple(_arm(name, group, **fields) for group, arms in _GROUPS.items() for name, fields in arms.items())


def named(names: list[str] | None) -> list[Arm]:
    """The arms of these names, all by default; ValueError for a name that is unknown."""
    known = {arm.name: arm for arm in ARMS}
    for name in names or ():
        if name not in known:
            raise ValueError(f"arms holds {name!r}: choose among {', '.join(map(repr, known))}.")
    return list(ARMS) if names is None else [known[name] for name in names]


def trainer_options(arm: Arm, target: int) -> dict[str, Any]:
    """The fields of LogoConfig for this arm."""
    options = {name: value for name, value in arm.options.items() if name not in ("target", "rope")}
    length = target if arm.options.get("target") else None
    return {"vary_target": True} | options | {"loss_type": arm.loss, "target_length": length}
