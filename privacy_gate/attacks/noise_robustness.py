"""Members keep their class when the record is changed a little: an attacker who sees only classes."""

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations


@attack(
    id="noise_robustness",
    family="label-only",
    paper="Choquette-Choo et al., ICML 2021; Li & Zhang, CCS 2021",
    requires={"noise_robustness"},
    cost="25 answers per record, of the target and of every shadow",
)
def score(seen: Observations) -> Floats:
    """Share of slightly changed copies of a table's record that get its class; records that miss it come last."""
    return seen.target["noise_robustness"].copy()
