"""Cross-entropy loss."""

from privacy_gate.datamodel import Floats, Ints, Outputs
from privacy_gate.signals import signal
from privacy_gate.signals.logit_space import odds, of_label, softplus


@signal(name="loss", unit="nats", paper="Yeom et al., CSF 2018")
def loss(outputs: Outputs, labels: Ints) -> Floats:
    """[n] -log p_y, floored like logit_confidence."""
    return softplus(-of_label(odds(outputs).phi, labels))
