"""Whether a record was in the reference models must say nothing of whether the target was trained on it."""

from __future__ import annotations

import numpy as np

from privacy_gate import metrics
from privacy_gate.datamodel import Bools, Finding, Floats, Ints, Invalidates
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import Effect, corrected_alpha, limit

LIMIT = 0.05


def effects(inside: Bools, member: Bools, persons: Ints, *, corrected: float, plain: float) -> list[Effect]:
    """Distance from one half of the AUC, between members and others, of the number of references that hold a record;
    then, for each reference, of whether it holds the record.

    Two references of members alone and two of the others alone hold every record twice: the number says nothing then,
    each reference by itself says all. Those that hold all records, or none, say nothing.
    corrected, plain  levels of the lower bounds, shared by all of them, and of the upper ones

    [S, R], [R], [R] -> 1 + S effects
    """
    asked = [inside.sum(axis=0).astype(np.float64), *inside.astype(np.float64)]
    return [_effect(values, member, persons, corrected / len(asked), plain) for values in asked]


def _effect(values: Floats, member: Bools, persons: Ints, corrected: float, plain: float) -> Effect:
    if np.ptp(values) == 0:
        return Effect(0.0, 0.0, 0.0)
    auc = metrics.auc(values, member, persons)
    return Effect(
        abs(auc.value - 0.5),
        max(auc.lower(corrected / 2) - 0.5, 0.5 - auc.upper(corrected / 2)),
        max(auc.upper(plain) - 0.5, 0.5 - auc.lower(plain)),
    )


@check(id="reference_membership", title="references were drawn by lot", invalidates=Invalidates.BOTH)
def reference_membership(c: Circumstances) -> Finding:
    """AUC of the number of references that trained on a record, between members and non-members of the target.

    Planned shadows are drawn by lot. Others may not be: then an attack reads membership off the plan. Of those each
    reference is looked at by itself as well.
    """
    name, takes = "reference_membership", Invalidates.BOTH
    inside = c.observations.reference_member
    if inside is None:
        return Finding(name, "not_applicable", takes, None, "there are no reference models")
    times = inside.sum(axis=0).astype(np.float64)
    most = limit(c, name, LIMIT)
    if c.plan is None or c.plan.kind == "loaded":
        # The two questions share the level of the check.
        level = corrected_alpha(c) / 2
        each = effects(inside, c.audit.member, c.audit.persons, corrected=level, plain=c.alpha)[1:]
        worst = max(each, key=lambda effect: effect.low)
        if worst.low > most:
            reason = f"AUC {0.5 + worst.value:.3f} or {0.5 - worst.value:.3f} of whether one reference holds a record"
            reason += ": the references were not drawn by lot; train balanced shadows"
            return Finding(name, "fail", takes, 0.5 + worst.value, reason)
    if np.ptp(times) == 0:
        return Finding(name, "pass", takes, 0.5, "every record is in the same number of reference models")
    auc = metrics.auc(times, c.audit.member, c.audit.persons)
    effect = _effect(times, c.audit.member, c.audit.persons, corrected_alpha(c), c.alpha)
    status = effect.against(most)
    reason = f"AUC {auc.value:.3f} of how many references hold a record (at most {effect.high:.3f} from 0.5)"
    if status == "fail":
        reason += ": the references were not drawn by lot; train balanced shadows"
    return Finding(name, status, takes, auc.value, reason)
