"""One network for all classes learns from the members that the attacker knows."""

import numpy as np

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations, ThreatModel
from privacy_gate.learners import Material, cross_fitted
from privacy_gate.learners.networks import one_network

MOST_CLASSES = 128

SIGNALS = {"log_probabilities"}


@attack(
    id="nasr_nn",
    family="neural",
    paper="Nasr et al., CCS 2018 (section 3: inference model on the answer and the one-hot label)",
    requires=SIGNALS,
    threat_models=(ThreatModel.KNOWN_SUBSET,),
    cost="nine networks per split",
    reads_known=True,
    repeats=2,
)
def score(seen: Observations) -> Floats:
    """Log odds of membership by one network on log probabilities and one-hot label, trained on known records."""
    return cross_fitted(seen, SIGNALS, lambda m, learn, ask: one_network(m, _with_label(m), learn, ask, labelled=True))


def _with_label(material: Material) -> Floats:
    """[R, d + c] log probabilities and the label, of the classes that appear first; beyond 128 all zero."""
    label = material.group[:, None] == np.arange(min(material.groups, MOST_CLASSES))
    return np.concatenate([material.signals["log_probabilities"], label], axis=1)
