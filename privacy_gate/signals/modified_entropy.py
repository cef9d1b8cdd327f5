"""Modified entropy, in logit space."""

import numpy as np

from privacy_gate.datamodel import Floats, Ints, Outputs
from privacy_gate.signals import signal
from privacy_gate.signals.logit_space import odds, of_label, softplus


@signal(name="modified_entropy", unit="nats", paper="Song & Mittal, USENIX Security 2021 (Mentr)")
def modified_entropy(outputs: Outputs, labels: Ints) -> Floats:
    """[n] -(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i): 0 only for the correct one-hot answer.

    Logarithms are floored like logit_confidence, their weights are not: an exact zero adds nothing.
    """
    seen = odds(outputs)
    terms = seen.p * softplus(seen.phi)
    own = of_label(seen.rest, labels) * softplus(-of_label(seen.phi, labels))
    terms[np.arange(len(labels)), labels] = own
    return np.asarray(terms.sum(axis=1))
