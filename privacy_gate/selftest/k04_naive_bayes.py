"""K-4: a Gaussian naive Bayes classifier, whose best attack has a closed form."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import norm

from privacy_gate import metrics
from privacy_gate.risk import CATALOG as ESTIMATORS
from privacy_gate.risk import RiskInput
from privacy_gate.selftest import (
    ALPHA,
    Promise,
    answer_key,
    halves,
    measured,
    near,
    observations,
    rarely,
    result,
    world,
)

_RECORDS, _FEATURES = 500, 1500
_CUT = 0.8  # risk score from which a record counts as flagged
_OFF = 0.03  # how far the share of members among the flagged may be from their mean score


@world(id="K-04", quick=12)
def naive_bayes(seed: int, replicates: int) -> Iterator[Promise]:
    """K-4: the released means of a naive Bayes model; the likelihood ratio of a record is linear in it."""
    n, d = _RECORDS, _FEATURES
    aucs, expected, too_high, too_low, excess, flagged = [], [], [], [], [], []
    for r in range(replicates):
        rng = np.random.default_rng([seed, 20, r])
        # One class with true means 0 and variance 1: classes are independent of each other and add nothing.
        records = rng.normal(size=(2 * n, d))
        released = records[:n].mean(axis=0)
        # Leino & Fredrikson: w = (released - true) / variance, b = (true^2 - released^2) / (2 variance).
        scores = records @ released - released @ released / 2
        strength = float(np.linalg.norm(released))
        audit = answer_key(halves(n))
        found = result(measured({"simulated": scores}, audit, r)).auc
        assert found is not None
        aucs.append(found.value)
        # Others: N(-s^2/2, s^2). Members: N(s^2/2, s^2 (1 - 1/n)), the released mean being the mean of their own.
        expected.append(float(norm.cdf(strength / np.sqrt(2 - 1 / n))))
        cut = np.log(0.7 / 0.3)
        tpr = float(norm.sf((cut - strength**2 / 2) / (strength * np.sqrt(1 - 1 / n))))
        fpr = float(norm.sf((cut + strength**2 / 2) / strength))
        truth = tpr / (tpr + fpr)
        hits = [int((scores[side] >= cut).sum()) for side in (audit.member, ~audit.member)]
        precision = metrics.precision(hits[0], n, hits[1], n)
        too_high.append(precision.lower(ALPHA) > truth)
        too_low.append(precision.upper(ALPHA) < truth)
        given = RiskInput(observations({}, audit), None, {"lira": scores}, audit, r)
        risk = ESTIMATORS["calibrated"].estimate(given)
        high = risk >= _CUT
        excess.append(float((risk - audit.member)[high].sum()))
        flagged.append(int(high.sum()))
    name = f"K-4: naive Bayes means of {n} records of {d} features"
    differences = [a - e for a, e in zip(aucs, expected, strict=True)]
    yield near("K-4.auc", name, f"AUC is its closed form (mean {np.mean(expected):.3f})", differences, 0.0, 0.002)
    yield rarely("K-4.precision.lower", name, "the lower bound of the precision is wrong", too_high, ALPHA)
    yield rarely("K-4.precision.upper", name, "the upper bound of the precision is wrong", too_low, ALPHA)
    said = f"of records scored {_CUT:g} or more, as many are members as their scores say"
    yield near("K-4.calibrated", name, said, [e / float(np.mean(flagged)) for e in excess], 0.0, _OFF)
