"""Figures of the lessons and of the tour: data in, `matplotlib.figure.Figure` out, nothing printed, nothing global.

Every figure carries `figure.alt_text`. `show` displays one in a notebook, `to_png` gives its bytes for a page.
One file per subject; `canvas` and `palette` are what they are drawn on and with.
"""

from importlib import import_module

FILES = {
    "ablation": "arm_gains",
    "alignment": "accuracy_by_length margin_curves needle_maps",
    "alignment_lesson": "logged_curves margin_sides",
    "batches": "batch_curves",
    "canvas": "show to_png",
    "cluster": "memory_by_batch step_costs",
    "contrast": "loss_vs_batch pairs_seen similarity_matrix temperature_effect",
    "costs": "memory_parts memory_wall predicted_vs_measured timing_ratios",
    "kernels": "lane_use masked_pointers partial_tables program_map tile_film",
    "longcontext": "accuracy_by_distance found_and_right head_scores lost_in_the_middle needle_map "
    "perplexity_by_position",
    "pairs": "answers_kept chunk_scores context_strips",
    "positions": "coverage_curves distances_seen position_strips who_sees_whom",
    "preference": "answer_curves loss_vs_margin mean_inside push_bars",
    "ring": "ring_bytes ring_chart ring_film ring_timeline",
    "stretch": "answers_by_length attention_cut score_beyond_window stretched_frequencies",
    "sums": "LARGEST_FILM overflow_curve running_max_film tile_order",
    "training": "image_grid loss_curves recall_vs_batch retrieval_examples",
    "vocabulary": "logits_map packed_positions products_by_visit sharing_gain",
}
HOMES = {name: file for file, names in FILES.items() for name in names.split()}
__all__ = sorted(HOMES)


def __getattr__(name: str):
    if name in HOMES:
        return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
