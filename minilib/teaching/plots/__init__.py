"""Figures of the lessons and of the tour: data in, `matplotlib.figure.Figure` out, nothing printed, nothing global.

Every figure carries `figure.alt_text`. `show` displays one in a notebook, `to_png` gives its bytes for a page.
One file per subject: `canvas` (what they are drawn on), `ablation`, `alignment` (`alignment_lesson` for one run),
`costs`, `sums`, `contrast`, `kernels`, `ring`, `training`, `longcontext`, `pairs`, `positions`, `preference`,
`stretch`, `vocabulary`.
"""

from minilib.teaching.plots.ablation import arm_gains
from minilib.teaching.plots.alignment import accuracy_by_length, margin_curves, needle_maps
from minilib.teaching.plots.alignment_lesson import logged_curves, margin_sides
from minilib.teaching.plots.canvas import show, to_png
from minilib.teaching.plots.contrast import loss_vs_batch, pairs_seen, similarity_matrix, temperature_effect
from minilib.teaching.plots.costs import memory_parts, memory_wall, predicted_vs_measured, timing_ratios
from minilib.teaching.plots.kernels import masked_pointers, partial_tables, program_map, tile_film
from minilib.teaching.plots.longcontext import (
    accuracy_by_distance,
    found_and_right,
    head_scores,
    lost_in_the_middle,
    needle_map,
    perplexity_by_position,
)
from minilib.teaching.plots.pairs import answers_kept, chunk_scores, context_strips
from minilib.teaching.plots.positions import coverage_curves, distances_seen, position_strips, who_sees_whom
from minilib.teaching.plots.preference import answer_curves, loss_vs_margin, mean_inside, push_bars
from minilib.teaching.plots.ring import ring_bytes, ring_chart, ring_film, ring_timeline
from minilib.teaching.plots.stretch import (
    answers_by_length,
    attention_cut,
    score_beyond_window,
    stretched_frequencies,
)
from minilib.teaching.plots.sums import LARGEST_FILM, overflow_curve, running_max_film, tile_order
from minilib.teaching.plots.training import image_grid, loss_curves, recall_vs_batch, retrieval_examples
from minilib.teaching.plots.vocabulary import logits_map, packed_positions, products_by_visit, sharing_gain

__all__ = [
    "LARGEST_FILM",
    "accuracy_by_distance",
    "accuracy_by_length",
    "answer_curves",
    "answers_by_length",
    "answers_kept",
    "arm_gains",
    "attention_cut",
    "chunk_scores",
    "context_strips",
    "coverage_curves",
    "distances_seen",
    "found_and_right",
    "head_scores",
    "image_grid",
    "logged_curves",
    "logits_map",
    "loss_curves",
    "loss_vs_batch",
    "loss_vs_margin",
    "lost_in_the_middle",
    "margin_curves",
    "margin_sides",
    "masked_pointers",
    "mean_inside",
    "memory_parts",
    "memory_wall",
    "needle_map",
    "needle_maps",
    "overflow_curve",
    "packed_positions",
    "pairs_seen",
    "partial_tables",
    "perplexity_by_position",
    "position_strips",
    "predicted_vs_measured",
    "products_by_visit",
    "program_map",
    "push_bars",
    "recall_vs_batch",
    "retrieval_examples",
    "ring_bytes",
    "ring_chart",
    "ring_film",
    "ring_timeline",
    "running_max_film",
    "score_beyond_window",
    "sharing_gain",
    "show",
    "similarity_matrix",
    "stretched_frequencies",
    "temperature_effect",
    "tile_film",
    "tile_order",
    "timing_ratios",
    "to_png",
    "who_sees_whom",
]
