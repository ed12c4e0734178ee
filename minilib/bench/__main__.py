"""The measuring process, `python -m minilib.bench SETTINGS OUTPUT`, in the environment of `harness.quiet_environment`.

SETTINGS is a JSON object, see `measure.measure`. People call `python -m minilib bench contrastive`, which starts
this process for them.
"""

import json
import sys

from minilib.bench.measure import measure

if __name__ == "__main__":
    document = measure(json.loads(sys.argv[1]), sys.argv[2])
    sys.exit(0 if document["complete"] else 130)  # 130: ended by Ctrl-C, as shells say it
