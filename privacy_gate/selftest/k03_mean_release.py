"""K-3: a mean that was published."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy.stats import norm

from privacy_gate.selftest import Promise, answer_key, halves, measured, near, result, world


@world(id="K-03", quick=60)
def mean_release(seed: int, replicates: int) -> Iterator[Promise]:
    """K-3: the "model" is the mean of the records, with or without noise; its inner product tells members."""
    # AUC = Phi(snr / sqrt 2) with snr = sqrt(d) (1/n) / sqrt(1/n + s^2) is an approximation, good to 0.015.
    for n, d, noise in ((100, 100, 0.0), (100, 1000, 0.1)):
        truth = norm.cdf(math.sqrt(d) / n / math.sqrt(1 / n + noise**2) / math.sqrt(2))
        values = []
        for r in range(replicates):
            rng = np.random.default_rng([seed, 5, d, r])
            records = rng.normal(size=(2 * n, d))
            released = records[:n].mean(axis=0) + noise * rng.normal(size=d)
            audit = answer_key(halves(n))
            auc = result(measured({"simulated": records @ released}, audit, r)).auc
            assert auc is not None
            values.append(auc.value)
        name = f"K-3: mean of {n} records of {d} dimensions, noise {noise:g}"
        yield near(f"K-3.{d}", name, f"AUC is about {truth:.3f}", values, truth, 0.015)
