"""Start a script of a lesson as torchrun starts it: processes that meet on this machine, and leave in time.

The script is text, so that a notebook can show all of it. Every process has one thread; what they print comes back
sorted, since they speak in any order. Used in notebooks/14_leave_one_machine.ipynb.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def torchrun(script: str, processes: int, *, patience: float = 120.0) -> list[str]:
    """The lines that the processes of `torchrun --nproc-per-node processes script` have printed, sorted.

    Raises:
        RuntimeError: one sentence, when the processes cannot start, fail, or take longer than `patience` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "script.py")
        path.write_text(script, encoding="utf-8")
        # what each process prints goes to a file of its own: in one pipe their lines could run into each other
        flags = ["--standalone", "--nproc-per-node", str(processes), "--redirects", "1", "--log-dir", folder]
        command = [sys.executable, "-m", "torch.distributed.run", *flags, str(path)]
        paths = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=patience, env=env)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"torchrun did not come to an end here ({type(error).__name__}): read on.") from error
        printed = [
            line for log in Path(folder).rglob("stdout.log") for line in log.read_text(encoding="utf-8").splitlines()
        ]
    if ended.returncode != 0:
        said = [line for line in ended.stderr.splitlines() if "Error: " in line] or ["no message"]
        raise RuntimeError(f"torchrun ended with {ended.returncode} ({said[0].strip()}): read on.")
    return sorted(printed)
