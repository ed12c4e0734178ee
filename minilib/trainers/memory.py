"""The most memory that this process has held, for a trainer's log and the tour.

Proven in tests/test_logo_trainer_minimises_its_losses.py.
"""

import resource
import sys


def process_peak() -> int:
    """The most resident memory that this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
