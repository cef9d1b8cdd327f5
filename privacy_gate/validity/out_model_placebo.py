"""Models that were not trained on a record cannot know whether the target was: if they seem to, the sets differ."""

from __future__ import annotations

import numpy as np

from privacy_gate import metrics
from privacy_gate.datamodel import Finding, Invalidates
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import from_one_half, limit

LIMIT = 0.05
SIGNAL = "logit_confidence"


@check(id="out_model_placebo", title="OUT models cannot tell members", invalidates=Invalidates.BOTH)
def out_model_placebo(c: Circumstances) -> Finding:
    """AUC of the mean confidence of the models that did not train on a record, between members and non-members.

    Of models that tell labels alone, of the share of them that is right.

    Two-sided: easier members invent leakage, harder members mask it.
    """
    name, takes = "out_model_placebo", Invalidates.BOTH
    member = c.observations.reference_member
    # Of models that tell labels alone: how many of them are right.
    answers = c.observations.references.get(SIGNAL, c.observations.references.get("correctness"))
    if member is None or answers is None:
        return Finding(name, "not_applicable", takes, None, "there are no reference models")
    out = ~member
    known = out.any(axis=0)
    sides = c.audit.member[known]
    if not sides.any() or sides.all():
        return Finding(name, "not_applicable", takes, None, "no records that some reference model did not train on")
    scores = np.where(out, answers, 0.0).sum(axis=0)[known] / out.sum(axis=0)[known]
    auc = metrics.auc(np.asarray(scores, dtype=np.float64), sides, c.audit.persons[known])
    effect = from_one_half(auc, c)
    most = limit(c, name, LIMIT)
    status = effect.against(most)
    direction = "easier" if auc.value > 0.5 else "harder"
    reason = f"AUC {auc.value:.3f} of models that were trained on neither side (at most {effect.high:.3f} from 0.5)"
    if status == "fail":
        reason += (
            f": members are {direction} than non-members for any model, so the sets differ in more than membership; "
            "draw both from one source by lot"
        )
    return Finding(name, status, takes, auc.value, reason)
