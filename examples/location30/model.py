"""The classifier of the Location30 experiments, for the candidate and for its shadows alike."""

from itertools import pairwise

from torch import nn


def classifier() -> nn.Module:
    """446 binary features (places visited) to logits of 30 kinds of visitor; untrained."""
    widths = [446, 1024, 512, 256, 128]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 30))
