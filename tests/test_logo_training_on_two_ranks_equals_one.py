"""Two processes that train under DDP or FSDP, four rows each, end with the weights of one process with all eight.

Hidden states, head and loss are computed inside the wrapper's forward pass (`minilib.trainers.wrapped`); without that,
every rank would train for itself. Both ranks see every case in one launch, over gloo on this machine.
"""

import os
import tempfile

import pytest
import torch
from datasets import Dataset
from logo_toys import make_trainer, toy_rows
from ranks import results, run_ranks
from torch import nn

from minilib.trainers import lora_config
from minilib.trainers.wrapped import inside_forward

RANKS, STEPS = 2, 4
ROWS, EVAL_ROWS = toy_rows(40), toy_rows(6, seed=3)
CASES = {
    "logo": {},
    "logo, full sequences": {"share_prompt": False},
    "dpo": {"loss": "dpo"},
    "adapters": {"lora": lora_config(rank=2)},
    "dpo on adapters": {"loss": "dpo", "lora": lora_config(rank=2)},
    "micro-batches": {"args": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}},
    "gradient checkpointing": {"args": {"gradient_checkpointing": True}},
    "a stream": {"rows": "stream"},
}


def outcome(rank, ranks, rows=ROWS, args=None, **options):
    """Trained weights, the log of every step and the final metrics; on several ranks each batch is shared out."""
    size = {"per_device_train_batch_size": 8 // ranks, "per_device_eval_batch_size": 6 // ranks, "max_steps": STEPS}
    if args and "per_device_train_batch_size" in args:
        args = {**args, "per_device_train_batch_size": args["per_device_train_batch_size"] * RANKS // ranks}
    rows = Dataset.from_list(ROWS).to_iterable_dataset() if rows == "stream" else rows
    torch.manual_seed(1)  # of fresh adapters
    trainer = make_trainer(rows, EVAL_ROWS, args={**size, **(args or {})}, target=100, **options)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    inner = trainer.accelerator.unwrap_model(trainer.model)
    trained = {name: p.detach().clone() for name, p in inner.named_parameters() if p.requires_grad}
    return {"weights": trained, "logs": logs, "final": trainer.evaluate()}


def work(rank):
    # accelerate wants an address, although the group is there already
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    return {case: outcome(rank, RANKS, **settings) for case, settings in CASES.items()}


@pytest.fixture(scope="module")
def found():
    return results(run_ranks(RANKS, work, patience=300))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_end_with_the_weights_logs_and_metrics_of_one_process(found, case):
    expected = outcome(0, 1, **CASES[case])
    for got in (of_rank[case] for of_rank in found):
        assert got["weights"].keys() == expected["weights"].keys()
        for name, value in expected["weights"].items():
            off = (got["weights"][name] - value).abs().max()
            assert off <= 1e-7, f"{name} is off by {off:.2g}"
        for name in ("reward_chosen", "margin", "accuracy", "chosen_logp", "tokens", "grad_norm", "loss"):
            one, two = ([log[name] for log in side["logs"]] for side in (expected, got))
            assert two == pytest.approx(one, rel=1e-4, abs=1e-5), name
        for name in ("eval_loss", "eval_margin", "eval_accuracy"):
            assert got["final"][name] == pytest.approx(expected["final"][name], rel=1e-4, abs=1e-5), name
    for name, value in found[0][case]["weights"].items():
        assert torch.equal(found[1][case]["weights"][name], value)
