"""The answer as trained attacks read it: log probabilities, the record's own class first."""

import numpy as np

from privacy_gate.datamodel import Floats, Ints, Outputs
from privacy_gate.signals import signal
from privacy_gate.signals.logit_space import odds, of_label, softplus

WIDTH = 32
"""At most so many columns: shadows answer for all records, and a thousand classes would fill the memory."""


@signal(
    name="log_probabilities",
    unit="nats",
    paper="Shokri et al., S&P 2017; Salem et al., NDSS 2019 (attack features)",
    vector=True,
)
def log_probabilities(outputs: Outputs, labels: Ints) -> Floats:
    """[n, min(K, 32)] log p_y, then log p of the highest other classes, falling; floored like logit_confidence."""
    phi = odds(outputs).phi
    n, classes = phi.shape
    own = of_label(phi, labels)[:, None]
    others = phi[np.arange(classes) != labels[:, None]].reshape(n, classes - 1)
    kept = min(classes, WIDTH) - 1
    if kept < classes - 1:
        others = np.partition(others, classes - 1 - kept, axis=1)[:, classes - 1 - kept :]
    falling = np.sort(others, axis=1)[:, ::-1]
    return -softplus(-np.concatenate([own, falling], axis=1))
