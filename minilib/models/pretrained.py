"""Any dual encoder of transformers under the names that our trainers use: `encode_image`, `encode_text`, `logit_scale`.

CLIPModel and SiglipModel keep their temperature as we do, as the logarithm of s, so the parameters are handed through
and not copied: training the adaptor trains the model. Features are normalised here, because transformers leaves that to
its own loss. A vision and a text encoder are joined by VisionTextDualEncoderModel; where one of them has no pooled
output, its tokens are averaged. Captions are cut at the positions that the text encoder has.
`minilib.models.encoders` loads models by name and chooses what is trained.
Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase as BatchNorms

from minilib.models.towers import TwoTowers, check_captions

SIDES = {"image": ("vision_", "visual_", "image_"), "text": ("text_", "textual_")}  # how their modules begin


class HFTowers(nn.Module):
    """Wraps `model`, which offers `get_image_features` and `get_text_features`, with its `processor`.

    processor: what transformers pairs with the model, with `.image_processor` and `.tokenizer` (CLIPProcessor).
    padding: how the tokenizer fills a batch; True pads to the longest caption, "max_length" is what SigLIP was
    trained with. dtype: what autocast computes in, such as torch.bfloat16; None leaves the weights' own. augment: what
    is done to a picture while training, image -> image, its random draws from torch. Raises TypeError when the model or
    the processor lacks one of these names.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Callable,
        *,
        padding: bool | str = True,
        dtype: torch.dtype | None = None,
        augment: Callable | None = None,
    ):
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
        self.dtype, self.augment = dtype, augment
        self.max_tokens = text_positions(model, processor.tokenizer)

    @property
    def logit_scale(self) -> nn.Parameter:
        """log s, the model's own parameter."""
        return self.model.logit_scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """The bias of the sigmoid loss, the model's own parameter, or None where the model has none."""
        return getattr(self.model, "logit_bias", None)

    forward = TwoTowers.forward

    def train(self, mode: bool = True) -> HFTowers:
        """Training mode, but not for a frozen tower, nor for batch norms: the gradient cache needs rows kept apart."""
        super().train(mode)
        for side in SIDES:
            towers = [module for name, module in inner(self.model).named_children() if side_of(name) == side]
            if not any(p.requires_grad for tower in towers for p in tower.parameters()):
                for tower in towers:
                    tower.eval()
        for module in self.modules():
            if isinstance(module, BatchNorms):
                module.eval()
        return self

    def encode_image(self, images: Tensor | Sequence) -> Tensor:
        """Unit features `(k, dim)` of uint8 images `(k, 3, H, W)`, or of a list of pillow images of any sizes."""
        if isinstance(images, Tensor) and (images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8):
            raise ValueError(
                f"images must be uint8 with shape (k, 3, H, W), got {images.dtype} {tuple(images.shape)}: "
                "pass the column `image` as it is stored."
            )
        images = list(images.cpu() if isinstance(images, Tensor) else images)
        if self.training and self.augment is not None:
            images = [self.augment(image) for image in images]  # here, where the gradient cache repeats the draws
        inputs = self.processor.image_processor(images=images, return_tensors="pt")
        with self._autocast():
            return self._unit(self._features("image", inputs))

    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """Unit features `(k, dim)` of k captions, cut at `max_tokens`."""
        check_captions(captions)
        length = {} if self.max_tokens is None else {"max_length": self.max_tokens}
        padding = True if self.max_tokens is None else self.padding
        inputs = self.processor.tokenizer(
            list(captions), padding=padding, truncation=bool(length), return_tensors="pt", **length
        )
        with self._autocast():
            return self._unit(self._features("text", inputs))

    def count_cut(self, captions: Sequence[str]) -> int:
        """How many captions lose their end, since the text encoder has no further positions."""
        if self.max_tokens is None:
            return 0
        lengths = map(len, self.processor.tokenizer(list(captions), truncation=False, verbose=False)["input_ids"])
        return sum(length > self.max_tokens for length in lengths)

    def _features(self, side: str, inputs) -> Tensor:
        model = inner(self.model)
        projection = getattr(model, {"image": "visual_projection", "text": "text_projection"}[side], None)
        joined = type(model).__name__ == "VisionTextDualEncoderModel"
        tower = getattr(model, {"image": "vision_model", "text": "text_model"}[side]) if joined else None
        call = tower if joined else getattr(model, f"get_{side}_features")
        known = inspect.signature(call.forward if joined else call).parameters
        inputs = {name: value.to(self.logit_scale.device) for name, value in inputs.items() if name in known}
        output = call(**inputs)
        if not joined:
            # transformers 4 returned the features themselves, transformers 5 returns them as the pooled output.
            return getattr(output, "pooler_output", output)
        mean = getattr(tower.config, "pooling", None) == "mean"
        return projection(pooled(output, inputs.get("attention_mask") if side == "text" else None, mean))

    def _autocast(self):
        device = self.logit_scale.device.type
        return torch.autocast(device, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    @staticmethod
    def _unit(features: Tensor) -> Tensor:
        return F.normalize(features.float() if features.dtype in (torch.bfloat16, torch.float16) else features, dim=-1)


def inner(model: nn.Module) -> nn.Module:
    """The model within peft's wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def side_of(name: str) -> str | None:
    """ "image" or "text", by how the name of a module or parameter begins; None for scale and bias."""
    return next((side for side, starts in SIDES.items() if name.startswith(starts)), None)


def pooled(output, mask: Tensor | None, mean: bool = False) -> Tensor:
    """One vector of each row `(k, d)`: the pooled output, or the average of the tokens that are no padding.

    mean: whether the average is wanted even where there is a pooled output.
    """
    if not mean and getattr(output, "pooler_output", None) is not None:
        return output.pooler_output.flatten(1)
    hidden = output.last_hidden_state  # (k, n, d)
    weights = hidden.new_ones(hidden.shape[:2]) if mask is None else mask.to(hidden.dtype)
    return (hidden * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)


def text_positions(model: nn.Module, tokenizer) -> int | None:
    """The most tokens of a caption: what the tokenizer says, and what the table of positions holds; None where neither.

    A table with a padding row, such as RoBERTa's, counts from behind it.
    """
    text = getattr(inner(model), "text_model", None)
    limits = [getattr(tokenizer, "model_max_length", None)]
    for name, module in text.named_modules() if text is not None else ():
        if isinstance(module, nn.Embedding) and ("position" in name.rpartition(".")[2] or name.endswith("wpe")):
            behind = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - behind)
    config = getattr(getattr(inner(model), "config", None), "text_config", None)
    if len(limits) == 1:  # no table: rotary positions, or none at all
        limits.append(getattr(config, "max_position_embeddings", None))
    limits = [limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**6]
    return min(limits, default=None)
