"""Where does the confidence stand among non-members of its class?"""

from __future__ import annotations

import numpy as np

from privacy_gate.attacks import attack
from privacy_gate.datamodel import NONMEMBER, Bools, Floats, Ints, Observations, ThreatModel
from privacy_gate.errors import NotEvaluable

PRIOR = 50.0  # records of all classes that join those of the own class


@attack(
    id="population",
    family="quantile",
    paper="Ye et al., CCS 2022 (attack P)",
    requires={"logit_confidence"},
    threat_models=(ThreatModel.KNOWN_SUBSET,),
    reads_known=True,
)
def score(seen: Observations) -> Floats:
    """Share of revealed non-members of the class with less confidence, all classes counting where the class has few."""
    others = seen.known == NONMEMBER
    if len(np.unique(seen.persons[others])) < 2:
        raise NotEvaluable("population: fewer than two persons among the revealed non-members", "give more non-members")
    phi = seen.target["logit_confidence"]
    everyone, same = np.zeros(seen.n, dtype=np.int64), seen.persons
    below, count = _others(phi, seen.labels, same * seen.classes + seen.labels, others)
    below_all, count_all = _others(phi, everyone, same, others)
    return np.asarray((below + PRIOR * below_all / count_all) / (count + PRIOR))


def _others(phi: Floats, group: Ints, own: Ints, others: Bools) -> tuple[Floats, Floats]:
    # Nobody is compared with records of the same person: those who are known would stand among themselves.
    (below, count), (below_own, count_own) = _among(phi, group, others), _among(phi, own, others)
    return below - below_own, count - count_own


def _among(phi: Floats, group: Ints, others: Bools) -> tuple[Floats, Floats]:
    """[R] how many of `others` ([R]) in the record's group have less confidence, ties by half; how many there are."""
    order = np.lexsort((phi, group))
    values, groups = phi[order], group[order]
    total = np.concatenate([[0.0], np.cumsum(others[order])])  # of `others` before each place
    ends_group = groups[1:] != groups[:-1]
    groups_from, groups_to = _runs(ends_group)
    ties_from, ties_to = _runs(ends_group | (values[1:] != values[:-1]))
    below, count = np.empty(len(order)), np.empty(len(order))
    below[order] = (total[ties_from] + total[ties_to]) / 2 - total[groups_from]
    count[order] = total[groups_to] - total[groups_from]
    return below, count


def _runs(ends: Bools) -> tuple[Ints, Ints]:
    """[n] where the run of each place begins and ends, from whether each place but the last ends one ([n - 1])."""
    cuts = np.concatenate([[0], np.flatnonzero(ends) + 1, [len(ends) + 1]])
    lengths = np.diff(cuts)
    return np.repeat(cuts[:-1], lengths), np.repeat(cuts[1:], lengths)
