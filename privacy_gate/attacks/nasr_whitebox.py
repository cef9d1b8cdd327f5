"""Everything the weights tell of a record, in a few numbers per layer, and a learner that knows some members."""

import numpy as np

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations, ThreatModel
from privacy_gate.learners import Material, cross_fitted
from privacy_gate.learners.logistic import logistic

SIGNALS = {"gradient_norms", "loss", "logit_confidence", "modified_entropy"}


@attack(
    id="nasr_whitebox",
    family="white-box",
    paper="after Nasr et al., S&P 2019 (section 3), with norms per layer for gradients and a line for the network",
    requires=SIGNALS,
    threat_models=(ThreatModel.KNOWN_SUBSET,),
    cost="one backward pass per record",
    reads_known=True,
)
def score(seen: Observations) -> Floats:
    """Log odds of membership by logistic regression on gradient norms, answers and class of known records."""
    return cross_fitted(seen, SIGNALS, lambda m, learn, ask: logistic(m, _table(m), learn, ask))


def _table(material: Material) -> Floats:
    """[R, 4 + layers] log gradient norms (input first), loss, log odds, minus log modified entropy."""
    given = material.signals
    phi, modified = given["logit_confidence"], given["modified_entropy"]
    # Modified entropy underflows where phi exceeds 354; its logarithm is then -2 phi to within log 2.
    gone = modified < np.finfo(np.float64).tiny
    sharp = np.where(gone, 2 * phi, -np.log(np.where(gone, 1.0, modified)))
    return np.column_stack([given["gradient_norms"], given["loss"], phi, sharp])
