"""What makes a short input look long, and what makes many answers cost one prompt.

`positions` spreads position ids over a long target, `rope` stretches the angles instead. `packing` lays 1 + M answers
after one prompt, `shared_prefix` runs a transformers model on that layout, `scoring` turns it into log-probabilities.
"""

from minilib.longcontext.packing import Packed, pack_answers, stack_packed
from minilib.longcontext.positions import prompt_positions, synthesize_positions
from minilib.longcontext.rope import rope_parameters, stretch_config
from minilib.longcontext.shared_prefix import answer_hidden

__all__ = [
    "Packed",
    "answer_hidden",
    "pack_answers",
    "prompt_positions",
    "rope_parameters",
    "stack_packed",
    "stretch_config",
    "synthesize_positions",
]
