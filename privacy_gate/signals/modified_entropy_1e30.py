"""Modified entropy as the paper's own code computes it."""

import numpy as np
from scipy.special import softmax

from privacy_gate.datamodel import Floats, Ints, Outputs
from privacy_gate.signals import signal
from privacy_gate.signals.logit_space import of_label

FLOOR = 1e-30


@signal(name="modified_entropy_1e30", unit="nats", paper="Song & Mittal, USENIX Security 2021, released code")
def modified_entropy_1e30(outputs: Outputs, labels: Ints) -> Floats:
    """[n] modified entropy in the dtype of the answer, with 1 - p and a constant floor of 1e-30.

    Loses all margins above 16 nats in float32. Kept because published counts depend on it; see risk/song2021.py.
    """
    values = outputs.values.astype(np.result_type(outputs.values.dtype, np.float32))  # 1e-30 is 0 in float16
    p = softmax(values, axis=1) if outputs.kind == "logits" else values
    rest = 1 - p
    terms = -p * np.log(np.maximum(rest, FLOOR))
    rows = np.arange(len(labels))
    terms[rows, labels] = -of_label(rest, labels) * np.log(np.maximum(of_label(p, labels), FLOOR))
    return np.asarray(terms.sum(axis=1), dtype=np.float64)
