"""Members get answers that are sharp and right."""

import numpy as np

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations


@attack(
    id="modified_entropy",
    family="metric",
    paper="Song & Mittal, USENIX Security 2021 (I_Mentr)",
    requires={"modified_entropy", "logit_confidence"},
)
def score(seen: Observations) -> Floats:
    """Negative logarithm of the modified entropy, which orders records as the modified entropy does."""
    value, phi = seen.target["modified_entropy"], seen.target["logit_confidence"]
    # Modified entropy is quadratic in the residual e^-phi: it underflows from phi = 354 on, where its logarithm
    # is -2 phi to within log 2. Without this, all very confident records would tie.
    underflown = value < np.finfo(np.float64).tiny
    return np.asarray(np.where(underflown, 2 * phi, -np.log(np.where(underflown, 1.0, value))))
