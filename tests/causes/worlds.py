"""What a cause may read, from the shared worlds."""

from dataclasses import replace

import numpy as np

from privacy_gate.causes import CauseInput
from privacy_gate.measure import View
from privacy_gate.risk.summary import summarise
from tests.worlds import gaussian_models, observe


def looked_at(seed=0, n=300, classes=4, leak=1.5, shadows=16, scores=None, each=1):
    """A leaky world with references; risk scores given, or read off the true confidence."""
    models = gaussian_models(n, n, classes, leak, shadows, seed, records_per_person=each)
    seen, audit = observe(models, each > 1)
    if scores is None:
        scores = 1 / (1 + np.exp(-(seen.target["logit_confidence"] - np.median(seen.target["logit_confidence"]))))
    return CauseInput(
        audit=audit,
        view=View(seen, None),
        attacks=(),
        risk=summarise("calibrated", scores, audit),
        embedding=models.target,
        target_correct=models.target.argmax(axis=1) == models.labels,
        shadow_correct=models.shadows.argmax(axis=2) == models.labels if shadows else None,
        score=0.8,
        seed=seed,
    )


def with_risk(given: CauseInput, scores) -> CauseInput:
    return replace(given, risk=summarise("calibrated", scores, given.audit))
