"""The table that the quick learners read: a few signals per record, each on a scale on which a line makes sense."""

from __future__ import annotations

import numpy as np

from privacy_gate.datamodel import Floats, Ints
from privacy_gate.learners import Material

SIGNALS = frozenset({"logit_confidence", "loss", "entropy", "modified_entropy", "top_margins"})
_SHRINK = 10.0  # records that the mean over all classes counts for in the centre of one


def signal_table(material: Material) -> Floats:
    """[R, 7] log odds, loss, entropy, minus log modified entropy, log odds of the three highest classes."""
    given = material.signals
    phi, modified = given["logit_confidence"], given["modified_entropy"]
    # Modified entropy underflows where phi exceeds 354; its logarithm is then -2 phi to within log 2.
    gone = modified < np.finfo(np.float64).tiny
    sharp = np.where(gone, 2 * phi, -np.log(np.where(gone, 1.0, modified)))
    return np.column_stack([phi, given["loss"], given["entropy"], sharp, given["top_margins"]])


def class_centre(material: Material, rows: Ints) -> Floats:
    """[R] mean log odds of the record's class over the records `rows`, membership unread, drawn towards that of all.

    A class counts for as many records as it has, all classes together for ten.
    """
    phi = material.signals["logit_confidence"]
    group = material.group[rows]
    count = np.bincount(group, minlength=material.groups + 1)
    total = np.bincount(group, weights=phi[rows], minlength=material.groups + 1)
    centre = (total + _SHRINK * phi[rows].mean()) / (count + _SHRINK)
    return np.asarray(centre[material.group])


def class_odds(material: Material, rows: Ints) -> Floats:
    """[groups + 1] log of how much more often the class is met among the members of `rows` than among the others.

    Half a record of either kind joins each class; 0 for a class that is not learned from. Learners start from it and
    leave it out of their scores: what the mix of classes tells of membership, no model told. It would even tell the
    wrong way round: where members and non-members have the same mix, a class that happens to have more members in one
    half of the persons has fewer in the other.
    """
    inside, outside = (
        np.bincount(material.group[side], minlength=material.groups)[: material.groups] + 0.5
        for side in (rows[material.member[rows]], rows[~material.member[rows]])
    )
    return np.append(np.log(inside / inside.sum()) - np.log(outside / outside.sum()), 0.0)
