"""Differentiable functions that people import.

`contrastive` holds the batch losses of Inf-CL, `clip_loss` (InfoNCE, both directions) and `siglip_loss`;
`contrastive_ring` the same over many ranks. `preference` holds the losses of LOGO and its neighbours on
log-probabilities, which `logps` takes from a large vocabulary tile by tile; `logo_from_hidden` does both in one sweep.
"""

from minilib.losses.contrastive import clip_loss, siglip_loss

__all__ = ["clip_loss", "siglip_loss"]
