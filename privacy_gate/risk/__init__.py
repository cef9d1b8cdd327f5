"""Per-record privacy risk: the probability, at prior one half, that a record was a member. One estimator per file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import Audit, Bools, Floats, Observations


@dataclass(frozen=True, slots=True, eq=False)
class RiskInput:
    """What an estimator may read.

    target   observations of the target on R records
    pool     the shadows in the target's place, records concatenated, membership in `known`; None without shadows
    scores   attack id -> [R] of the attacks that ran
    audit    the answer key: only for cross-fitting by person, never fitted and scored on the same persons
    seed     of the run
    rescore  attack id -> the same attack's scores [R] from some of the references ([S] mask of those to use); raises
             NotEvaluable where too few are left; for intervals over shadows
    """

    target: Observations
    pool: Observations | None
    scores: Mapping[str, Floats]
    audit: Audit
    seed: int
    rescore: Mapping[str, Callable[[Bools], Floats]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Estimated:
    """What an estimator found.

    scores    [R]
    interval  [R] each, low and high ends of 90 % intervals; None where the estimator gives none
    notes     how the scores came about, one sentence each, for people
    rankings  [R] each, higher = riskier: whom the scores may have missed is looked for at the top of these
    """

    scores: Floats
    interval: tuple[Floats, Floats] | None = None
    notes: tuple[str, ...] = ()
    rankings: tuple[Floats, ...] = ()


Estimate = Callable[[RiskInput], Floats]
Assess = Callable[[RiskInput], Estimated]


@dataclass(frozen=True, slots=True)
class Estimator:
    """A named risk estimator: `estimate` gives the scores alone, `assess` all there is to say."""

    id: str
    paper: str
    estimate: Estimate
    needs_pool: bool
    assess: Assess


CATALOG: Catalog[Estimator] = Catalog("risk estimator", __name__)


def estimator(*, id: str, paper: str, needs_pool: bool, assess: Assess | None = None) -> Callable[[Estimate], Estimate]:
    """Enter an estimator into the catalog; without `assess` it gives scores alone."""

    def register(estimate: Estimate) -> Estimate:
        CATALOG.add(
            id, Estimator(id, paper, estimate, needs_pool, assess or (lambda given: Estimated(estimate(given))))
        )
        return estimate

    return register
