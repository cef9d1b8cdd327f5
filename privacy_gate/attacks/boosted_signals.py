"""Boosted trees on the signals: the quick substitute for a network where no line fits."""

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations
from privacy_gate.learners import cross_fitted
from privacy_gate.learners.boosting import boosting
from privacy_gate.learners.tables import SIGNALS, signal_table


@attack(
    id="boosting",
    family="learned",
    paper="after Shokri et al., S&P 2017 and Nasr et al., CCS 2018, with boosted trees for the network",
    requires=set(SIGNALS),
    cost="three fits per split",
    reads_known=True,
    repeats=2,
)
def score(seen: Observations) -> Floats:
    """Log odds of membership by gradient boosting on the signals, with an effect per class."""
    return cross_fitted(seen, SIGNALS, lambda m, learn, ask: boosting(m, signal_table(m), learn, ask))
