"""Entropy of the answer."""

import numpy as np
from scipy.special import xlogy

from privacy_gate.datamodel import Floats, Ints, Outputs
from privacy_gate.signals import signal
from privacy_gate.signals.logit_space import odds, softplus


@signal(name="entropy", unit="nats", paper="Shokri et al., S&P 2017; Song & Mittal, USENIX Security 2021 (I_entr)")
def entropy(outputs: Outputs, labels: Ints) -> Floats:
    """[n] -sum p_i log p_i; 0 log 0 = 0, so nothing is floored. The label is not looked at."""
    seen = odds(outputs)
    if outputs.kind == "logits":
        return np.asarray((seen.p * softplus(-seen.phi)).sum(axis=1))
    return np.asarray(np.maximum(-xlogy(seen.p, seen.p).sum(axis=1), 0.0))
