"""Modified entropy, in logit space."""

import numpy as np

from privacy_gate.datamodel import Floats, Ints, Outputs
from privacy_gate.signals import signal
from privacy_gate.signals.logit_space import log_odds, of_label, probabilities, softplus


@signal(name="modified_entropy", unit="nats", paper="Song & Mittal, USENIX Security 2021 (Mentr)")
def modified_entropy(outputs: Outputs, labels: Ints) -> Floats:
    """[n] -(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i): 0 only for the correct one-hot answer.

    Logarithms are floored like logit_confidence, their weights are not: an exact zero adds nothing.
    """
    phi = log_odds(outputs)
    p, rest = probabilities(outputs)
    terms = p * softplus(phi)
    rows = np.arange(len(labels))
    terms[rows, labels] = of_label(rest, labels) * softplus(-of_label(phi, labels))
    return np.asarray(terms.sum(axis=1))
