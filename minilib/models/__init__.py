"""Models, and no trainer: encoders offer `encode_image`, `encode_text` and `logit_scale`.

towers.py holds two small ones for a laptop; pretrained.py gives the same names to any dual encoder of transformers,
which encoders.py loads by folder or name.
tiny_lm.py is a small language model that was trained here, loading.py finds language models by name, and generation.py
makes of each a function that answers prompts in batches.
"""

from minilib.models.generation import make_answer_fn
from minilib.models.pretrained import HFTowers
from minilib.models.towers import TwoTowers

__all__ = ["HFTowers", "TwoTowers", "make_answer_fn"]
