"""A network for each class learns what answers to members look like."""

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations, ThreatModel
from privacy_gate.learners import cross_fitted
from privacy_gate.learners.networks import network_per_class

SIGNALS = {"log_probabilities"}


@attack(
    id="shokri_nn",
    family="neural",
    paper="Shokri et al., S&P 2017 (section V: one attack model per class, several shadow models)",
    requires=SIGNALS,
    threat_models=(ThreatModel.SHADOW,),
    cost="three networks per class and fold",
    reads_known=True,
)
def score(seen: Observations) -> Floats:
    """Log odds of membership by a network per class, trained on the answers of all shadows; median of three seeds."""
    return cross_fitted(
        seen, SIGNALS, lambda m, learn, ask: network_per_class(m, m.signals["log_probabilities"], learn, ask)
    )
