"""Training made the gradients of members small."""

import numpy as np
from scipy.special import logsumexp

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations


@attack(
    id="gradient_norm",
    family="white-box",
    paper="Nasr et al., S&P 2019 (section 4: gradient norms of members and non-members)",
    requires={"gradient_norms"},
    cost="one backward pass per record and model",
)
def score(seen: Observations) -> Floats:
    """Minus the logarithm of the norm of the loss gradient with respect to all parameters."""
    layers = seen.target["gradient_norms"][:, 1:]  # the first column is the input's
    return np.asarray(-0.5 * logsumexp(2.0 * layers, axis=1))
