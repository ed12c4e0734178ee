"""Differentiable functions that people import.

`contrastive` holds the batch losses of Inf-CL: `clip_loss` (InfoNCE, both directions) and `siglip_loss`.
"""

from minilib.losses.contrastive import clip_loss, siglip_loss

__all__ = ["clip_loss", "siglip_loss"]
