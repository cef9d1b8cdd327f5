"""Confidence in the true class."""

import numpy as np
from scipy.special import expit

from privacy_gate.datamodel import Floats, Ints, Outputs
from privacy_gate.signals import signal
from privacy_gate.signals.logit_space import odds, of_label


@signal(name="confidence", unit="probability", paper="Yeom et al., CSF 2018; Song & Mittal 2021 (I_conf)")
def confidence(outputs: Outputs, labels: Ints) -> Floats:
    """[n] p_y as answered; saturates at 1, so thresholds are set on logit_confidence instead."""
    if outputs.kind == "logits":
        return np.asarray(expit(of_label(odds(outputs).phi, labels)))
    return of_label(outputs.values, labels).astype(np.float64)
