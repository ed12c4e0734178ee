"""Measure the peak of memory that a piece of code adds, in a fresh Python process of its own.

    peak = highest resident memory while the code runs  -  resident memory just before

A fresh process, because a peak never falls again and because other objects of a long-lived one would hide it. What it
reads about itself depends on the system; a comment below says why the obvious reading is the second choice.

Used in notebooks/02_measure_where_memory_goes.ipynb and by the benchmarks.
"""

import json
import os
import subprocess
import sys

# Linux keeps the peak of this very process in VmHWM and can lower it to the present level. What process_peak reads is
# second choice: on Unix it starts at the peak of the parent, so a small child of a large notebook would show no rise.
_PEAK_SOURCE = """
import json
def read_peak():
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        from minilib.common import process_peak
        return process_peak()
def start_peak():
    try:
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
    except OSError:
        pass
    return read_peak()
"""


def measure_peak(setup: str, statement: str, *, threads: int = 1, timeout: float = 600.0) -> int:
    """Bytes by which resident memory peaks above its level before `statement`, in a fresh Python process.

    `setup` is Python code that imports, builds the inputs and makes one small warm-up call; `statement` is the code
    that is measured. A fresh process, because a peak never falls again; a warm-up, because first calls allocate for
    ever. RuntimeError with the last line of the child's complaint when it fails.
    """
    code = "\n".join(
        [setup, _PEAK_SOURCE, "before = start_peak()", statement, "print(json.dumps(read_peak() - before))"]
    )
    settings = {
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        "OMP_NUM_THREADS": str(threads),
        # glibc learns from every freed block to keep larger ones; a fixed threshold returns them, so peaks repeat.
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, env={**os.environ, **settings}
    )
    if child.returncode != 0:
        complaint = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        raise RuntimeError(f"the measured process failed ({complaint[-1]}): try the same code in this process")
    return int(json.loads(child.stdout.strip().splitlines()[-1]))
