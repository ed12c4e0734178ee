"""`import minilib` is quick and brings in nothing that a loss does not need."""

import json
import subprocess
import sys
import time

SCRIPT = """
import json, sys
import minilib
minilib.clip_loss, minilib.siglip_loss, minilib.lse.merge
heavy = ["triton", "transformers", "datasets", "matplotlib", "ipywidgets", "sklearn"]
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def test_importing_minilib_brings_in_no_heavy_package():
    loaded = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert json.loads(loaded) == []


def test_importing_minilib_takes_little_more_than_importing_torch():
    def seconds(module):
        best = []
        for _ in range(2):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
            best.append(time.perf_counter() - start)
        return min(best)

    assert seconds("minilib") < seconds("torch") + 1.0
