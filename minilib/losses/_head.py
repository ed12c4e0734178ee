"""What the log-probabilities ask of their inputs and of a model's head, each refusal one sentence.

Proven in tests/test_token_logps_equal_dense.py and tests/test_preference_losses_equal_their_formulas.py.
"""

import importlib.util

import torch
from torch import Tensor

from minilib.kernels import vocabulary

BACKENDS = ("auto", "dense", "tiled", "fused")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SCALINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # what some models do to their logits


def check(hidden, weight, labels, backend, chunk_size) -> str:
    """Refuse what cannot be computed; return the backend that "auto" stands for.

    NaN and infinity pass through: trainers with loss scaling look for them in the gradients.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown: choose one of {', '.join(map(repr, BACKENDS))}.")
    if chunk_size is not None and (not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1):
        raise ValueError(f"chunk_size is {chunk_size!r}: give a positive whole number, or None for the default.")
    _check_matrix("hidden", hidden, "(n, d), one row per token")
    _check_matrix("weight", weight, "(V, d), one row per word of the vocabulary")
    if weight.numel() == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}: give the head of a model, (V, d).")
    if hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden has width {hidden.shape[1]} and weight {weight.shape[1]}: give the head of the model that made "
            "the hidden states."
        )
    _check_labels(labels, len(hidden), len(weight))
    for name, tensor in (("weight", weight), ("labels", labels)):
        if tensor.device != hidden.device:
            raise ValueError(f"hidden is on {hidden.device} and {name} on {tensor.device}: move one of them.")
    if backend == "fused":
        _check_fused(hidden, weight)
    return "tiled" if backend == "auto" else backend  # until the fused kernels have run on a card


def kernels(backend: str):
    """The module of tile visits behind a backend; Triton is imported for the one that needs it."""
    if backend == "tiled":
        return vocabulary
    from minilib.kernels import vocabulary_fused

    return vocabulary_fused


def head_weight(model) -> Tensor:
    """The weight of a model's head (V, d); refused when the logits are more than hidden states times that weight."""
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"model is a {type(model).__name__} without a head of its own: give a causal language model.")
    if not isinstance(head, torch.nn.Linear):  # an adapter's wrapper shows the weight below it and hides its own part
        raise ValueError(
            f"model has a head of class {type(head).__name__}: leave the head out of the adapter, or merge the adapter."
        )
    if getattr(head, "bias", None) is not None:
        raise ValueError(
            f"model is a {type(model).__name__} whose head has a bias: take the logits from the model itself."
        )
    for name in SCALINGS:
        if getattr(model.config, name, None) not in (None, 1, 1.0):
            raise ValueError(
                f"model has {name}={getattr(model.config, name)}, which changes its logits after the head: take them "
                "from the model itself."
            )
    return head.weight


def check_answers(answer: Tensor, count: int, num_rejected: int) -> int:
    """Refuse answers that are missing or misnumbered; return the number of examples."""
    if not isinstance(num_rejected, int) or isinstance(num_rejected, bool) or num_rejected < 1:
        raise ValueError(f"num_rejected is {num_rejected!r}: give the number M of rejected answers, at least 1.")
    if not isinstance(answer, Tensor) or answer.is_floating_point() or answer.shape != (count,):
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(
            f"answer is {shape} and hidden has {count} rows to score: give each row the number of its answer."
        )
    if count == 0 or answer.min() < 0:
        raise ValueError("answer is empty or below 0: number the answers of the batch from 0, the chosen one first.")
    counts = torch.bincount(answer)
    missing = -len(counts) % (1 + num_rejected)
    if missing or (counts == 0).any():
        number = int((counts == 0).nonzero()[0, 0]) if (counts == 0).any() else len(counts)
        raise ValueError(
            f"answer {number} has no tokens (each example has {1 + num_rejected} answers): leave out its example, or "
            "mend num_rejected."
        )
    return len(counts) // (1 + num_rejected)


def _check_matrix(name: str, matrix, shape: str) -> None:
    if not isinstance(matrix, Tensor):
        raise TypeError(f"{name} is a {type(matrix).__name__}: give a torch tensor of shape {shape}.")
    if matrix.ndim != 2:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}: give a matrix {shape}.")
    if matrix.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {matrix.dtype}: give floating-point numbers, e.g. {name}.float().")


def _check_labels(labels, rows: int, words: int) -> None:
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels is a {type(labels).__name__}: give a torch tensor of token ids, one for each row.")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels has dtype {labels.dtype}: give token ids, labels.long().")
    if labels.shape != (rows,):
        raise ValueError(f"labels has shape {tuple(labels.shape)} and hidden {rows} rows: give one label for each row.")
    bad = ((labels < 0) & (labels != -100)) | (labels >= words)
    if bad.any():
        at = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"labels has {int(labels[at])} at position {at} and the vocabulary {words} words: give token ids of 0 to "
            f"{words - 1}, or -100 for a row that is not scored."
        )


def _check_fused(hidden: Tensor, weight: Tensor) -> None:
    if not importlib.util.find_spec("triton"):
        raise ValueError("backend is 'fused' but triton is not installed: pip install triton, or choose 'tiled'.")
    from minilib.kernels.launch import INTERPRETED

    if hidden.dtype != weight.dtype:
        raise TypeError(f"hidden is {hidden.dtype} and weight {weight.dtype}: cast one of them, or choose 'tiled'.")
    if hidden.dtype == torch.float64:
        raise TypeError("hidden is torch.float64: the fused backend takes fp32, fp16 and bf16, choose 'tiled'.")
    if INTERPRETED and hidden.dtype == torch.bfloat16:
        raise TypeError("hidden is torch.bfloat16: Triton's interpreter cannot multiply bf16, give fp32 or fp16.")
    if not INTERPRETED and hidden.device.type != "cuda":
        raise ValueError(
            f"hidden is on {hidden.device} and backend 'fused' needs a CUDA card: set TRITON_INTERPRET=1 before Python "
            "starts to run the kernels in Triton's interpreter, or choose 'tiled'."
        )
