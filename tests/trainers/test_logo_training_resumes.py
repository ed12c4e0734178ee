"""A LOGO training that was killed (SIGKILL) at a random step goes on to the bits of an unbroken run.

The killed run is a real process that trains the tiny model with adapters and dropout, so the random state matters, on
positions that are drawn anew in every step. A kill while a checkpoint is written leaves a folder without its last file,
or with half of it; both are made by hand from the newest checkpoint.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from support.logo_toys import make_trainer, toy_rows
from transformers import TrainerCallback

from minilib.models.tiny_lm import tiny_lm
from minilib.trainers import last_checkpoint, lora_config, remove_unfinished_checkpoints

HERE = Path(__file__).parent
PATHS = f"{HERE}:{HERE.parent}"  # this file and tests/support, for a process of its own

STEPS, EVERY = 12, 3
SAVING = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": EVERY}
PAIRS = [
    {
        "prompt": f"{name} keeps {thing}. Oslo keeps coal. Lima keeps {other}.\n\nWhat does {name} keep?",
        "chosen": thing,
        "rejected": [other, "coal"],
        "chunks": [f"{name} keeps {thing}.", " Oslo keeps coal.", f" Lima keeps {other}."],
    }
    for name in ("Lisbon", "Cairo", "Quito", "Hanoi")
    for thing, other in (("amber", "silk"), ("salt", "tea"), ("gold", "wool"))
]


def make_adapted(folder):
    """The tiny model with adapters, about to train in `folder`."""
    torch.manual_seed(0)  # of the fresh adapters
    model, tokenizer = tiny_lm()
    args = {**SAVING, "output_dir": str(folder), "save_total_limit": 3, "learning_rate": 1e-3}
    return make_trainer(
        PAIRS,
        PAIRS[:5],
        model=model,
        tokenizer=tokenizer,
        args=args,
        peft_config=lora_config(rank=4, dropout=0.2),
        target_length=400,
    )


def outcome(trainer, checkpoint=None):
    """Losses and counts of all steps, final metrics and weights."""
    trainer.train(resume_from_checkpoint=checkpoint)
    logs = [(log["step"], log["loss"], log["logps/chosen"], log["tokens"]) for log in trainer.state.log_history[:-1]]
    final = {name: value for name, value in trainer.evaluate().items() if "second" not in name and "time" not in name}
    return logs, final, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def assert_same(got, expected):
    assert got[0] == expected[0]
    assert got[1] == expected[1]
    assert all(torch.equal(got[2][name], value) for name, value in expected[2].items())


def run_and_kill(folder, step):
    """Train in a process of its own and shoot it as soon as `step` is behind it."""
    script = (
        "import sys, time; sys.path[:0] = sys.argv[1].split(':')\n"
        "import conftest\n"
        "from test_logo_training_resumes import make_adapted\n"
        "from transformers import TrainerCallback\n"
        "class Tell(TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, **_):\n"
        "        print('step', state.global_step, file=sys.stderr, flush=True); time.sleep(0.05)\n"
        "trainer = make_adapted(sys.argv[2]); trainer.add_callback(Tell()); trainer.train()\n"
    )
    command = [sys.executable, "-c", script, PATHS, str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        if line.startswith(f"step {step}\n"):
            break
    time.sleep(random.random() * 0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def newest(folder):
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def delete_state(folder):
    (newest(folder) / "trainer_state.json").unlink()


def cut_state(folder):
    path = newest(folder) / "trainer_state.json"
    path.write_bytes(path.read_bytes()[: random.randrange(path.stat().st_size)])


def delete_all_but_weights(folder):
    for path in newest(folder).iterdir():
        if path.suffix != ".safetensors":
            path.unlink()


@pytest.mark.slow
def test_killed_at_a_random_step_or_while_saving_and_resumed_equals_unbroken_to_the_bit(tmp_path):
    unbroken = outcome(make_adapted(tmp_path / "unbroken"))
    assert len(unbroken[0]) == STEPS
    step = random.randrange(2 * EVERY + 1, STEPS - 1)
    run_and_kill(tmp_path / "killed", step)
    damages = (None, delete_state, cut_state, delete_all_but_weights)
    for number, damage in enumerate(damages):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "killed", folder)
        whole = last_checkpoint(folder)
        if damage is not None:
            before = newest(folder)
            damage(folder)
            whole = last_checkpoint(folder)
            assert before.exists()  # finding deletes nothing
            remove_unfinished_checkpoints(folder)
            assert not before.exists()  # out of the way, and an earlier one goes on
        assert whole == str(newest(folder))
        assert int(whole.split("-")[-1]) in range(EVERY, STEPS, EVERY)
        assert_same(outcome(make_adapted(folder), whole), unbroken)


class Stop(TrainerCallback):
    """The keyboard interrupts at a step."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 8:
            raise KeyboardInterrupt


RUNS = {
    "dpo and its reference": {"loss_type": "dpo"},
    "logo": {"target_length": 100},
    "sft": {"loss_type": "sft", "target_length": 100},
    "micro-batches": {"args": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}},
    "a stream": {"rows": Dataset.from_list(toy_rows(48)).to_iterable_dataset(), "target_length": 100},
}


@pytest.mark.parametrize("case", RUNS)
def test_an_interrupted_run_of_all_weights_goes_on_likewise(case, tmp_path):
    settings = dict(RUNS[case])
    rows, args = settings.pop("rows", toy_rows(10)), settings.pop("args", {})

    def make(folder):
        saving = {**SAVING, **args, "output_dir": str(tmp_path / folder)}
        return make_trainer(rows, toy_rows(3), dtype=torch.float32, args=saving, **settings)

    unbroken, stopped = outcome(make("unbroken")), make("stopped")
    stopped.add_callback(Stop())
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    whole = last_checkpoint(tmp_path / "stopped")
    assert whole.endswith("checkpoint-6")
    assert_same(outcome(make("stopped"), whole), unbroken)


def test_without_a_whole_checkpoint_there_is_none(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    states = {"checkpoint-2": "", "checkpoint-3": '{"global_step": 2}', "checkpoint-4": '"global_step"'}
    for name, state in states.items():  # cut short, another step's, no state at all
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(state)
    for other in ("checkpoint-x", "checkpoint-12-mine"):
        (tmp_path / other).mkdir()
    assert last_checkpoint(tmp_path) is None
    assert len(list(tmp_path.iterdir())) == 5
    remove_unfinished_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-12-mine", "checkpoint-x"]


def test_the_newest_whole_checkpoint_counts_by_number(tmp_path):
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    remove_unfinished_checkpoints(tmp_path)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
    (tmp_path / "checkpoint-100" / "trainer_state.json").unlink()
    assert last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")
    remove_unfinished_checkpoints(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-10"}
