"""Per-record privacy risk: the probability, at prior one half, that a record was a member. One estimator per file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import Audit, Floats, Observations


@dataclass(frozen=True, slots=True, eq=False)
class RiskInput:
    """What an estimator may read.

    target   observations of the target on R records
    pool     the shadows in the target's place, records concatenated, membership in `known`; None without shadows
    scores   attack id -> [R] of the attacks that ran
    audit    the answer key: only for cross-fitting by person, never fitted and scored on the same persons
    seed     of the run
    """

    target: Observations
    pool: Observations | None
    scores: Mapping[str, Floats]
    audit: Audit
    seed: int


Estimate = Callable[[RiskInput], Floats]


@dataclass(frozen=True, slots=True)
class Estimator:
    """A named risk estimator."""

    id: str
    paper: str
    estimate: Estimate
    needs_pool: bool


CATALOG: Catalog[Estimator] = Catalog("risk estimator", __name__)


def estimator(*, id: str, paper: str, needs_pool: bool) -> Callable[[Estimate], Estimate]:
    """Enter an estimator into the catalog."""

    def register(estimate: Estimate) -> Estimate:
        CATALOG.add(id, Estimator(id, paper, estimate, needs_pool))
        return estimate

    return register
