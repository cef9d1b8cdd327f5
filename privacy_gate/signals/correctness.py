"""Whether the top class is the label."""

import numpy as np

from privacy_gate.datamodel import Floats, Ints, Outputs
from privacy_gate.signals import signal


@signal(
    name="correctness", unit="0 or 1", paper="Leino & Fredrikson, USENIX Security 2020; Song & Mittal 2021 (I_corr)"
)
def correctness(outputs: Outputs, labels: Ints) -> Floats:
    """[n] 1.0 where the top class is the label, else 0.0; among equal top classes the lowest index counts."""
    return np.asarray(outputs.values.argmax(axis=1) == labels, dtype=np.float64)
