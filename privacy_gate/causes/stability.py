"""Would other shadows have named the same members? Two halves of the references, each by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.causes import CauseInput, cause
from privacy_gate.causes.association import generator, one_each
from privacy_gate.datamodel import Bools, Cause, Floats, Observations
from privacy_gate.errors import NotEvaluable
from privacy_gate.metrics import midranks

SPLITS = 5
FEWEST = 30  # members that both halves can judge
ATTACK = "lira"
SMALLEST_CELL = 10  # people: of fewer, a shared report says nothing


@cause(id="stability", paper="Hayes et al. 2025, on per-record decisions; Carlini et al., S&P 2022, on references")
def stability(given: CauseInput) -> Cause | None:
    """Overlap of the members flagged by two disjoint halves of the references, as many as are at high risk."""
    seen, audit = given.view.seen, given.audit
    if given.risk is None or seen.shadows < 4 or ATTACK not in ATTACKS:
        return None
    rng = generator(given.seed, 5)
    rows = one_each(audit.member, audit.persons, rng)
    high = given.risk.scores >= given.score
    flagged = int(high[rows].sum())
    overlaps, correlations, chances = [], [], []
    for _ in range(SPLITS):
        half = np.zeros(seen.shadows, dtype=np.bool_)
        half[rng.permutation(seen.shadows)[: seen.shadows // 2]] = True
        # A half can judge only the records that it has often enough with and without.
        able = _judged_by(seen, half) & _judged_by(seen, ~half)
        places = np.flatnonzero(able[rows])
        if len(places) < FEWEST:
            continue
        part = seen.take(np.flatnonzero(able), audit.persons[able])
        where = (np.cumsum(able) - 1)[rows[places]]
        rescore = from_some_references(ATTACK, part)
        first, second = rescore(half)[where], rescore(~half)[where]
        correlations.append(float(np.corrcoef(midranks(first), midranks(second))[0, 1]))
        k = int(high[rows[places]].sum())
        if k >= SMALLEST_CELL:
            overlaps.append(jaccard(top(first, k, rng), top(second, k, rng)))
            chances.append(k / (2 * len(places) - k))
    if not correlations or not np.isfinite(correlations).all():
        return None
    correlation = float(np.mean(correlations))
    title = "Stability of the flagged list"
    said = f"Two disjoint halves of {seen.shadows} references rank the members alike to {correlation:.2f} (Spearman)"
    if not overlaps:
        reason = f"{said}; fewer than {SMALLEST_CELL} members are at high risk, so no lists are compared."
        return Cause("stability", title, None, None, reason)
    overlap = float(np.mean(overlaps))
    chance = float(np.mean(chances))
    reason = (
        f"{said}; with {flagged} members at high risk, of as many ranked highest by either half "
        f"{100 * overlap:.0f} % are on both lists (overlap over union; {100 * chance:.0f} % by chance)."
    )
    return Cause("stability", title, overlap, None, reason)


def _judged_by(seen: Observations, keep: Bools) -> Bools:
    """[R] whether the references `keep` [S] have each record at least twice with and twice without."""
    if seen.reference_member is None:
        return np.zeros(seen.n, dtype=np.bool_)
    inside = seen.reference_member[keep].sum(axis=0)
    return np.asarray((inside >= 2) & (keep.sum() - inside >= 2))


def from_some_references(attack: str, seen: Observations) -> Callable[[Bools], Floats]:
    """The attack's scores [R] as a function of the references to use ([S] mask); NotEvaluable where they are few."""

    def rescore(keep: Bools) -> Floats:
        if seen.reference_member is None:
            raise NotEvaluable(f"{attack}: no reference models", "train shadow models, or give reference_signals")
        references = {name: values[keep] for name, values in seen.references.items()}
        return ATTACKS[attack].score(replace(seen, references=references, reference_member=seen.reference_member[keep]))

    return rescore


def top(scores: Floats, k: int, rng: np.random.Generator) -> Bools:
    """[n] the k highest of scores [n]; ties at random, so that equal scores do not agree by their order."""
    chosen = np.zeros(len(scores), dtype=np.bool_)
    chosen[np.lexsort((rng.random(len(scores)), -scores))[:k]] = True
    return chosen


def jaccard(first: Bools, second: Bools) -> float:
    """Size of the overlap over size of the union; 1 for two empty lists."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0
