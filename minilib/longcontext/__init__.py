"""What makes a short input look long, and what makes many answers cost one prompt.

`positions` spreads position ids over a long target, `coverage` counts what they leave out, `rope` stretches the angles
instead. `packing` lays 1 + M answers after one prompt, `prefix` runs a transformers model on that layout.
"""

from minilib.longcontext.coverage import count_distances, count_positions, share
from minilib.longcontext.packing import Packed, pack_answers, stack_packed
from minilib.longcontext.positions import prompt_positions, synthesize_positions
from minilib.longcontext.prefix import answer_hidden
from minilib.longcontext.rope import rope_parameters, stretch_config

__all__ = [
    "Packed",
    "answer_hidden",
    "count_distances",
    "count_positions",
    "pack_answers",
    "prompt_positions",
    "rope_parameters",
    "share",
    "stack_packed",
    "stretch_config",
    "synthesize_positions",
]
