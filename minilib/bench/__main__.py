"""The measuring process, `python -m minilib.bench SETTINGS`: fresh, with the environment of `harness.quiet_environment`.

SETTINGS is the JSON object of the arguments of `contrastive.measure`. People call `python -m minilib bench contrastive`,
which starts this process for them.
"""

import json
import sys

from minilib.bench.contrastive import measure

if __name__ == "__main__":
    document = measure(**json.loads(sys.argv[1]))
    sys.exit(0 if document["complete"] else 130)  # 130: ended by Ctrl-C, as shells say it
