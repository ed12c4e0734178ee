"""The contrastive losses side by side: ours, torch's, open_clip's, sentence-transformers', the authors', in one run.

`bench_contrastive` starts a fresh process, because CPU seconds need an environment that is read before torch is
imported, and because a run on a card must end within its time; `measure` says what that process does. With a CUDA card
everything is measured on the card, in less than ten minutes; without one, or with `device="cpu"`, on the CPU.

What the figures mean is taught in notebooks/04_tile_the_loss.ipynb.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minilib.bench import harness, place, plan

BATCHES = (4096, 8192, 16384)
GATE_BATCH = {"cpu": 1024, "cuda": 4096}
MEMORY_BATCHES = (8192, 16384, 32768)
RING = {"ring_batch": 8192, "ring_gate_batch": 512, "ring_steps": 3}
QUICK = {"batches": [256, 512], "rounds": 2, "gate_batch": 256}
QUICK |= {"ring_batch": 512, "ring_gate_batch": 128, "ring_steps": 2}
QUICK_MEMORY_BATCHES = (512,)
PATIENCE, LAST_CALL = 60.0, 15.0  # seconds by which a run on a card may miss its time, and then to write its file


def bench_contrastive(
    batches: Sequence[int] | None = None,
    dim: int = 512,
    rounds: int | None = None,
    scale: float = 14.3,
    threads: int | None = None,
    device: str = "auto",
    ranks: Sequence[int] = (2, 4),
    memory: bool = True,
    others: bool = True,
    quick: bool = False,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure time, memory and exactness of contrastive losses side by side; return the document written as JSON.

    Args:
        batches: batch sizes to time; by default 4,096 to 16,384 on a CPU, 16,384 to 1,048,576 and several widths on a
            card.
        dim: width of the features, and of the comparison with fp64.
        rounds: timed calls of each method at each batch, after one more that warms it up; by default 5 on a CPU, and
            on a card as many as its time allows, up to 20.
        scale: logit scale of the timed calls.
        threads: threads to compute with; by default one for each usable core.
        device: "cpu", "cuda", or "auto" for the card if there is one.
        ranks: sizes of the rings of processes to measure beside one process; empty for none.
        memory: whether to measure peak extra memory too; on a CPU, in processes of their own.
        others: whether to measure torch.compile, torch's own loss and other libraries beside ours.
        quick: tiny batches and two rounds, to see in a minute that everything runs; its figures judge nothing.
        output: JSON file to write, its folder is made; by default runs/bench/contrastive.json, on a card
            contrastive_cuda.json.

    Raises:
        ValueError: one sentence, when an argument does not fit. RuntimeError: when the measuring process broke.
    """
    device = place.chosen(device)
    card = device == "cuda"
    settings = {"batches": list(batches) if batches is not None else None if card else list(BATCHES), "dim": dim}
    settings |= {"rounds": (plan.CARD_ROUNDS if card else 5) if rounds is None else rounds, "scale": scale}
    settings |= {"threads": harness.usable_cores() if threads is None else threads, "others": others}
    settings |= {"device": device, "seconds": plan.CARD_SECONDS if card else None, "ranks": list(ranks)}
    settings |= {"gate_batch": GATE_BATCH[device], **RING} | (QUICK if quick else {})
    settings["memory_batches"] = list(QUICK_MEMORY_BATCHES if quick else MEMORY_BATCHES) if memory else []
    _check(settings)
    output = Path(output or f"runs/bench/contrastive{'_cuda' * card}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    _run_apart(settings, output)
    return json.loads(output.read_text())


def _check(settings: dict[str, Any]) -> None:
    for name, least in (("batches", 1), ("ranks", 2)):
        smallest = min(settings[name] or [least])
        if smallest < least:
            raise ValueError(f"{name} holds {smallest}: give whole numbers of at least {least}.")
    if settings["batches"] == []:
        raise ValueError("batches is empty: give at least one batch size, such as 4096.")
    for name in ("dim", "rounds", "threads"):
        if settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}: give a whole number of at least 1.")
    if not settings["scale"] > 0:
        raise ValueError(f"scale is {settings['scale']}: give a positive logit scale, such as 14.3.")


def _run_apart(settings: dict[str, Any], output: Path) -> None:
    with tempfile.TemporaryDirectory() as cache:  # compiled code of earlier runs would hide the time to compile
        environment = {
            **os.environ,
            **harness.quiet_environment(settings["threads"]),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "TORCHINDUCTOR_CACHE_DIR": cache,
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",  # dense matrices must not break up a card's memory
        }
        command = [sys.executable, "-m", "minilib.bench", json.dumps(settings), str(output)]
        # A session of its own: Ctrl-C reaches this process only, which passes it on exactly once.
        child = subprocess.Popen(command, env=environment, start_new_session=True)
        limit = settings["seconds"] and settings["seconds"] + PATIENCE
        try:
            status = child.wait(limit)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            child.send_signal(signal.SIGINT)
            status = child.wait(limit and LAST_CALL)
        finally:
            child.kill()  # without effect on a process that has ended
    if status not in (0, 130):
        raise RuntimeError(f"the measuring process ended with status {status}: its message stands above.")
