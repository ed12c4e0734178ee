"""`clip` and `logo` killed by SIGKILL at random moments and given again end with the bits of a run that was not.

`make faults` kills each of them a hundred times, the normal tests three times (MINILIB_KILLS says how often). A run is
killed again and again until it has come to its end; the moments are spread over the whole of it, its start and its
last writes included. Each process is forked from a server that has imported everything, so that a kill costs a second.
"""

import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

KILLS = int(os.environ.get("MINILIB_KILLS", 3))
PROCESSES = multiprocessing.get_context("forkserver")
CLIP = ["clip", "--pairs=64", "--batch-size=32", "--micro-batch-size=16", "--steps=12", "--save-every=1", "--dim=8"]
LOGO = ["logo", "--steps=8", "--save-every=1", "--batch-size=2", "--lr=0.02", "--warmup=1", "--target=0"]
LOGO += ["--num-rejected=1"]
OF_THE_CLOCK = ("seconds", "tokens_per_second", "peak_memory")


def live(line, log):
    """A command in a process of its own, as from a shell."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    with open(log, "a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    import minilib.__main__ as main_module

    main_module.main(line)


def start(line, log):
    PROCESSES.set_forkserver_preload(["torch", "minilib.__main__", "minilib.cli.logo", "torch._dynamo", "datasets"])
    process = PROCESSES.Process(target=live, args=([str(part) for part in line], str(log)))
    process.start()
    return process


def run_to_the_end(line, log):
    """Seconds that an unbroken run takes."""
    began = time.monotonic()
    process = start(line, log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    return time.monotonic() - began


def end_of(folder):
    """Weights and records of a finished run."""
    records = json.loads((folder / "records.json").read_text())
    records = [{name: value for name, value in record.items() if name not in OF_THE_CLOCK} for record in records]
    if (folder / "adapter_model.safetensors").exists():
        return (folder / "adapter_model.safetensors").read_bytes(), records
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    return {name: tensor.tolist() for name, tensor in saved["model"].items()}, records


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"{name} keeps {thing}. What does {name} keep?", "chosen": thing, "rejected": "coal"}
        for name in ("Lisbon", "Cairo", "Quito")
        for thing in ("amber", "salt", "gold", "silk")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("command", ["clip", "logo"])
def test_killed_at_random_moments_and_given_again_a_run_ends_with_the_same_bits(command, pairs, tmp_path):
    line = CLIP if command == "clip" else [*LOGO, f"--data={pairs}"]
    run_to_the_end([*line, f"--output={tmp_path / 'first'}"], tmp_path / "log")  # what is slow once
    seconds = run_to_the_end([*line, f"--output={tmp_path / 'whole'}"], tmp_path / "log")
    wanted, killed, number = end_of(tmp_path / "whole"), 0, 0
    while killed < KILLS:
        number += 1
        run, log = tmp_path / f"run{number}", tmp_path / f"log{number}"
        for _ in range(4):  # kills of one run, before it may come to its end
            process = start([*line, f"--output={run}"], log)
            process.join(random.random() * seconds)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
            killed += process.exitcode == -signal.SIGKILL
            if process.exitcode == 0 or killed >= KILLS:
                break
        run_to_the_end([*line, f"--output={run}"], log)
        assert end_of(run) == wanted, f"run {number} of {command}: {log.read_text()}"
    print(f"{command}: {killed} kills of {number} runs, all ended with the same bits")
