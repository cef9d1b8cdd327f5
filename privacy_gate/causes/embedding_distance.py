"""Do members and non-members of a class lie apart in the space of the model's answers?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from privacy_gate.causes import CauseInput, cause
from privacy_gate.causes.association import generator, one_each
from privacy_gate.datamodel import Audit, Bools, Cause, CauseRow, Floats
from privacy_gate.metrics import holm

FEWEST = 10  # persons on a side of a class
MOST = 150  # persons on a side that are compared: the cost grows with the square
MOST_CLASSES = 60  # the largest are looked at
PERMUTATIONS = 999
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Distance:
    """Energy distance of two samples, and the chance of one as large if they were one sample."""

    statistic: float
    p_value: float


@cause(id="embedding_distance", paper="energy distance: Szekely & Rizzo 2013, with permutations; Song & Mittal 2021")
def embedding_distance(given: CauseInput) -> Cause | None:
    """Per class, energy distance between members and non-members, with a p-value; Holm over classes."""
    audit, rng = given.audit, generator(given.seed, 6)
    found = []
    sizes = np.bincount(audit.labels, minlength=len(audit.classes))
    for label in np.sort(np.argsort(-sizes, kind="stable")[:MOST_CLASSES]):
        inside, outside = _rows(audit, int(label), rng)
        if min(len(inside), len(outside)) < FEWEST:
            continue
        points = given.embedding[np.concatenate([inside, outside])]
        first = np.arange(len(points)) < len(inside)
        found.append((int(label), len(inside), energy_distance(points, first, rng)))
    if not found:
        return None
    apart = holm([distance.p_value for *_, distance in found], LEVEL)
    rows = []
    for (label, members, distance), is_apart in zip(found, apart, strict=True):
        numbers = {"distance": distance.statistic, "p_value": distance.p_value, "apart": float(is_apart)}
        rows.append(CauseRow(audit.classes[label], members, numbers))
    smallest = min(distance.p_value for *_, distance in found)
    corrected = min(1.0, smallest * len(found))
    reason = (
        f"In {sum(apart)} of {len(found)} classes members and non-members lie apart in the model's answers "
        f"(energy distance, {PERMUTATIONS} permutations, Holm over classes; smallest corrected p = {corrected:.2g})."
    )
    title = "Distance of members and non-members in the model's answers"
    return Cause("embedding_distance", title, sum(apart) / len(found), corrected, reason, tuple(rows))


def _rows(audit: Audit, label: int, rng: np.random.Generator) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Of a class, at most MOST member rows and non-member rows, one per person."""
    sides = []
    for side in (audit.member, ~audit.member):
        rows = one_each(side & (audit.labels == label), audit.persons, rng)
        sides.append(np.sort(rng.choice(rows, MOST, replace=False)) if len(rows) > MOST else rows)
    return sides


def energy_distance(points: Floats, first: Bools, rng: np.random.Generator) -> Distance:
    """2 E|x - y| - E|x - x'| - E|y - y'| of points [n, d], `first` [n] marking the x; p by permutation.

    Coordinates are divided by their standard deviation over both samples, so that no class's unit counts more.
    """
    spread = points.std(axis=0)
    scaled = points[:, spread > 0] / spread[spread > 0]
    squares = (scaled**2).sum(axis=1)
    between = np.sqrt(np.maximum(squares[:, None] + squares - 2 * scaled @ scaled.T, 0.0))
    np.fill_diagonal(between, 0.0)
    marks = np.empty((PERMUTATIONS + 1, len(points)))
    marks[0] = first
    for k in range(1, len(marks)):
        marks[k] = rng.permutation(marks[0])
    m = float(first.sum())
    n = len(points) - m
    own = ((marks @ between) * marks).sum(axis=1)  # over pairs of x
    total, rows = between.sum(), between.sum(axis=1)
    cross = marks @ rows - own
    other = total - own - 2 * cross
    statistics = 2 * cross / (m * n) - own / m**2 - other / n**2
    extreme = int((statistics[1:] >= statistics[0] - 1e-12).sum())
    return Distance(float(statistics[0]), (1 + extreme) / (1 + PERMUTATIONS))
