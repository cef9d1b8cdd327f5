"""How much a model's answer for a record changes when it was trained on it: measured on shadows with and without."""

from __future__ import annotations

import numpy as np

from privacy_gate.causes import CauseInput, cause
from privacy_gate.causes.association import association, generator, one_each
from privacy_gate.datamodel import Bools, Cause, Floats, Observations

TINY = np.finfo(np.float64).tiny
SURE = 0.05
LARGE = 1.0  # one unit of log modified entropy: a factor of e


@cause(id="influence", paper="after Song & Mittal 2021, section 4.2.4; Feldman & Zhang, NeurIPS 2020")
def influence(given: CauseInput) -> Cause | None:
    """Rank correlation, over members, of the records' influence on their own answers with their risk."""
    moved = influences(given.view.seen)
    if moved is None or given.risk is None:
        return None
    rng = generator(given.seed, 2)
    rows = one_each(given.audit.member & np.isfinite(moved), given.audit.persons, rng)
    found = association(moved[rows], given.risk.scores[rows], rng)
    if found is None:
        return None
    mean = float(moved[rows].mean())
    share = float((moved[rows] >= LARGE).mean())
    verdict = (
        f"records with more influence are at {'higher' if found.spearman > 0 else 'lower'} risk"
        if found.p_value <= SURE
        else "no connection between influence and risk is shown"
    )
    reason = (
        f"Training on a record lowers its log modified entropy by {mean:.2f} on average, for {100 * share:.0f} % of "
        f"members by {LARGE:g} or more; {verdict} "
        f"(Spearman {found.spearman:.2f} over {len(rows)} members, p = {found.p_value:.2g})."
    )
    return Cause("influence", "Influence of records on their own answers", found.spearman, found.p_value, reason)


def influences(seen: Observations) -> Floats | None:
    """[R] mean log modified entropy of shadows without the record minus that of shadows with it; nan: one side only.

    The half of all models that were trained without a record stands in for retraining without it. None without
    references, or where they give no signal.
    """
    member = seen.reference_member
    if member is None:
        return None
    values = seen.references.get("modified_entropy")
    if values is not None:
        axis = np.log(np.maximum(values, TINY))
    elif "logit_confidence" in seen.references:
        axis = of_two_classes(seen.references["logit_confidence"])
    else:
        return None
    return np.asarray(_mean(axis, ~member) - _mean(axis, member))


def of_two_classes(phi: Floats) -> Floats:
    """Log modified entropy as a function of the logit confidence: exact for two classes, near it for confident answers.

    log(2 (1 - p) (-log p)) with 1 - p = e^-softplus(phi), -log p = softplus(-phi), which is e^-phi from phi = 30 on.
    """
    own = np.where(phi > 30.0, -phi, np.log(np.logaddexp(0.0, -np.minimum(phi, 30.0))))
    return np.asarray(np.log(2.0) - np.logaddexp(0.0, phi) + own)


def _mean(values: Floats, where: Bools) -> Floats:
    times = where.sum(axis=0)
    total = np.where(where, values, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, times, out=np.full(len(times), np.nan), where=times > 0))
