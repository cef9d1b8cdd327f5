"""A reference model that trained on some records of a person is no model without that person."""

from __future__ import annotations

import numpy as np

from privacy_gate.datamodel import Finding, Invalidates
from privacy_gate.validity import Circumstances, check


@check(id="persons_in_references", title="no person straddles a reference model", invalidates=Invalidates.PASS)
def persons_in_references(c: Circumstances) -> Finding:
    """Share of (reference, person) pairs with records on both sides; any blunts reference attacks, so any fires."""
    name, takes = "persons_in_references", Invalidates.PASS
    inside = c.observations.reference_member
    if inside is None:
        return Finding(name, "not_applicable", takes, None, "there are no reference models")
    records = np.bincount(c.audit.persons)
    present = records > 0
    held = np.stack([np.bincount(c.audit.persons[row], minlength=len(records)) for row in inside])[:, present]
    split = float(((held > 0) & (held < records[present])).mean())
    if split == 0:
        return Finding(name, "pass", takes, 0.0, "every reference model holds all records of a person, or none")
    reason = f"{100 * split:.1f} % of persons are split between a reference's training records and the others"
    return Finding(name, "fail", takes, split, f"{reason}; train shadows by person")
