"""The privacy risk score as its authors' code computes it: five logarithmic bins of the modified entropy per class.

Shown for comparison with published figures, never judged: its bins drop extremes, its scores can be exactly 0 and 1,
and with shadows smaller than the target it is overconfident. Verdicts use `calibrated`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import MEMBER, NONMEMBER, Bools, Floats, Ints
from privacy_gate.errors import NotEvaluable
from privacy_gate.risk import RiskInput, estimator

AXIS = "modified_entropy_1e30"
BINS = 5
LOWEST = 1e-10


@estimator(id="song2021", paper="Song & Mittal, USENIX Security 2021, section 4, released code", needs_pool=True)
def estimate(given: RiskInput) -> Floats:
    """[R] P(member | class, modified entropy) of shadow records at the target's values, in [0, 1]."""
    pool = given.pool
    if pool is None:
        raise NotEvaluable("song2021: no shadow records", "train shadow models, or give shadow predictions")
    if AXIS not in pool.target or AXIS not in given.target.target:
        raise NotEvaluable(f"song2021: the signal {AXIS} was not collected", "collect it from the models' outputs")
    used = (pool.known == MEMBER) | (pool.known == NONMEMBER)
    return scores(
        pool.target[AXIS][used],
        pool.known[used] == MEMBER,
        pool.labels[used],
        given.target.target[AXIS],
        given.target.labels,
    )


def scores(shadow: Floats, member: Bools, shadow_labels: Ints, target: Floats, labels: Ints) -> Floats:
    """[R] r = h1 / (h1 + h0) for target [R] from shadow [P]; 0.5 for a class without shadow records on both sides."""
    shadow_axis, axis = _axis(shadow, target)
    out = np.full(len(target), 0.5)
    for c in np.unique(labels):
        inside, here = shadow_labels == c, labels == c
        members, nonmembers = shadow_axis[inside & member], shadow_axis[inside & ~member]
        if len(members) and len(nonmembers):
            out[here] = _class_scores(members, nonmembers, axis[here])
    return out


def _axis(shadow: Floats, target: Floats) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    # The code computes in the dtype of the model's output, and which extremes fall out of the outer bins is a matter
    # of the last bit: values that came as float32 go back to float32 here, or the published counts would not follow.
    dtype = np.float32 if np.array_equal(shadow.astype(np.float32), shadow) else np.float64
    lowest = dtype(LOWEST)
    return np.maximum(shadow.astype(dtype), lowest), np.maximum(target.astype(dtype), lowest)


def _class_scores(
    members: NDArray[np.floating[Any]], nonmembers: NDArray[np.floating[Any]], values: NDArray[np.floating[Any]]
) -> Floats:
    both = np.concatenate([members, nonmembers])
    edges = np.logspace(np.log10(both.min()), np.log10(both.max()), BINS + 1)
    # 10 ** log10(x) misses x by a bit now and then; the record on the edge is then counted nowhere. Kept: compatible.
    h1 = np.histogram(members, edges)[0] / len(members)
    h0 = np.histogram(nonmembers, edges)[0] / len(nonmembers)
    per_bin = np.array([_ratio(h1, h0, b) for b in range(BINS)])
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, BINS - 1)
    return np.asarray(per_bin[places])


def _ratio(h1: Floats, h0: Floats, place: int) -> float:
    """The score of one bin; an empty one takes the nearest that is not, the lower one first."""
    for step in range(BINS):
        for near in (place - step, place + step):
            if 0 <= near < BINS and h1[near] + h0[near] > 0:
                return float(h1[near] / (h1[near] + h0[near]))
    return 0.5


def at_prior(scores: Floats, prior: float) -> Floats:
    """[R] the scores when a share `prior` of all records are members: odds times prior / (1 - prior) (eq. 12)."""
    return np.asarray(prior * scores / (prior * scores + (1 - prior) * (1 - scores)))
