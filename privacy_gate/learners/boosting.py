"""Gradient boosting on signals: finds thresholds and their combinations where a line cannot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from privacy_gate.datamodel import Floats, Ints
from privacy_gate.learners import Material
from privacy_gate.learners.tables import class_centre

ROUNDS = 50
LEAVES = 8


def boosting(material: Material, x: Floats, learn: Sequence[Ints], ask: Sequence[Ints]) -> list[Floats]:
    """Per fold, the scores of the rows to ask: log odds by boosted trees on the inputs [R, d] and the class effect.

    The class enters as the centre of its log odds and as the distance to it: a tree that is told a class by its
    number would have to learn each class on its own. Log odds are at prior one half. One thread, no draw.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    found = []
    # Once more than for all learners: the library whose threads it starts may have been loaded just now.
    with threadpool_limits(limits=1):
        for rows, asked in zip(learn, ask, strict=True):
            centre = class_centre(material, rows)
            inputs = np.column_stack([x, centre, material.signals["logit_confidence"] - centre])
            trees = HistGradientBoostingClassifier(
                max_iter=ROUNDS, max_leaf_nodes=LEAVES, l2_regularization=1.0, early_stopping=False
            )
            y = material.member[rows]
            trees.fit(inputs[rows], y)
            # Weights would slow down the fit tenfold; taking the odds of the sides away makes the prior one half, too.
            prior = np.log(y.sum() / (~y).sum())
            found.append(np.asarray(trees.decision_function(inputs[asked]) - prior, dtype=np.float64))
    return found
