"""Worlds whose leakage is known exactly, judged by the gate's own code: does it keep its promises? One world per file.

Each world draws replicates and sends them through `measure` or `evaluate` and then `judge`, as `pipeline` does; the
rates of error are compared with those that the gate promises. A world is a function of seed and replicates alone, so
the results do not depend on how many processes share the work.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

from privacy_gate.attacks import Attack
from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import (
    WITHHELD,
    AttackOutcome,
    AttackResult,
    Audit,
    Bools,
    Evidence,
    Floats,
    Observations,
    RuleStatus,
    Scope,
    ThreatModel,
    Verdict,
)
from privacy_gate.measure import View, measure
from privacy_gate.policy import CATALOG as RULES
from privacy_gate.policy import Policy, RuleInForce, judge

ALPHA = 0.05  # what the gate promises, for either error
APPROXIMATION = 0.003  # MOVER-Wilson, continuity-corrected, enumerated at nominal 0.05: at most 0.053 with 50 a side
SURE = 1e-3  # chance that a promise which is kept looks broken, per promise
POWER = 0.95  # what is demanded where the truth is far from the limit
FEW = 40  # replicates where the outcome is nearly certain
FEWEST = 10  # below this a rate says nothing
NIGHTLY = 400

Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise and what was found.

    id         of the promise, stable
    world      the simulated world, in words
    promise    what is promised
    measured   rate or mean over the replicates
    nominal    what it should be: at most, at least, or just this
    low, high  where `measured` must lie: the nominal value, widened by what chance does in so many replicates
    """

    id: str
    world: str
    promise: str
    measured: float
    nominal: float
    low: float
    high: float
    replicates: int

    @property
    def held(self) -> bool:
        """Whether the promise was kept."""
        return bool(self.low <= self.measured <= self.high)


Run = Callable[[int, int], Iterator[Promise]]


@dataclass(frozen=True, slots=True)
class World:
    """A simulated world.

    id     sorts the worlds: K and two digits for those of the literature
    run    (seed, replicates) -> its promises
    quick  replicates in the size that everybody runs; 0: only when replicates are asked for
    most   replicates that its cost allows
    heavy  takes long: begun first when processes share the work
    """

    id: str
    run: Run
    quick: int
    most: int
    heavy: bool

    @property
    def summary(self) -> str:
        """First line of the world's docstring."""
        return (self.run.__doc__ or "").strip().splitlines()[0]

    def replicates(self, asked: int | None) -> int:
        """How many when `asked` for so many; None: in the quick size."""
        return self.quick if asked is None else max(FEWEST, min(asked, self.most))


CATALOG: Catalog[World] = Catalog("world", __name__)


def world(*, id: str, quick: int, most: int = 10**6, heavy: bool = False) -> Callable[[Run], Run]:
    """Enter a world into the catalog."""

    def register(run: Run) -> Run:
        CATALOG.add(id, World(id, run, quick, most, heavy))
        return run

    return register


def run(
    replicates: int | None = None,
    seed: int = 0,
    begin: Callable[[str], None] = lambda summary: None,
    jobs: int = 1,
    worlds: Sequence[str] | None = None,
) -> Iterator[Promise]:
    """All promises, one after the other, for a seed the same whatever `jobs`; `begin` is told which world comes next.

    replicates  of each world, at most its own limit; None: the quick size of about a minute on two cores
    worlds      ids; None: all
    """
    chosen = [CATALOG[id] for id in (CATALOG.names() if worlds is None else worlds)]
    sizes = [(w, w.replicates(replicates)) for w in chosen]
    sizes = [(w, size) for w, size in sizes if size]
    if jobs == 1:
        for w, size in sizes:
            begin(w.summary)
            yield from w.run(seed, size)
        return
    # Not forked: the parent may have threads, and a copy of their locks would never be released.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        longest_first = sorted(sizes, key=lambda pair: not pair[0].heavy)
        waiting = {w.id: pool.submit(_promises, w.id, seed, size) for w, size in longest_first}
        for w, _ in sizes:
            begin(w.summary)
            yield from waiting[w.id].result()


def _promises(id: str, seed: int, replicates: int) -> list[Promise]:
    return list(CATALOG[id].run(seed, replicates))


# --- what a world is made of ----------------------------------------------------------------------------------------


def attack(id: str = "simulated", *, thresholded: bool = True) -> Attack:
    """An attack whose score is given: what it truly achieves is known. Without a threshold, scores above 0 decide."""
    return Attack(
        id=id,
        family="reference",
        paper="",
        requires=frozenset({id}),
        threat_models=(ThreatModel.REFERENCE,),
        cost="",
        score=lambda observations: observations.target[id],
        thresholded=thresholded,
    )


def answer_key(member: Bools, persons: NDArray[np.int64] | None = None) -> Audit:
    """Records of one class; every record a person of its own unless `persons` [R] says otherwise."""
    labels = np.zeros(len(member), dtype=np.int64)
    people = np.arange(len(member)) if persons is None else persons
    return Audit(member.copy(), labels, people, ("all",), has_persons=persons is not None)


def observations(scores: Mapping[str, Floats], audit: Audit) -> Observations:
    """The scores [R] of attacks in the place of signals."""
    known = np.full(len(audit.member), WITHHELD, dtype=np.int8)
    return Observations(scores, audit.labels, known, audit.persons, len(audit.classes))


def measured(scores: Mapping[str, Floats], audit: Audit, seed: int, *, thresholded: bool = True) -> list[AttackOutcome]:
    """Each attack of given scores, through `measure`."""
    view = View(observations(scores, audit), None)
    return [o for id in scores for o in measure(attack(id, thresholded=thresholded), view, audit, seed)]


def result(outcomes: Sequence[AttackOutcome]) -> AttackResult:
    """The result with one threshold for all records, or without any."""
    return next(o for o in outcomes if isinstance(o, AttackResult) and o.threshold in (Scope.GLOBAL, None))


def evidence(outcomes: Sequence[AttackOutcome], audit: Audit, seed: int) -> Evidence:
    """What the policy judges: attacks alone."""
    inside, outside = (audit.persons[side] for side in (audit.member, ~audit.member))
    people = (len(np.unique(inside)), len(np.unique(outside)))
    return Evidence(tuple(outcomes), None, (), len(inside), len(outside), *people, seed=seed)


def policy(limits: Mapping[str, float]) -> Policy:
    """A policy of these rules alone: id -> limit."""
    rules = [RuleInForce(id, RULES[id].settings.model_validate({"max": limit}), None) for id, limit in limits.items()]
    return Policy("selftest", None, "", {}, {}, tuple(rules), alpha_pass=ALPHA, alpha_fail=ALPHA)


def judged(
    scores: Mapping[str, Floats], audit: Audit, limits: Mapping[str, float], seed: int, *, thresholded: bool = True
) -> Verdict:
    """The verdict on attacks of given scores."""
    outcomes = measured(scores, audit, seed, thresholded=thresholded)
    return judge(policy(limits), evidence(outcomes, audit, seed))


def status(verdict: Verdict, rule: str) -> RuleStatus:
    """What became of one rule."""
    return next(outcome.status for outcome in verdict.rules if outcome.id == rule)


def halves(n: int) -> Bools:
    """[2 n] membership: n members, then n others."""
    return np.asarray(np.arange(2 * n) < n)


# --- promises about rates and about numbers -------------------------------------------------------------------------


def rarely(
    id: str,
    world: str,
    promise: str,
    happened: Sequence[bool],
    at_most: float = ALPHA + APPROXIMATION,
    nominal: float = ALPHA,
) -> Promise:
    """An error with probability at most `at_most`; a one-sided binomial test at level SURE."""
    n = len(happened)
    return Promise(id, world, promise, sum(happened) / n, nominal, 0.0, float(binom.isf(SURE, n, at_most)) / n, n)


def mostly(
    id: str, world: str, promise: str, happened: Sequence[bool], at_least: float = POWER, slack: float = 0.0
) -> Promise:
    """A success with probability at least `at_least`, which is known but for `slack`."""
    n = len(happened)
    low = float(binom.ppf(SURE, n, max(0.0, at_least - slack))) / n
    return Promise(id, world, promise, sum(happened) / n, at_least, low, 1.0, n)


def about(id: str, world: str, promise: str, happened: Sequence[bool], chance: float) -> Promise:
    """An event whose probability is known; a two-sided binomial test at level SURE."""
    n = len(happened)
    low, high = (float(binom.ppf(level, n, chance)) / n for level in (SURE / 2, 1 - SURE / 2))
    return Promise(id, world, promise, sum(happened) / n, chance, low, high, n)


def near(id: str, world: str, promise: str, values: Sequence[float], truth: float, slack: float) -> Promise:
    """A mean at `truth`, but for `slack` of known bias and the error of the mean of so many replicates."""
    noise = _noise(values)
    low, high = float(truth - slack - noise), float(truth + slack + noise)
    return Promise(id, world, promise, float(np.mean(values)), float(truth), low, high, len(values))


def no_more(id: str, world: str, promise: str, values: Sequence[float], limit: float) -> Promise:
    """A mean of numbers from 0 up that is at most `limit`, but for the error of the mean of so many replicates."""
    return Promise(id, world, promise, float(np.mean(values)), limit, 0.0, limit + _noise(values), len(values))


def _noise(values: Sequence[float]) -> float:
    return float(norm.isf(SURE / 2)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
