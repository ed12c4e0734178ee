"""What the experiment compares: every arm starts from the same tiny model, the same pairs, and as many steps.

    group         arms                                        what the group asks
    start         base, interpolation                         what is there without training
    supervised    SFT on the same chosen answers              the paper's comparison; its fair controls: stretched
                                                              positions, and real inputs at full length
    LOGO          SimPO (M = 1), M = 2, 3, 8                  how many rejected answers
    without       plain positions, no preference              which part does it
    lambda        0, 0.5, 1 instead of 0.1                    how much SFT
    scale         reward scale 1 with margin 0.3              does a weaker push reach more pairs
    positions     continuous, sparse, one target, PoSE        which synthesis (9:1 mixed otherwise)
    adapters      LoRA on all of attention                    where it learns
    aggregation   SimPO on both pairs                         the mean inside the sigmoid or outside
    released      each deviation of the released trainer      what they change

"LOGO" without further words is M = 2, lambda = 0.1, mixed positions, as the paper has it. Departure from the paper:
every prompt has a target of its own, where the paper has one for all. LoRA of rank 16 sits on the projections q and k
alone, where positions act; the paper adapts all of attention and the embeddings, which costs this model running text.
Reward scale and margin are those of Llama-3 (10 and 3), the learning rate is ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minilib.longcontext.scoring import DEVIATIONS


class Arm(NamedTuple):
    """One way to train, or with loss None not to.

    `options` go to LogoConfig, where a true `target` stands for that of the run; `steps` is a share of the others'.
    """

    name: str
    group: str
    loss: str | None
    options: dict[str, Any]
    full_length: bool = False
    steps: float = 1.0
    clip: float = 1.0
    modules: tuple[str, ...] | None = None  # those of LoRA, by default the run's


def logo(name: str, group: str, **options: Any) -> Arm:
    """LOGO in the paper's setting but for what `options` say."""
    return Arm(name, group, "logo", {"num_rejected": 2, "target": True} | options)


ARMS = (
    Arm("base", "start", None, {}),
    Arm("interpolation, no training", "start", None, {"rope": "interpolation"}),
    Arm("SFT", "supervised", "sft", {}),
    Arm("SFT, stretched positions", "supervised", "sft", {"target": True}),
    Arm("SFT, full length, same steps", "supervised", "sft", {}, full_length=True),
    Arm("SFT, full length, same tokens", "supervised", "sft", {}, full_length=True, steps=0.25),
    Arm("SimPO, M = 1", "LOGO", "simpo", {"num_rejected": 1, "target": True}),
    logo("LOGO", "LOGO"),
    logo("LOGO, M = 3", "LOGO", num_rejected=3),
    logo("LOGO, M = 8", "LOGO", num_rejected=8),
    logo("LOGO, plain positions", "without", target=False),
    # Adam does not see the factor lambda = 0.1 of the SFT term that is left, but the clipping of gradients does.
    Arm("LOGO, no preference term", "without", "sft", {"target": True}, clip=10.0),
    logo("LOGO, lambda = 0", "lambda", sft_weight=0.0),
    logo("LOGO, lambda = 0.5", "lambda", sft_weight=0.5),
    logo("LOGO, lambda = 1", "lambda", sft_weight=1.0),
    logo("LOGO, beta = 1", "scale", beta=1.0, gamma=0.3),
    logo("LOGO, continuous", "positions", position_mode="continuous"),
    logo("LOGO, sparse", "positions", position_mode="sparse"),
    logo("LOGO, PoSE", "positions", position_mode="pose"),
    logo("LOGO, one target", "positions", vary_target=False),
    logo("LOGO, LoRA on q, k, v, o", "adapters")._replace(modules=("q_proj", "k_proj", "v_proj", "o_proj")),
    Arm("SimPO on both pairs", "aggregation", "simpo", {"num_rejected": 2, "target": True, "sft_weight": 0.1}),
    *(logo(f"released: {name}", "released", released=[name]) for name in DEVIATIONS),
    logo("released: all four", "released", released=list(DEVIATIONS)),
)


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
