"""The measuring process, `python -m minilib.bench MODULE SETTINGS OUTPUT`, which `harness.run_apart` starts."""

import importlib
import json
import sys

from minilib.cli import faults

if __name__ == "__main__":
    with faults.told():
        document = importlib.import_module(sys.argv[1]).measure(json.loads(sys.argv[2]), sys.argv[3])
    sys.exit(0 if document.get("complete", True) else 130)  # 130: ended by Ctrl-C, as shells say it
