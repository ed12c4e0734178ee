"""Preference pairs for long contexts, made by the model that is to be aligned.

`chunking` cuts a context and chooses what each answer may read, `importance` scores the chunks, `filtering` judges and
counts the answers, `build` (and `assembly` behind it) makes the pairs, `resumable_jsonl` keeps them through an
interruption, `haystack_pairs` does all of it on made questions.
"""

from minilib.evals.answers import contains_answer
from minilib.preferences.build import PairsConfig, build_pairs, plain_prompt
from minilib.preferences.chunking import chunk_text
from minilib.preferences.filtering import QualityReport
from minilib.preferences.importance import exact_entities, rare_words, spacy_entities

__all__ = [
    "PairsConfig",
    "QualityReport",
    "build_pairs",
    "chunk_text",
    "contains_answer",
    "exact_entities",
    "plain_prompt",
    "rare_words",
    "spacy_entities",
]
