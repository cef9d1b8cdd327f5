"""Are members at high risk because they are unusual?"""

from __future__ import annotations

from privacy_gate.causes import CauseInput, cause
from privacy_gate.causes.association import compare, generator
from privacy_gate.causes.suspects import high_risk, outlier_suspects, told
from privacy_gate.datamodel import Cause


@cause(id="outliers", paper="after Carlini et al., S&P 2022, section VI, on out-of-distribution members")
def outliers(given: CauseInput) -> Cause | None:
    """Share of records that models without them find harder than 95 % of non-members: high-risk and all members."""
    audit = given.audit
    suspect, high = outlier_suspects(given.view.seen, ~audit.member), high_risk(given)
    if suspect is None or high is None:
        return None
    found = compare(suspect, high, audit.member, audit.persons, generator(given.seed, 4))
    if found is None:
        return None
    return told("outliers", "Outlier suspects", "Unusual to models trained without the record", found)
