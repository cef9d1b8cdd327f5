"""Members get higher confidence in their true class."""

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations


@attack(
    id="confidence",
    family="metric",
    paper="Yeom et al., CSF 2018; Song & Mittal, USENIX Security 2021 (I_conf)",
    requires={"logit_confidence"},
)
def score(seen: Observations) -> Floats:
    """Log odds of the true class: orders records as p_y does, without saturating at 1."""
    return seen.target["logit_confidence"].copy()
