"""Risk scores that mean what they say: learnt on one half of the target's own persons, stated of the other half.

Several ways to read a risk from an attack score compete; the one that predicts persons left out best is used. What
shadows teach competes too, brought to the target by two parameters that are learnt on the known half.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from privacy_gate.datamodel import MEMBER, NONMEMBER, Bools, Floats, Ints, Observations
from privacy_gate.errors import NotEvaluable
from privacy_gate.risk import Estimated, RiskInput, dirichlet, estimator, histogram, platt, spline_logit
from privacy_gate.risk.curve import Curve, Option, Sample, clip, logit
from privacy_gate.thresholds import person_folds

REPEATS = 5
CHOICE_FOLDS = 5
SIGNALS = "modified_entropy", "logit_confidence"  # that risk may be learnt from on shadows, the better first
MOST_POOLED = 10_000  # shadow records that curves are learnt from; more would not make them better, only slower
MOST_CHOOSING = 10_000  # persons of the known half on which curves are compared; the one chosen is fitted on all
SHADOW_DRAWS = 12  # refits from some of the references
PERSON_DRAWS = 12  # refits from persons drawn with replacement
DEVIATE = 1.6449  # 5 % of a normal distribution lie above
_POOL_STREAM, _INTERVAL_STREAM = 12, 13  # keep these draws apart from every other use of the run's seed
_CHOICE_STREAM = 43

Options = Callable[[Sample, Sequence[Bools]], Iterator[Option]]
FAMILIES: tuple[Options, ...] = (histogram.options, dirichlet.options, spline_logit.options)


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """Scores that risk may be read from, and the ways to do it."""

    name: str
    scores: Floats  # [R]
    families: tuple[Options, ...] = FAMILIES
    again: Callable[[np.random.Generator], Floats] | None = None  # the scores from another draw of shadow records
    rescore: Callable[[Bools], Floats] | None = None  # the scores from some of the references


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one half of the persons taught about the other half."""

    hidden: Bools  # [R]
    axis: Axis
    option: Option
    curve: Curve


def assess(given: RiskInput) -> Estimated:
    """Scores [R], 90 % intervals over shadows and known persons, and how the scores were read."""
    rounds = _rounds(given)
    scores = _mean(rounds, given)
    interval, note = _interval(rounds, scores, given)
    # The attack's own scores order people whom no curve tells apart; the risk orders those whose class matters.
    return Estimated(scores, interval, (*_notes(rounds, given), *note), (_own(given)[0].scores, scores))


@estimator(
    id="calibrated",
    paper="after Song & Mittal, USENIX Security 2021, section 4: cross-fitted, the best of several curves",
    needs_pool=False,
    assess=assess,
)
def estimate(given: RiskInput) -> Floats:
    """[R] P(member | score, class) at prior one half, in (0, 1): mean of five two-fold cross-fits by person."""
    return _mean(_rounds(given), given)


# --- the axes -------------------------------------------------------------------------------------------------------


def _own(given: RiskInput) -> list[Axis]:
    """Scores of attacks on the target; which one predicts best is found out on the known half."""
    names = [name for name in ("lira", "modified_entropy") if name in given.scores]
    if names:
        return [Axis(name, given.scores[name], rescore=given.rescore.get(name)) for name in names]
    if "logit_confidence" in given.target.target:
        return [Axis("logit confidence", given.target.target["logit_confidence"])]
    raise NotEvaluable(
        "calibrated: no attack score to calibrate", "run lira or modified_entropy, or collect logit_confidence"
    )


def _taught(given: RiskInput) -> list[Axis]:
    """The logit of the risk that the shadows' records teach, read in each way; empty without shadows."""
    pool = given.pool
    if pool is None:
        return []
    signal = next((name for name in SIGNALS if name in pool.target and name in given.target.target), None)
    if signal is None:
        return []
    theirs, ours = _towards_members(signal, pool), _towards_members(signal, given.target)
    used = np.flatnonzero((pool.known == MEMBER) | (pool.known == NONMEMBER))
    if len(used) > MOST_POOLED:
        used = np.sort(np.random.default_rng([_POOL_STREAM, given.seed]).choice(used, MOST_POOLED, replace=False))
    sample = Sample(theirs[used], pool.known[used] == MEMBER, pool.labels[used], pool.persons[used])
    held_out = _held_out(sample, given.seed)
    if held_out is None:
        return []
    best = (_best(list(family(sample, held_out))) for family in FAMILIES)
    return [_brought(option, sample, ours, given.target.labels) for option in best if option is not None]


def _towards_members(signal: str, seen: Observations) -> Floats:
    """[n] a signal that is higher for members."""
    values = seen.target[signal]
    return np.asarray(-np.log(np.maximum(values, np.finfo(np.float64).tiny)) if signal == SIGNALS[0] else values)


def _brought(option: Option, sample: Sample, ours: Floats, labels: Ints) -> Axis:
    def read(taught: Sample) -> Floats:
        return logit(option.fit(taught).at(ours, labels))

    def again(rng: np.random.Generator) -> Floats:
        return read(_resampled(sample, rng))

    return Axis(f"shadow records, {option.name}", read(sample), (platt.options,), again)


# --- one half tells of the other ------------------------------------------------------------------------------------


def _rounds(given: RiskInput) -> list[list[Part]]:
    axes, audit = [*_own(given), *_taught(given)], given.audit
    repeats = person_folds(audit.member, audit.persons, given.seed, repeats=REPEATS, folds=2)
    return [[_part(axes, given, hidden) for hidden in folds] for folds in repeats]


def _part(axes: Sequence[Axis], given: RiskInput, hidden: Bools) -> Part:
    axis, option = choose(axes, given, ~hidden)
    return Part(hidden, axis, option, option.fit(_sample(axis.scores, given).take(~hidden)))


def choose(axes: Sequence[Axis], given: RiskInput, known: Bools) -> tuple[Axis, Option]:
    """The axis and the way to read it that predict best on records `known` [R], cross-validated by person."""
    known = _some(known, given)
    whole = _sample(axes[0].scores, given).take(known)
    if whole.one_sided:
        raise NotEvaluable("calibrated: records of one kind only", "members and non-members are both needed")
    held_out = _held_out(whole, given.seed)
    nothing = Option("constant", histogram.constant, np.inf)
    best = axes[0], nothing
    if held_out is None:
        return best
    for axis in axes:
        sample = _sample(axis.scores, given).take(known)
        for family in axis.families:
            for option in family(sample, held_out):
                if option.loss < best[1].loss:
                    best = axis, option
    return best


def _some(known: Bools, given: RiskInput) -> Bools:
    """[R] the known records of at most MOST_CHOOSING persons: which curve is best shows on these as well."""
    persons = np.unique(given.audit.persons[known])
    if len(persons) <= MOST_CHOOSING:
        return known
    drawn = np.random.default_rng([_CHOICE_STREAM, given.seed]).choice(persons, MOST_CHOOSING, replace=False)
    return np.asarray(known & np.isin(given.audit.persons, drawn))


def _sample(scores: Floats, given: RiskInput) -> Sample:
    return Sample(scores, given.audit.member, given.audit.labels, given.audit.persons)


def _held_out(sample: Sample, seed: int) -> list[Bools] | None:
    """Folds by person to choose with; None where there are too few persons."""
    if sample.one_sided:
        return None
    sides = [len(np.unique(sample.persons[side])) for side in (sample.member, ~sample.member)]
    folds = min(CHOICE_FOLDS, *sides)
    if folds < 2:
        return None
    (held_out,) = person_folds(sample.member, sample.persons, seed, repeats=1, folds=folds)
    return held_out if all(sample.member[~f].any() and (~sample.member[~f]).any() for f in held_out) else None


def _best(options: Sequence[Option]) -> Option | None:
    return min(options, key=lambda option: option.loss, default=None)


def _mean(rounds: Sequence[Sequence[Part]], given: RiskInput) -> Floats:
    told = [_told(parts, [(part.axis.scores, part.curve) for part in parts], given) for parts in rounds]
    return np.asarray(np.mean(told, axis=0))


def _told(parts: Sequence[Part], said: Sequence[tuple[Floats, Curve]], given: RiskInput) -> Floats:
    """[R] what each half's persons are told by the scores [R] and the curve of the other half."""
    told = np.empty(len(given.audit.member))
    for part, (scores, curve) in zip(parts, said, strict=True):
        told[part.hidden] = curve.at(scores[part.hidden], given.audit.labels[part.hidden])
    return told


# --- how sure -------------------------------------------------------------------------------------------------------


def _interval(
    rounds: Sequence[Sequence[Part]], scores: Floats, given: RiskInput
) -> tuple[tuple[Floats, Floats], tuple[str, ...]]:
    """Ends [R] of 90 % intervals: normal on the logit scale, the variances over persons and over references added.

    Settings stay as chosen; only curves are learnt again. Each refit is compared with its own split, so that what
    the split does is not taken for what the draw does.
    """
    rng = np.random.default_rng([_INTERVAL_STREAM, given.seed])
    draws = [_from_other_persons(rounds[i % REPEATS], given, rng) for i in range(PERSON_DRAWS)]
    variance = np.var(draws, axis=0, ddof=1)
    masks, inflation, note = _fewer_references(rounds, given, rng)
    if masks:
        shifts = [_from_fewer_references(rounds[i % REPEATS], given, mask) for i, mask in enumerate(masks)]
        variance = variance + inflation * np.var(shifts, axis=0, ddof=1)
    half = DEVIATE * np.sqrt(variance)
    centre, n = logit(scores), len(scores)
    low, high = (clip(np.asarray(expit(centre + sign * half)), n) for sign in (-1, 1))
    return (np.minimum(low, scores), np.maximum(high, scores)), note


def _from_other_persons(parts: Sequence[Part], given: RiskInput, rng: np.random.Generator) -> Floats:
    """[R] by how much the logits move when the known persons (and the shadow records) are drawn again."""
    said: list[tuple[Floats, Curve]] = []
    for part in parts:
        scores = part.axis.scores if part.axis.again is None else part.axis.again(rng)
        said.append((scores, part.option.fit(_resampled(_sample(scores, given).take(~part.hidden), rng))))
    return _moved(parts, said, given)


def _from_fewer_references(parts: Sequence[Part], given: RiskInput, mask: Bools) -> Floats:
    """[R] by how much the logits move when the attack has some of its references only."""
    said: list[tuple[Floats, Curve]] = []
    for part in parts:
        if part.axis.rescore is None:
            said.append((part.axis.scores, part.curve))
        else:
            scores = part.axis.rescore(mask)
            said.append((scores, part.option.fit(_sample(scores, given).take(~part.hidden))))
    return _moved(parts, said, given)


def _moved(parts: Sequence[Part], said: Sequence[tuple[Floats, Curve]], given: RiskInput) -> Floats:
    before = _told(parts, [(part.axis.scores, part.curve) for part in parts], given)
    return np.asarray(logit(_told(parts, said, given)) - logit(before))


def _fewer_references(
    rounds: Sequence[Sequence[Part]], given: RiskInput, rng: np.random.Generator
) -> tuple[list[Bools], float, tuple[str, ...]]:
    """Masks [S] of the references to keep, and what the variance must be multiplied with.

    Without d of S references at random, a mean moves with d / (S - d) of its variance over S (delete-d jackknife).
    A quarter is left out; where that leaves some record with too few, one.
    """
    axes = [part.axis for parts in rounds for part in parts if part.axis.rescore is not None]
    if not axes:
        return [], 0.0, ()
    shadows = given.target.shadows
    for dropped in dict.fromkeys((max(shadows // 4, 1), 1)):
        masks = []
        for _ in range(SHADOW_DRAWS):
            mask = np.ones(shadows, dtype=np.bool_)
            mask[rng.choice(shadows, dropped, replace=False)] = False
            masks.append(mask)
        if _enough(axes, masks):
            return masks, (shadows - dropped) / dropped, ()
    return [], 0.0, ("The intervals leave out that other shadows might have been trained: there are too few.",)


def _enough(axes: Sequence[Axis], masks: Sequence[Bools]) -> bool:
    try:
        for axis in axes[:1]:
            if axis.rescore is not None:
                for mask in masks:
                    axis.rescore(mask)
    except NotEvaluable:
        return False
    return True


def _resampled(sample: Sample, rng: np.random.Generator) -> Sample:
    """As many persons drawn with replacement, on each side by itself, each with all its records of that side."""
    chosen = []
    for side in (sample.member, ~sample.member):
        rows = np.flatnonzero(side)
        rows = rows[np.argsort(sample.persons[rows], kind="stable")]
        _, starts, sizes = np.unique(sample.persons[rows], return_index=True, return_counts=True)
        drawn = rng.integers(len(starts), size=len(starts))
        begin = np.repeat(starts[drawn], sizes[drawn])
        within = np.arange(len(begin)) - np.repeat(np.cumsum(sizes[drawn]) - sizes[drawn], sizes[drawn])
        chosen.append(rows[begin + within])
    return sample.take(np.concatenate(chosen))


# --- for people -----------------------------------------------------------------------------------------------------

DROP = 0.02  # of the risk as the score rises, from which a curve is called not monotone
_GRID = 101


def _notes(rounds: Sequence[Sequence[Part]], given: RiskInput) -> Iterator[str]:
    parts = [part for parts in rounds for part in parts]
    chosen = Counter(f"{part.axis.name} ({part.option.name})" for part in parts)
    yield f"Risk was read from {', '.join(f'{name} in {n} of {len(parts)} fits' for name, n in chosen.most_common())}."
    falling = sum(not monotone(part.curve, part.axis.scores, given.audit.labels) for part in parts)
    if falling:
        yield (
            f"In {falling} of {len(parts)} fits a higher score does not always mean a higher risk; "
            "confident wrong answers can do that."
        )


def monotone(curve: Curve, scores: Floats, labels: Ints) -> bool:
    """Whether the risk never falls by more than DROP from one score to a higher one, in any class present."""
    grid = np.quantile(scores, np.linspace(0, 1, _GRID), method="nearest")
    for label in np.unique(labels):
        risk = curve.at(grid, np.full(len(grid), label))
        if (np.maximum.accumulate(risk) - risk).max() > DROP:
            return False
    return True
