"""Whether a record was in the reference models must say nothing of whether the target was trained on it."""

from __future__ import annotations

import numpy as np

from privacy_gate import metrics
from privacy_gate.datamodel import Finding, Invalidates
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import from_one_half, limit

LIMIT = 0.05


@check(id="reference_membership", title="references were drawn by lot", invalidates=Invalidates.BOTH)
def reference_membership(c: Circumstances) -> Finding:
    """AUC of the number of references that trained on a record, between members and non-members of the target.

    Planned shadows are drawn by lot. Loaded ones may not be: then an attack reads membership off the plan.
    """
    name, takes = "reference_membership", Invalidates.BOTH
    inside = c.observations.reference_member
    if inside is None:
        return Finding(name, "not_applicable", takes, None, "there are no reference models")
    times = inside.sum(axis=0).astype(np.float64)
    if np.ptp(times) == 0:
        return Finding(name, "pass", takes, 0.5, "every record is in the same number of reference models")
    auc = metrics.auc(times, c.audit.member, c.audit.persons)
    effect = from_one_half(auc, c)
    status = effect.against(limit(c, name, LIMIT))
    reason = f"AUC {auc.value:.3f} of how many references hold a record (at most {effect.high:.3f} from 0.5)"
    if status == "fail":
        reason += ": the references were not drawn by lot; train balanced shadows"
    return Finding(name, status, takes, auc.value, reason)
