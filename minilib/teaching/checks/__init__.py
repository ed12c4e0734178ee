"""Exercise checks: `check_<exercise>(your_function)` prints whether it is not attempted, not yet right, or passed.

`contract` is the mechanism, one file per lesson holds the cases.
"""

from minilib.teaching.checks.lesson00 import check_largest_batch, check_predict_dense_bytes
from minilib.teaching.checks.lesson01 import check_info_nce, check_log_b_bound, check_recall_at_1
from minilib.teaching.checks.lesson02 import check_accumulated_loss, check_saved_floats
from minilib.teaching.checks.lesson03 import check_merge, check_stable_lse, check_update
from minilib.teaching.checks.lesson04 import (
    check_tile_gradient,
    check_tiled_backward,
    check_tiled_forward,
    check_tiled_row_lse,
)
from minilib.teaching.checks.lesson05 import (
    check_block_sums,
    check_both_sums,
    check_gradient_chunk,
    check_scale_matrix,
    check_tile_logits,
)
from minilib.teaching.checks.lesson06 import (
    check_bytes_per_rank,
    check_holds,
    check_rank_share,
    check_ring_row_lse,
    check_scale_part,
)
from minilib.teaching.checks.lesson07 import check_gradient_cache_grads, check_lr_for_batch
from minilib.teaching.checks.lesson08 import (
    check_cells_in_reach,
    check_copy_score,
    check_needle_accuracy,
    check_perplexity,
)
from minilib.teaching.checks.lesson09 import (
    check_logo_loss,
    check_pair_shares,
    check_sft_term,
    check_simpo_loss,
)
from minilib.teaching.checks.lesson10 import (
    check_label_logp,
    check_logp_and_gradient,
    check_pack_layout,
    check_token_weights,
)
from minilib.teaching.checks.lesson11 import (
    check_critical_chunks,
    check_mixed_context,
    check_rare_overlap,
    check_recount,
)
from minilib.teaching.checks.lesson12 import (
    check_broken_promise,
    check_continuous_positions,
    check_coverage_share,
    check_logits_across_gaps,
)
from minilib.teaching.checks.lesson13 import (
    check_adapter_norm,
    check_last_whole,
    check_pair_metrics,
    check_who_moved,
)

__all__ = [
    "check_accumulated_loss",
    "check_adapter_norm",
    "check_block_sums",
    "check_both_sums",
    "check_broken_promise",
    "check_bytes_per_rank",
    "check_cells_in_reach",
    "check_continuous_positions",
    "check_copy_score",
    "check_coverage_share",
    "check_critical_chunks",
    "check_gradient_cache_grads",
    "check_gradient_chunk",
    "check_holds",
    "check_info_nce",
    "check_label_logp",
    "check_largest_batch",
    "check_last_whole",
    "check_log_b_bound",
    "check_logits_across_gaps",
    "check_logo_loss",
    "check_logp_and_gradient",
    "check_lr_for_batch",
    "check_merge",
    "check_mixed_context",
    "check_needle_accuracy",
    "check_pack_layout",
    "check_pair_metrics",
    "check_pair_shares",
    "check_perplexity",
    "check_predict_dense_bytes",
    "check_rank_share",
    "check_rare_overlap",
    "check_recall_at_1",
    "check_recount",
    "check_ring_row_lse",
    "check_saved_floats",
    "check_scale_matrix",
    "check_scale_part",
    "check_sft_term",
    "check_simpo_loss",
    "check_stable_lse",
    "check_tile_gradient",
    "check_tile_logits",
    "check_tiled_backward",
    "check_tiled_forward",
    "check_tiled_row_lse",
    "check_token_weights",
    "check_update",
    "check_who_moved",
]
