"""How well the features do their work.

retrieval.py asks every picture for its caption and every caption for its picture.
"""

from .retrieval import evaluate_retrieval, recall_at_k

__all__ = ["evaluate_retrieval", "recall_at_k"]
