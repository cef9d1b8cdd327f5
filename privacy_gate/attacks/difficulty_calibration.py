"""How much more confident is the target than models of the same kind that never saw the record?"""

from __future__ import annotations

import numpy as np

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations, ThreatModel
from privacy_gate.errors import NotEvaluable

PROXIES = 4


@attack(
    id="difficulty_calibration",
    family="reference",
    paper="Watson et al., ICLR 2022 (score less its mean over proxies)",
    requires={"logit_confidence"},
    threat_models=(ThreatModel.REFERENCE,),
    cost="training up to four proxies",
    min_out=1,
)
def score(seen: Observations) -> Floats:
    """Confidence of the target less the mean confidence of up to four proxies that were not trained on the record."""
    member = seen.reference_member
    if member is None or "logit_confidence" not in seen.references:
        raise NotEvaluable("difficulty_calibration: no proxies", "train shadow models, or give reference_signals")
    if member.all(axis=0).any():
        raise NotEvaluable(
            "difficulty_calibration: some records are in every reference model", "each needs one without it"
        )
    asked = ~member & (np.cumsum(~member, axis=0) <= PROXIES)
    total = np.where(asked, seen.references["logit_confidence"], 0.0).sum(axis=0)
    return np.asarray(seen.target["logit_confidence"] - total / asked.sum(axis=0))
