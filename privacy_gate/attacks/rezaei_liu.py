"""The shape of the gradient, learned apart for records that the model gets right and records that it gets wrong."""

from collections.abc import Sequence

import numpy as np

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Ints, Observations, ThreatModel
from privacy_gate.learners import FEWEST, Material, cross_fitted
from privacy_gate.learners.logistic import logistic

SIGNALS = {"gradient_features", "correctness"}


@attack(
    id="rezaei_liu",
    family="white-box",
    paper="Rezaei & Liu, CVPR 2021 (gradient norms)",
    requires=SIGNALS,
    threat_models=(ThreatModel.KNOWN_SUBSET,),
    cost="one backward pass per record",
    reads_known=True,
)
def score(seen: Observations) -> Floats:
    """Log odds of membership by two logistic regressions on gradient features: right answers, wrong answers.

    In each, members and non-members weigh the same, so that the share of right answers tells nothing. Where the known
    records of one kind hold fewer than 10 members or non-members, one line for both kinds serves it.
    """
    return cross_fitted(seen, SIGNALS, _learn)


def _learn(material: Material, learn: Sequence[Ints], ask: Sequence[Ints]) -> list[Floats]:
    return [_fold(material, rows, asked) for rows, asked in zip(learn, ask, strict=True)]


def _fold(material: Material, rows: Ints, asked: Ints) -> Floats:
    table, right = material.signals["gradient_features"], material.signals["correctness"] > 0
    scores = np.empty(len(asked))
    for kind in (True, False):
        here = right[asked] == kind
        own = rows[right[rows] == kind]
        members = int(material.member[own].sum())
        enough = min(members, len(own) - members) >= FEWEST
        (scores[here],) = logistic(material, table, [own if enough else rows], [asked[here]])
    return scores
