"""Logit-scaled confidence."""

from privacy_gate.datamodel import Floats, Ints, Outputs
from privacy_gate.signals import signal
from privacy_gate.signals.logit_space import odds, of_label


@signal(name="logit_confidence", unit="nats", paper="Carlini et al., S&P 2022 (logit scaling)")
def logit_confidence(outputs: Outputs, labels: Ints) -> Floats:
    """[n] log p_y - log(sum of the other classes): unbounded, near Gaussian over shadow models."""
    return of_label(odds(outputs).phi, labels)
