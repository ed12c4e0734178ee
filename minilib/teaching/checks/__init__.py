"""Exercise checks: `check_<exercise>(your_function)` prints whether it is not attempted, not yet right, or passed.

`contract` is the mechanism, one file per lesson holds the cases.
"""

from importlib import import_module

EXERCISES = {
    "lesson00": "largest_batch predict_dense_bytes row_sums",
    "lesson01": "info_nce log_b_bound logit_gradient recall_at_1",
    "lesson02": "accumulated_loss matrices_in most_alive saved_floats",
    "lesson03": "attend merge stable_lse update",
    "lesson04": "tile_gradient tiled_backward tiled_forward tiled_row_lse",
    "lesson05": "block_sums both_sums gradient_chunk scale_matrix tile_logits",
    "lesson06": "bytes_per_rank holds rank_share ring_row_lse scale_part",
    "lesson07": "gradient_cache_grads lr_for_batch repeat_share step_bytes",
    "lesson08": "cells_in_reach copy_score needle_accuracy perplexity",
    "lesson09": "dpo_loss logo_loss pair_shares sft_term simpo_loss",
    "lesson10": "label_logp logp_and_gradient pack_layout sweep token_weights",
    "lesson11": "critical_chunks cut_into_chunks mixed_context rare_overlap recount",
    "lesson12": "broken_promise continuous_positions coverage_share logits_across_gaps rotate",
    "lesson13": "adapter_norm last_whole logo_loop pair_metrics who_moved",
    "lesson14": "average_gradients gather_bytes loss_gigabytes own_part ring_seconds",
    "lesson15": "loss_floor recall_at threshold",
    "lab_01": "bring_home merge_parts",
    "lab_02": "choose_queries far_branch",
    "lab_03": "merge_key keep_neighbours",
    "lab_04": "answer_moves stretched_scores",
    "lab_05": "global_mean pack_mask",
    "lab_06": "advantages pro_term",
    "lab_07": "previous_windows topic_batch",
    "lab_08": "loss_weights repeat_errors",
    "lab_09": "apply_late layer_steps",
    "lab_10": "fit_rotation thin",
    "lab_11": "backward_and_update checkpoint_cost",
    "lab_12": "drop_and_grow rotated_product",
    "lab_14": "score_route",
}
HOMES = {f"check_{name}": file for file, names in EXERCISES.items() for name in names.split()}
__all__ = sorted(HOMES)


def __getattr__(name: str):
    if name in HOMES:
        return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
