"""The team's network and its augmentation: what training imports, and nothing of the gate."""

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10
BLANK = -0.3 / 0.38  # a white pixel after normalisation


def make() -> nn.Module:
    """Images [n, 1, 8, 8] to logits [n, 10]; untrained."""
    return nn.Sequential(
        nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        ),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    )


def shift(batch: Tensor, draws: torch.Generator) -> Tensor:
    """Each image of the batch moved by a pixel or none, in each direction by lot."""
    n, _, height, width = batch.shape
    padded = functional.pad(batch, (1, 1, 1, 1), value=BLANK)
    down, right = torch.randint(3, (2, n), generator=draws)
    rows = (down[:, None] + torch.arange(height))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, None, :]
    channels = torch.arange(batch.shape[1])[None, :, None, None]
    return padded[torch.arange(n)[:, None, None, None], channels, rows, columns]
