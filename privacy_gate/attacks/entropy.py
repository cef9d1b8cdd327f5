"""Members get sharper answers."""

import numpy as np

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations


@attack(
    id="entropy",
    family="metric",
    paper="Shokri et al., S&P 2017; Song & Mittal, USENIX Security 2021 (I_entr)",
    requires={"entropy"},
)
def score(seen: Observations) -> Floats:
    """Negative entropy of the answer, nats; needs no label, and takes confident errors for members."""
    return np.negative(seen.target["entropy"])
