"""python -m minilib tour | clip | pairs | logo | eval | bench | doctor: every command is a plain function.

Flags are made from the function's signature, or from the dataclass of its settings, and help from the docstring
(jsonargparse); any set of flags may come from a YAML file instead: `python -m minilib clip --config mine.yaml`. Under
torchrun every rank runs the same command, and each prints its own error.
"""

import sys

from jsonargparse import ArgumentParser, auto_cli

from minilib.bench import bench_contrastive, bench_logps, bench_prefix, bench_step
from minilib.bench.ablation import bench_alignment
from minilib.cli.clip import clip
from minilib.cli.doctor import doctor
from minilib.cli.evaluate import evaluate
from minilib.cli.settings import ALIASES, EvalSettings, LogoSettings, PairsSettings
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
    """Run one command; what cannot be done or a lost rank is one sentence on standard error and exit status 2."""
    commands = {"tour": tour, "clip": clip, "pairs": PairsSettings, "logo": LogoSettings, "eval": EvalSettings}
    commands |= {"bench": BENCH, "doctor": doctor}
    try:
        found = auto_cli(commands, args=arguments, as_positional=False, prog="python -m minilib", parser_class=_Parser)
        if isinstance(found, LogoSettings):
            from minilib.cli.logo import logo  # imports transformers, for which no other command shall wait

            logo(found)
        elif isinstance(found, PairsSettings):
            from minilib.cli.make_pairs import make_pairs

            make_pairs(found)
        elif isinstance(found, EvalSettings):
            evaluate(found)
    except (ValueError, ConnectionError) as error:
        print(f"minilib: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from the last checkpoint, where it keeps one.")


class _Parser(ArgumentParser):
    """Flags of some settings have a shorter name as well."""

    def add_argument(self, *names, **options):
        shorter = (f"--{ALIASES[name[2:]]}" for name in names if name[2:] in ALIASES)
        return super().add_argument(*names, *shorter, **options)


if __name__ == "__main__":
    main()
