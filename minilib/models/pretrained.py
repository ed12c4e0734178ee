"""Any dual encoder of transformers under the names that our trainers use: `encode_image`, `encode_text`, `logit_scale`.

CLIPModel and SiglipModel keep their temperature as we do, as the logarithm of s, so the parameters are handed through
and not copied: training the adaptor trains the model. Features are normalised here, because transformers leaves that to
its own loss. Nothing is downloaded: build or load the model and its processor yourself and pass both.
Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minilib.models.towers import TwoTowers, check_captions


class HFTowers(nn.Module):
    """Wraps `model`, which offers `get_image_features` and `get_text_features`, with its `processor`.

    processor: what transformers pairs with the model, with `.image_processor` and `.tokenizer` (CLIPProcessor).
    padding: how the tokenizer fills a batch; True pads to the longest caption, "max_length" is what SigLIP was
    trained with. Raises TypeError when the model or the processor lacks one of these names.
    """

    def __init__(self, model: nn.Module, processor: Callable, *, padding: bool | str = True):
        super().__init__()
        for thing, label, needed in (
            (model, "model", ("get_image_features", "get_text_features", "logit_scale")),
            (processor, "processor", ("image_processor", "tokenizer")),
        ):
            lacking = [name for name in needed if not hasattr(thing, name)]
            if lacking:
                raise TypeError(
                    f"{label} must offer {', '.join(needed)}, got {type(thing).__name__} without "
                    f"{', '.join(lacking)}: pass a dual encoder and the processor made for it."
                )
        self.model, self.processor, self.padding = model, processor, padding

    @property
    def logit_scale(self) -> nn.Parameter:
        """log s, the model's own parameter."""
        return self.model.logit_scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """The bias of the sigmoid loss, the model's own parameter, or None where the model has none."""
        return getattr(self.model, "logit_bias", None)

    forward = TwoTowers.forward

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit features `(k, dim)` of uint8 images `(k, 3, H, W)`; the processor resizes and rescales them."""
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(
                f"images must be uint8 with shape (k, 3, H, W), got {images.dtype} {tuple(images.shape)}: "
                "pass the column `image` as it is stored."
            )
        inputs = self.processor.image_processor(images=list(images.cpu()), return_tensors="pt")
        return self._unit(self.model.get_image_features(**inputs.to(self.logit_scale.device)))

    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """Unit features `(k, dim)` of k captions, cut at the length that the tokenizer knows."""
        check_captions(captions)
        inputs = self.processor.tokenizer(list(captions), padding=self.padding, truncation=True, return_tensors="pt")
        return self._unit(self.model.get_text_features(**inputs.to(self.logit_scale.device)))

    @staticmethod
    def _unit(output) -> Tensor:
        # transformers 4 returned the features themselves, transformers 5 returns them as the pooled output.
        return F.normalize(getattr(output, "pooler_output", output), dim=-1)
