"""The contract of an attack, and the catalog of all attacks. One attack per file; the folder is the list.

An attack is a pure function `Observations -> float64[R]`, higher = more likely a member, and nothing else.
Thresholds, ROC, intervals, risk, policy and report are written once, elsewhere, and apply to all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import Floats, Observations, ThreatModel

Score = Callable[[Observations], Floats]


@dataclass(frozen=True, slots=True)
class Attack:
    """What an attack is, needs and costs.

    id               the paper's name
    family           attacks of one family share their idea: correctness, metric, reference, neural, label-only, ...
    paper            where it comes from, with the equation
    requires         names of the signals that `score` reads
    min_in, min_out  shadows that must (not) have trained on each record; 0, 0: no shadows needed
    reads_known      whether the score depends on `Observations.known`: it learns from the records whose membership is
                     revealed, and scores those by models that did not learn from them. Computed once per revealed fold
    repeats          how many times the target's records are split anew for a known-subset threshold, at most 5
    thresholded      False: a positive score is the decision itself, there is no ROC (correctness)
    threat_models    under which the attack is decided
    cost             what it costs beside one scoring of the target
    score            the attack
    """

    id: str
    family: str
    paper: str
    requires: frozenset[str]
    threat_models: tuple[ThreatModel, ...]
    cost: str
    score: Score
    min_in: int = 0
    min_out: int = 0
    reads_known: bool = False
    thresholded: bool = True
    repeats: int = 5

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (self.score.__doc__ or "").strip().splitlines()[0]


CATALOG: Catalog[Attack] = Catalog("attack", __name__)


def attack(
    *,
    id: str,
    family: str,
    paper: str,
    requires: set[str],
    threat_models: tuple[ThreatModel, ...] = (ThreatModel.SHADOW, ThreatModel.KNOWN_SUBSET),
    cost: str = "none",
    min_in: int = 0,
    min_out: int = 0,
    reads_known: bool = False,
    thresholded: bool = True,
    repeats: int = 5,
) -> Callable[[Score], Score]:
    """Enter a score function into the catalog."""

    def register(score: Score) -> Score:
        CATALOG.add(
            id,
            Attack(
                id=id,
                family=family,
                paper=paper,
                requires=frozenset(requires),
                threat_models=threat_models,
                cost=cost,
                score=score,
                min_in=min_in,
                min_out=min_out,
                reads_known=reads_known,
                thresholded=thresholded,
                repeats=repeats,
            ),
        )
        return score

    return register
