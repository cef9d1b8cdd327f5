"""A line through the signals: the quick substitute for a network."""

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations
from privacy_gate.learners import cross_fitted
from privacy_gate.learners.logistic import logistic
from privacy_gate.learners.tables import SIGNALS, signal_table


@attack(
    id="logistic",
    family="learned",
    paper="after Shokri et al., S&P 2017 and Nasr et al., CCS 2018, with a logistic regression for the network",
    requires=set(SIGNALS),
    reads_known=True,
)
def score(seen: Observations) -> Floats:
    """Log odds of membership by logistic regression on the signals, with an effect per class."""
    return cross_fitted(seen, SIGNALS, lambda m, learn, ask: logistic(m, signal_table(m), learn, ask))
