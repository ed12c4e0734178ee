"""python -m minilib tour | clip | logo | eval | bench | doctor: every command is one plain function.

Flags are made from the function's signature and help from its docstring (jsonargparse), and any set of flags may come
from a YAML file instead: `python -m minilib clip --config mine.yaml`. Under torchrun every rank runs the same command,
and each prints its own refusal.
"""

import sys

from jsonargparse import auto_cli

from minilib.bench import bench_contrastive, bench_logps, bench_prefix, bench_step
from minilib.bench.ablation import bench_alignment
from minilib.cli.clip import clip
from minilib.cli.doctor import doctor
from minilib.cli.evaluate import evaluate
from minilib.cli.logo import logo
from minilib.teaching.tour.tour import tour

BENCH = {
    "_help": "Measure losses, steps and whole alignments beside their peers.",
    "alignment": bench_alignment,
    "contrastive": bench_contrastive,
    "logps": bench_logps,
    "prefix": bench_prefix,
    "step": bench_step,
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a refusal or a lost rank is one sentence on standard error and exit status 2."""
    commands = {"tour": tour, "clip": clip, "logo": logo, "eval": evaluate, "bench": BENCH, "doctor": doctor}
    try:
        auto_cli(commands, args=arguments, as_positional=False, prog="python -m minilib")
    except (ValueError, ConnectionError) as error:
        sys.exit(_refuse(error))
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from the last checkpoint, where it keeps one.")


def _refuse(error: Exception) -> int:
    print(f"minilib: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
