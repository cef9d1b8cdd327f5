"""Log odds of the classes that a model thinks most of."""

import numpy as np

from privacy_gate.datamodel import Floats, Ints, Outputs
from privacy_gate.signals import signal
from privacy_gate.signals.logit_space import odds

COUNT = 3


@signal(
    name="top_margins",
    unit="nats",
    paper="Salem et al., NDSS 2019 (the three highest classes), on the scale of Carlini et al., S&P 2022",
    vector=True,
)
def top_margins(outputs: Outputs, labels: Ints) -> Floats:
    """[n, 3] log odds of the three highest classes, falling; of two classes the second stands twice. No label."""
    phi = odds(outputs).phi
    count = min(COUNT, phi.shape[1])
    highest = np.sort(np.partition(phi, phi.shape[1] - count, axis=1)[:, phi.shape[1] - count :], axis=1)[:, ::-1]
    return np.ascontiguousarray(highest[:, np.minimum(np.arange(COUNT), count - 1)])
