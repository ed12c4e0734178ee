"""The smallest model and data that a trainer accepts: two linear towers with dropout over random rows."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class ToyTowers(nn.Module):
    """Two linear maps onto the unit sphere; dropout makes every draw of the random state visible."""

    def __init__(self, dim: int = 8, dropout: float = 0.2, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.image_tower = nn.Sequential(nn.Dropout(dropout), nn.Linear(16, dim))
            self.text_tower = nn.Sequential(nn.Dropout(dropout), nn.Linear(16, dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(14.3)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def encode_image(self, images):
        return F.normalize(self.image_tower(images), dim=1)

    def encode_text(self, captions):
        return F.normalize(self.text_tower(captions), dim=1)


class ToyPairs:
    """Pairs of vectors in which the caption is a noisy copy of the picture."""

    def __init__(self, rows: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randn(rows, 16, generator=generator)
        self.captions = self.images + 0.3 * torch.randn(rows, 16, generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, indices):
        return {"image": self.images[indices], "caption": self.captions[indices]}
