"""What makes a short input look long, and what makes many answers cost one prompt.

`positions` spreads position ids over a long target, `coverage` counts what they leave out, `rope` stretches the angles
instead. `packing` lays 1 + M answers after one prompt, `prefix` runs a transformers model on that layout. `pairs` makes
chosen and rejected answers: `chunks` cuts and chooses, `scorers` rate, `quality` counts, `line_log` resumes.
"""

from minilib.longcontext.chunks import chunk_text, token_counter
from minilib.longcontext.coverage import count_distances, count_positions, share
from minilib.longcontext.packing import Packed, pack_answers, stack_packed
from minilib.longcontext.pairs import build_pairs, plain_prompt
from minilib.longcontext.positions import prompt_positions, synthesize_positions
from minilib.longcontext.prefix import answer_hidden
from minilib.longcontext.quality import QualityReport, contains_answer
from minilib.longcontext.rope import rope_parameters, stretch_config
from minilib.longcontext.scorers import exact_entities, rare_words, spacy_entities

__all__ = [
    "Packed",
    "QualityReport",
    "answer_hidden",
    "build_pairs",
    "chunk_text",
    "contains_answer",
    "count_distances",
    "count_positions",
    "exact_entities",
    "pack_answers",
    "plain_prompt",
    "prompt_positions",
    "rare_words",
    "rope_parameters",
    "share",
    "spacy_entities",
    "stack_packed",
    "stretch_config",
    "synthesize_positions",
    "token_counter",
]
