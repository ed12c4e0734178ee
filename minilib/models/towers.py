"""Two small encoders, one for pictures and one for sentences, that end in the same space.

    img_i = normalise(image_tower(picture_i)),    txt_j = normalise(text_tower(caption_j))
    logits = s <img_i, txt_j> + b                 s = exp(logit_scale), b = logit_bias (of the sigmoid loss only)

Both towers look at neighbours ("red circle" is not "red ... circle") and end in an average; the image tower adds a view
of the places. One pair costs about 4 million floating-point operations forward. **No batch normalisation**: the
gradient cache runs every micro-batch twice and must get the same features, however the batch was cut. Group
normalisation over one picture is safe, and padding is masked for the same reason.
Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAD, UNKNOWN = 0, 1
# Han and kana, Thai and Lao, Burmese, Khmer, Tibetan: a character each, the text between them in one piece.
UNSPACED = re.compile(
    "([\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)
GRID = 4  # the image tower ends in a grid of 4 x 4 places


class TwoTowers(nn.Module):
    """A small dual encoder for pictures and captions.

    vocabulary: the words to tell apart; None takes those of scenes and digits. dim: feature size. width: hidden size.
    image_size: side of the pictures, a multiple of 8, at least 32. init_scale: s at the start, above 0.
    dropout: chance that a hidden unit is dropped while training. max_words: longer captions lose their end.
    """

    def __init__(
        self,
        vocabulary: Iterable[str] | None = None,
        *,
        dim: int = 64,
        width: int = 64,
        image_size: int = 32,
        init_scale: float = 1 / 0.07,
        dropout: float = 0.0,
        max_words: int = 32,
    ):
        super().__init__()
        _check_sizes(dim, width, image_size, init_scale, dropout, max_words)
        self.vocabulary = sorted({word.lower() for word in _words(vocabulary)})
        self.index = {word: k for k, word in enumerate(self.vocabulary, start=UNKNOWN + 1)}
        self.image_size, self.max_words = image_size, max_words
        self.image_tower = ImageTower(dim, 2 * width, dropout)
        self.text_tower = TextTower(len(self.index) + 2, max_words, dim, width, dropout)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(init_scale)))  # log s, as open_clip keeps it
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))  # SigLIP starts where nearly every pair is a negative

    def forward(self, images: Tensor | None = None, captions: Sequence[str] | None = None) -> tuple:
        """Features of whichever side is given, `(img or None, txt or None)`: one entry point for wrappers."""
        img = None if images is None else self.encode_image(images)
        txt = None if captions is None else self.encode_text(captions)
        return img, txt

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit features `(k, dim)` of images `(k, 3, image_size, image_size)`: uint8, or floating point from 0 to 1."""
        side = self.image_size
        if images.ndim != 4 or images.shape[1:] != (3, side, side):
            raise ValueError(
                f"images must have shape (k, 3, {side}, {side}), got {tuple(images.shape)}: "
                "resize them, or build TwoTowers with another image_size."
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(f"images must be uint8 or floating point, got {images.dtype}: convert them first.")
        unit = 127.5 if images.dtype == torch.uint8 else 0.5
        pixels = images.to(self.logit_scale.device, self.logit_scale.dtype) / unit - 1  # from -1 to 1
        return F.normalize(self.image_tower(pixels), dim=-1)

    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """Unit features `(k, dim)` of k captions; words outside the vocabulary share one embedding."""
        check_captions(captions)
        return F.normalize(self.text_tower(self.tokenize(captions)), dim=-1)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Word numbers `(k, longest)` int64, 0 behind the end of a caption and 1 for an unknown word."""
        rows = [[self.index.get(word, UNKNOWN) for word in words_of(caption)] for caption in captions]
        longest = min(max(map(len, rows), default=1) or 1, self.max_words)
        rows = [(row + [PAD] * (longest - len(row)))[:longest] for row in rows]
        return torch.tensor(rows, dtype=torch.long, device=self.logit_scale.device).view(-1, longest)


class ImageTower(nn.Module):
    """Pixels `(k, 3, H, W)` from -1 to 1 to `(k, dim)`: patches, their neighbourhoods, then what and where."""

    def __init__(self, dim: int, width: int, dropout: float = 0.0):
        super().__init__()
        self.patches = nn.Conv2d(3, width // 2, kernel_size=4, stride=4)
        self.neighbours = nn.Conv2d(width // 2, width, kernel_size=3, stride=2, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(1, width // 2), nn.GroupNorm(1, width)])
        self.dropout = nn.Dropout(dropout)
        self.what, self.where = nn.Linear(width, dim), nn.Linear(width * GRID * GRID, dim)

    def forward(self, pixels: Tensor) -> Tensor:
        x = F.gelu(self.norms[0](self.patches(pixels)))  # (k, width / 2, H / 4, W / 4)
        x = F.gelu(self.norms[1](self.neighbours(x)))  # (k, width, H / 8, W / 8)
        x = self.dropout(F.adaptive_avg_pool2d(x, GRID))  # (k, width, 4, 4)
        # The average learns in a few steps what the places need many for: it sees every object wherever it stands.
        return GRID * self.what(x.mean((2, 3))) + self.where(x.flatten(1))  # (k, dim)


class TextTower(nn.Module):
    """Word numbers `(k, n)` to `(k, dim)`: words with places, their neighbourhoods twice, then the average of both."""

    def __init__(self, words: int, max_words: int, dim: int, width: int, dropout: float = 0.0):
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=PAD)
        self.places = nn.Parameter(0.02 * torch.randn(max_words, width))
        self.near = nn.Conv1d(width, width, kernel_size=3, padding=1)
        self.far = nn.Conv1d(width, width, kernel_size=3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * width, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        # Masked after each layer: otherwise what follows the end would depend on the longest caption next to it.
        real = (tokens != PAD).to(self.places.dtype)[:, None]  # (k, 1, n)
        x = (self.words(tokens) + self.places[: tokens.shape[1]]).mT * real  # (k, width, n)
        y = F.gelu(self.near(x)) * real
        y = F.gelu(self.far(y)) * real
        length = real.sum(2).clamp(min=1)  # (k, 1)
        both = torch.cat([x.sum(2), y.sum(2)], dim=1) / length  # (k, 2 width)
        return self.out(self.dropout(both))  # (k, dim)


def words_of(caption: str) -> list[str]:
    """The words of a caption in lower case; of scripts that put no blanks between words, every character."""
    return [piece for word in caption.lower().split() for piece in UNSPACED.split(word) if piece]


def check_captions(captions: Sequence[str]) -> None:
    if isinstance(captions, str) or not all(isinstance(caption, str) for caption in captions):
        raise TypeError(f"captions must be a list of strings, got {type(captions).__name__}: pass one per image.")


def _words(vocabulary: Iterable[str] | None) -> Iterable[str]:
    if vocabulary is None:
        from minilib.data import digits, scenes

        return [*scenes.vocabulary(), *digits.NAMES]
    words = [vocabulary] if isinstance(vocabulary, str) else list(vocabulary)
    if isinstance(vocabulary, str) or not words or not all(isinstance(word, str) for word in words):
        raise TypeError(
            f"vocabulary must be a non-empty list of words, got {vocabulary!r:.40}: pass the words of your captions."
        )
    return words


def _check_sizes(dim, width, image_size, init_scale, dropout, max_words) -> None:
    for name, value, least in (("dim", dim, 1), ("width", width, 1), ("max_words", max_words, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}: pass a whole number.")
    if not isinstance(image_size, int) or image_size < 32 or image_size % 8:
        raise ValueError(f"image_size must be a multiple of 8 of at least 32, got {image_size!r}: pass for example 32.")
    if not 0 < init_scale < math.inf:
        raise ValueError(f"init_scale must be above 0 and finite, got {init_scale!r}: pass for example 1 / 0.07.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout!r}: pass 0 to drop nothing.")
