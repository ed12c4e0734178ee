"""The command line of `bench gpu`, in the standard library alone: a machine with a GPU may have little but torch."""

import argparse
import sys
from pathlib import Path

from minilib.cli import faults


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(f"{message}: python -m minilib bench gpu --help lists the flags.")


def main(arguments: list[str] | None = None) -> None:
    """Run the plan; what goes wrong is one sentence on standard error."""
    with faults.told():
        parser = _Parser(prog="python -m minilib bench gpu", description=__doc__, allow_abbrev=False)
        parser.add_argument("--budget", type=float, help="seconds for everything, by default 480")
        parser.add_argument("--dry", action="store_true", help="walk the plan on a CPU at toy sizes")
        parser.add_argument("--wheels", type=Path, help="folder with wheels of the peers, by default runs/wheels")
        parser.add_argument("--only", nargs="+", default=(), help="names of stops, such as gate infonce")
        parser.add_argument("--output", type=Path, default=Path("runs/bench/gpu.json"), help="JSON file to write")
        given = parser.parse_args(arguments)
        from minilib.bench.gpu.run import bench_gpu

        bench_gpu(**vars(given))


if __name__ == "__main__":
    faults.leave_early()
    main(sys.argv[1:])
