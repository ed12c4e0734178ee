"""How well the features, and the answers, do their work.

retrieval.py asks every picture for its caption and every caption for its picture. longcontext.py asks for facts hidden
in long texts, perplexity.py how surprised a model is along them; imported by name, answers.py says when an answer is
right, retrieval_heads.py which heads find the facts, and language_model.py measures all of it for one model;
coverage.py counts which positions and distances synthesised positions leave out.
"""

from minilib.evals.longcontext import is_right, kind_scores, lost_in_the_middle, needle_map, retention
from minilib.evals.perplexity import perplexity_by_position
from minilib.evals.retrieval import evaluate_retrieval, recall_at_k

__all__ = [
    "evaluate_retrieval",
    "is_right",
    "kind_scores",
    "lost_in_the_middle",
    "needle_map",
    "perplexity_by_position",
    "recall_at_k",
    "retention",
]
