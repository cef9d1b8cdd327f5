"""Norms of the gradient of each record's loss: training made them small for members."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from privacy_gate.datamodel import Floats, Ints
from privacy_gate.features import Features
from privacy_gate.signals import Access, probe

if TYPE_CHECKING:
    from torch import Tensor

    from privacy_gate.signals.per_sample.gradients import Gradients


@probe(
    name="gradient_norms",
    unit="log of the L2 norm",
    paper="Nasr et al., S&P 2019 (white-box inputs); per layer in one backward pass: Goodfellow, 2015",
    needs="weights",
    queries="one backward pass",
    vector=True,
)
def gradient_norms(access: Access, features: Features, labels: Ints, seed: int) -> Floats:
    """[n, 1 + layers] log(norm + 1e-12) of the gradient of the cross-entropy: input, then each layer's parameters.

    A layer is a module that owns parameters, weight and bias together, ordered by name with digits by value. Inputs
    that are no numbers (token ids) have norm 0. Raises NotEvaluable for models that cannot be differentiated.
    """
    from privacy_gate.signals.per_sample.gradients import summarised

    return np.asarray(summarised(access, features, labels, _log_norms))


def _log_norms(gradients: Gradients) -> Tensor:
    import torch

    from privacy_gate.signals.per_sample.summaries import FLOOR

    squares = [gradients.inputs.squares()]
    squares += [torch.stack([g.squares() for g in layer]).sum(0) for layer in gradients.layers().values()]
    return torch.log(torch.stack(squares, dim=1).sqrt() + FLOOR)
