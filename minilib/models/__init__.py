"""Encoders, and no trainer: each offers `encode_image`, `encode_text` and `logit_scale`.

towers.py holds two small ones for a laptop; pretrained.py gives the same names to any dual encoder of transformers.
"""

from .pretrained import HFTowers
from .towers import TwoTowers

__all__ = ["HFTowers", "TwoTowers"]
