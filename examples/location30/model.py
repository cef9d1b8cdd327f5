"""The classifiers of the Location30 experiments, for the candidate and for its shadows alike."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

PLACES, KINDS = 446, 30  # binary features, and kinds of visitor


def classifier() -> nn.Module:
    """Places visited to logits of the kinds of visitor; untrained. The network of the papers."""
    return network([1024, 512, 256, 128])


def small() -> nn.Module:
    """Two layers of the same kind with a seventh of the weights, for who cannot wait."""
    return network([256, 128])


def network(hidden: Sequence[int]) -> nn.Module:
    """Fully connected, rectified."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([PLACES, *hidden]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], KINDS))
