"""Members and non-members with different mixes of classes differ in more than membership."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2, ncx2

from privacy_gate.datamodel import Finding, Invalidates
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import Effect, corrected_alpha, limit

LIMIT = 0.1


def noncentrality(statistic: float, freedom: int, tail: float) -> float:
    """The noncentrality at which a chi-square statistic lies at the upper quantile `tail`; 0 if none is that small."""
    if chi2.sf(statistic, freedom) >= tail:
        return 0.0
    # sf grows with the noncentrality; the statistic's own mean is a scale from which to look further out.
    high = max(statistic, 1.0)
    while ncx2.sf(statistic, freedom, high) < tail:
        high *= 2
    return float(brentq(lambda nc: ncx2.sf(statistic, freedom, nc) - tail if nc > 0 else -tail, 0.0, high))


@check(id="class_marginals", title="classes are mixed alike", invalidates=Invalidates.BOTH)
def class_marginals(c: Circumstances) -> Finding:
    """Cramér's V of class and membership, bounded through the noncentral chi-square distribution."""
    name, takes = "class_marginals", Invalidates.BOTH
    table = np.zeros((2, len(c.audit.classes)))
    np.add.at(table, (c.audit.member.astype(np.int64), c.audit.labels), 1.0)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or (table.sum(axis=1) == 0).any():
        return Finding(name, "not_applicable", takes, None, "fewer than two classes or only one set")
    # Records of one person may share their label: count as many records as there are independent ones.
    sizes = np.bincount(c.audit.persons)
    records = len(c.audit.labels)
    independent = records * records / float(np.square(sizes).sum())
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / records
    statistic = float((np.square(table - expected) / expected).sum()) * independent / records
    freedom = table.shape[1] - 1

    def cramers_v(noncentral: float) -> float:
        return float(np.sqrt(noncentral / independent))

    # Without any difference the statistic is `freedom` on average: that much of V is chance (Bergsma 2013).
    effect = Effect(
        cramers_v(max(statistic - freedom, 0.0)),
        cramers_v(noncentrality(statistic, freedom, corrected_alpha(c))),
        cramers_v(noncentrality(statistic, freedom, 1 - c.alpha)),
    )
    most = limit(c, name, LIMIT)
    status = effect.against(most)
    reason = f"Cramér's V {effect.value:.3f} between class and membership (at most {effect.high:.3f})"
    if status == "fail":
        reason += f"; proven to be above {most:g}: an attacker can guess membership from the class alone; "
        reason += "draw the non-members so that the classes agree"
    return Finding(name, status, takes, effect.value, reason)
