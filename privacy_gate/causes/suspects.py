"""Records that look mislabelled or unusual to models that were not trained on them."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit

from privacy_gate.causes import CauseInput
from privacy_gate.causes.association import Comparison, wilson
from privacy_gate.datamodel import Bools, Cause, CauseRow, Floats, Observations

FEWEST_OUT = 2  # models without the record
SURE_OF_ANOTHER = 0.1  # P(label) at most: the models are confident of other classes
ALIKE = 0.8  # share of the models without the record that must say so
RARE = 0.05  # share of the non-members with the lowest confidence or highest entropy: what counts as unusual
SURE = 0.05
SMALLEST_CELL = 10  # people: of fewer, a shared report says nothing


def label_noise_suspects(seen: Observations) -> Bools | None:
    """[R] whether models without the record agree that it is of another class; None without references.

    At least ALIKE of them give its label a probability of at most SURE_OF_ANOTHER, and their answers are not merely
    undecided: where the entropy is known, it is below that of two equally likely classes.
    """
    phi, out = _out(seen)
    if phi is None or out is None:
        return None
    against = np.less_equal(phi, np.log(SURE_OF_ANOTHER / (1 - SURE_OF_ANOTHER)))
    if "entropy" in seen.references:
        against = against & np.asarray(seen.references["entropy"] < np.log(2.0))
    times = out.sum(axis=0)
    share: Floats = (out & against).sum(axis=0) / np.maximum(times, 1)
    return np.asarray((share >= ALIKE) & (times >= FEWEST_OUT))


def outlier_suspects(seen: Observations, nonmember: Bools) -> Bools | None:
    """[R] whether models without the record are less confident of it, or more undecided, than of 95 % of non-members.

    The bar is set by non-members [R], not by the members that are judged. None without references.
    """
    phi, out = _out(seen)
    if phi is None or out is None:
        return None
    measures = [-mean_out(expit(phi), out)]
    if "entropy" in seen.references:
        measures.append(mean_out(seen.references["entropy"], out))
    suspect: Bools = np.zeros(out.shape[1], dtype=np.bool_)
    for values in measures:
        bar = values[nonmember & np.isfinite(values)]
        if len(bar):
            suspect = suspect | np.greater(values, np.quantile(bar, 1 - RARE))
    return np.asarray(suspect & (out.sum(axis=0) >= FEWEST_OUT))


def _out(seen: Observations) -> tuple[Floats | None, Bools | None]:
    member = seen.reference_member
    return seen.references.get("logit_confidence"), None if member is None else ~member


def mean_out(values: Floats, out: Bools) -> Floats:
    """[R] mean of values [S, R] over the models without the record; nan where there is none."""
    times = out.sum(axis=0)
    total = np.where(out, values, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, times, out=np.full(len(times), np.nan), where=times > 0))


def told(id: str, title: str, kind: str, found: Comparison) -> Cause:
    """A comparison in words and in two rows; shares that stand for one to nine people are not told."""
    rows, shares, hidden = [], [], False
    groups = (("high-risk members", found.high_hits, found.high), ("all members", found.all_hits, found.all))
    for name, hits, n in groups:
        if n < SMALLEST_CELL or 0 < hits < SMALLEST_CELL or 0 < n - hits < SMALLEST_CELL:
            hidden = True
            rows.append(CauseRow(name, n, {"share": math.nan, "low": math.nan, "high": math.nan}))
            shares.append(f"a share of {name} that is not told, because it is about fewer than {SMALLEST_CELL} people")
        else:
            low, high = wilson(hits, n)
            rows.append(CauseRow(name, n, {"share": hits / n, "low": low, "high": high}))
            shares.append(f"{100 * hits / n:.1f} % of {name} ({100 * low:.1f} to {100 * high:.1f} %)")
    ratio = None
    if found.all_hits and not hidden:
        ratio = (found.high_hits / found.high) / (found.all_hits / found.all)
    verdict = "more often at high risk than others" if found.p_value <= SURE else "not shown to be at higher risk"
    reason = f"{kind}: {shares[0]} against {shares[1]}; such records are {verdict} (p = {found.p_value:.2g})."
    return Cause(id, title, ratio, found.p_value, reason, tuple(rows))


def high_risk(given: CauseInput) -> Bools | None:
    """[R] whether the record's risk reaches the score from which it counts as high; None without scores."""
    return None if given.risk is None else np.asarray(given.risk.scores >= given.score)
