"""Are members at high risk because their labels are wrong? A wrong label can only be learnt by heart."""

from __future__ import annotations

from privacy_gate.causes import CauseInput, cause
from privacy_gate.causes.association import compare, generator
from privacy_gate.causes.suspects import high_risk, label_noise_suspects, told
from privacy_gate.datamodel import Cause


@cause(id="label_noise", paper="after Feldman, STOC 2020, on memorised labels; Northcutt et al., JAIR 2021")
def label_noise(given: CauseInput) -> Cause | None:
    """Share of records whose label models without them contradict: among high-risk members, and among all members."""
    suspect, high = label_noise_suspects(given.view.seen), high_risk(given)
    if suspect is None or high is None:
        return None
    audit = given.audit
    found = compare(suspect, high, audit.member, audit.persons, generator(given.seed, 3))
    if found is None:
        return None
    return told("label_noise", "Label noise suspects", "Label contradicted by models trained without the record", found)
