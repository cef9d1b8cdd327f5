"""The shape of the gradient of each record's loss: seven numbers of the input's, and seven of the parameters'."""

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
    name="gradient_features",
    unit="logs and moments",
    paper="Rezaei & Liu, CVPR 2021 (gradient norms)",
    needs="weights",
    queries="one backward pass",
    vector=True,
    shadows=False,
)
def gradient_features(access: Access, features: Features, labels: Ints, seed: int) -> Floats:
    """[n, 14] L1, L2, min |g|, max |g|, mean, skewness and kurtosis of the gradient of the cross-entropy.

    Of the input's gradient, then of all parameters' as one vector; on the scales that `per_sample.summaries.described`
    names. Raises NotEvaluable for models that cannot be differentiated.
    """
    from privacy_gate.signals.per_sample.gradients import summarised

    return np.asarray(summarised(access, features, labels, _features))


def _features(gradients: Gradients) -> Tensor:
    import torch

    from privacy_gate.signals.per_sample.summaries import described, joined

    everything = joined([gradient.moments() for gradient in gradients.parameters.values()])
    return torch.cat([described(gradients.inputs.moments()), described(everything)], dim=1)
