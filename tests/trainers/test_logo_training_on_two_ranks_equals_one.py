"""Two processes that train under DDP or FSDP, four rows each, end with the weights of one process with all eight.

Hidden states, head and loss are computed inside the wrapper's forward pass (`minilib.trainers.trainer_utils`); without
that, every rank would train for itself. Both ranks see every case in one launch, over gloo on this machine.
"""

import os

import pytest
import torch
from datasets import Dataset
from support.logo_toys import make_trainer, toy_rows
from support.ranks import results, run_ranks
from torch import nn

from minilib.trainers import logo, lora_config
from minilib.trainers.trainer_utils import inside_forward

RANKS, STEPS = 2, 4
PAST = "past the wrapper"
METRICS = ("rewards/chosen", "rewards/margins", "rewards/accuracies", "logps/chosen")
ROWS, EVAL_ROWS = toy_rows(40), toy_rows(6, seed=3)
FSDP = {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}}
CASES = {
    "logo": {},
    "logo, full sequences": {"share_prompt": False},
    "dpo": {"loss_type": "dpo"},
    "adapters": {"peft_config": lora_config(rank=2)},
    "dpo on adapters": {"loss_type": "dpo", "peft_config": lora_config(rank=2)},
    "micro-batches": {"args": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}},
    "gradient checkpointing": {"args": {"gradient_checkpointing": True}},
    "a stream": {"rows": "stream"},
    "FSDP": {"args": FSDP},
    "FSDP, adapters": {"args": FSDP, "peft_config": lora_config(rank=2)},
    "FSDP, dpo on adapters": {"args": FSDP, "loss_type": "dpo", "peft_config": lora_config(rank=2)},
}


def outcome(ranks, rows=ROWS, args=None, **options):
    """Trained weights, the log of every step and the final metrics; on several ranks each batch is shared out."""
    args = {"per_device_train_batch_size": 4, "max_steps": STEPS} | (args or {})
    args["per_device_train_batch_size"] *= RANKS // ranks
    args["per_device_eval_batch_size"] = len(EVAL_ROWS) // ranks
    if ranks == 1:
        args = {name: value for name, value in args.items() if not name.startswith("fsdp")}
    rows = Dataset.from_list(ROWS).to_iterable_dataset() if rows == "stream" else rows
    torch.manual_seed(1)  # of fresh adapters
    trainer = make_trainer(rows, EVAL_ROWS, args=args, target_length=100, **options)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    inner = trainer.accelerator.unwrap_model(trainer.model)
    trained = {name: whole(p.detach()).clone() for name, p in inner.named_parameters() if p.requires_grad}
    sharded = any(hasattr(p, "full_tensor") for p in inner.parameters())
    return {"weights": trained, "logs": logs, "final": trainer.evaluate(), "sharded": sharded}


def whole(tensor):
    """All of a tensor that FSDP may have cut into pieces."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def work(rank):
    # accelerate wants an address, although the group is there already
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    found = {}
    for case, settings in CASES.items():
        found[case] = outcome(RANKS, **settings)
        os.environ.pop("ACCELERATE_USE_FSDP", None)  # accelerate leaves it to whatever comes after
    logo.inside_forward = lambda wrapper, module, function, *inputs: function(module, *inputs)
    return found | {PAST: outcome(RANKS)}


@pytest.fixture(scope="module")
def found():
    return results(run_ranks(RANKS, work, patience=300))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_end_with_the_weights_logs_and_metrics_of_one_process(found, case):
    expected = outcome(1, **CASES[case])
    for got in (of_rank[case] for of_rank in found):
        assert got["sharded"] == case.startswith("FSDP")
        assert got["weights"].keys() == expected["weights"].keys()
        for name, value in expected["weights"].items():
            off = (got["weights"][name] - value).abs().max()
            assert off <= 1e-7, f"{name} is off by {off:.2g}"
        adapted = ("lora_delta_norm",) if "adapters" in case else ()
        for name in (*METRICS, *adapted, "tokens", "grad_norm", "loss"):
            one, two = ([log[name] for log in side["logs"]] for side in (expected, got))
            assert two == pytest.approx(one, rel=1e-4, abs=1e-5), name
        for name in ("eval_loss", "eval_rewards/margins", "eval_rewards/accuracies"):
            assert got["final"][name] == pytest.approx(expected["final"][name], rel=1e-4, abs=1e-5), name
    for name, value in found[0][case]["weights"].items():
        assert torch.equal(found[1][case]["weights"][name], value)


@pytest.mark.slow
def test_past_the_wrapper_every_rank_trains_for_itself(found):
    one, other = (of_rank[PAST]["weights"] for of_rank in found)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_within_a_wrapper_the_computation_is_the_forward_pass_and_afterwards_all_is_as_before():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module, self.trace = module, []

        def forward(self, *inputs):
            self.trace.append("before")
            found = self.module(*inputs)
            self.trace.append("behind")
            return found

    module = nn.Linear(2, 2)
    wrapper = Wrapper(module)
    x = torch.ones(2)
    hooked = []
    module.register_forward_hook(lambda *_: hooked.append(1))

    def twice(inner, x):
        return inner(inner(x))

    expected = twice(module, x)
    assert torch.equal(inside_forward(wrapper, module, twice, x), expected)
    assert wrapper.trace == ["before", "behind"]
    hooked.clear()
    assert torch.equal(inside_forward(module, module, twice, x), expected)  # newer FSDP hooks the call of the model
    assert len(hooked) == 3
    assert "forward" not in vars(module)
    with pytest.raises(ZeroDivisionError):
        inside_forward(wrapper, module, lambda *_: 1 / 0)
    assert "forward" not in vars(module)
    own = module.forward = lambda x: x + 1  # as accelerate sets one
    assert torch.equal(inside_forward(wrapper, module, lambda inner, x: inner(x), x), x + 1)
    assert module.forward is own
