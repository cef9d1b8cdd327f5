"""Members lie farther from the next class: an attacker who sees only classes and asks for many."""

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations, ThreatModel


@attack(
    id="boundary_distance",
    family="label-only",
    paper="Li & Zhang, CCS 2021; Choquette-Choo et al., ICML 2021; Chen et al., S&P 2020 (HopSkipJump)",
    requires={"boundary_distance"},
    threat_models=(ThreatModel.KNOWN_SUBSET,),
    cost="at most 403 answers per record, of the target alone",
)
def score(seen: Observations) -> Floats:
    """Length of the smallest change found that alters the class; 0 for records that miss their class."""
    return seen.target["boundary_distance"].copy()
