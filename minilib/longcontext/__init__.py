"""What makes a short input look long, and what makes many answers cost one prompt.

`positions` spreads position ids over a long target, `coverage` counts what they leave out, `rope` stretches the angles
instead. `packing` lays 1 + M answers after one prompt, `shared_prefix` runs a transformers model on that layout,
`scoring` turns it into log-probabilities.
"""

from minilib.longcontext.coverage import count_distances, count_positions, share
from minilib.longcontext.packing import Packed, pack_answers, stack_packed
from minilib.longcontext.positions import prompt_positions, synthesize_positions
from minilib.longcontext.rope import rope_parameters, stretch_config
from minilib.longcontext.shared_prefix import answer_hidden

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
