"""One shadow, one network, no label: what can be learned from the shape of an answer alone."""

from dataclasses import replace

import numpy as np

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations, ThreatModel
from privacy_gate.learners import cross_fitted
from privacy_gate.learners.networks import one_network

SIGNALS = {"log_probabilities"}


@attack(
    id="salem_nn",
    family="neural",
    paper="Salem et al., NDSS 2019 (adversary 1); Jia et al., CCS 2019 (the attack MemGuard defends against)",
    requires=SIGNALS,
    threat_models=(ThreatModel.SHADOW,),
    cost="nine networks",
    reads_known=True,
)
def score(seen: Observations) -> Floats:
    """Log odds of membership by a network on the answer's sorted log probabilities, trained on one shadow's answers."""
    # The sorted answers replace the signal before anything else: even the draws know nothing of the label.
    bare = replace(seen, target={"falling": _falling(seen)})
    return cross_fitted(bare, ["falling"], lambda m, *rows: one_network(m, m.signals["falling"], *rows), one_model=True)


def _falling(seen: Observations) -> Floats:
    """[R, d] log probabilities in falling order: which of them is the true class is not told."""
    values = np.sort(seen.target["log_probabilities"], axis=1)[:, ::-1]
    # Of more classes than the signal has columns, only the true one may stand in low rank: the last would tell it.
    return values if values.shape[1] == seen.classes else values[:, :-1]
