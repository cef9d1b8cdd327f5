"""How confident is the model where it did not learn? Told by non-members with like inputs; nothing is retrained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from privacy_gate.attacks import attack
from privacy_gate.datamodel import NONMEMBER, Floats, Ints, Observations, ThreatModel
from privacy_gate.errors import NotEvaluable

FOLDS = 5
FEWEST = 25  # persons among the revealed non-members: with five folds, each model learns from twenty
PENALTIES = np.logspace(-1, 5, 19)  # of the ridge, in records; the largest one leaves little but the mean
SHRINKAGE = 5.0  # records at the centre of all that join each class before its mean is taken
MARGIN = 10.0  # log odds beyond which a record is as typical of its class as any
WIDEST = 3.0  # ln of how far a variance may lie from the middle one: extrapolation is cut off there


@attack(
    id="quantile_regression",
    family="quantile",
    paper="Bertran et al., NeurIPS 2023 (Gaussian head)",
    requires={"logit_confidence", "coordinates"},
    threat_models=(ThreatModel.KNOWN_SUBSET,),
    reads_known=True,
)
def score(seen: Observations) -> Floats:
    """Standard deviations above what a non-member of its class with such inputs would get."""
    phi, x = seen.target["logit_confidence"], seen.target["coordinates"]
    sizes = np.bincount(seen.labels)[seen.labels]
    order = np.lexsort((seen.known, sizes, *x.T, phi))  # by content: neither order of records nor names can matter
    fold_of, classes = _folds(seen, order), _ranked(seen.labels, order)
    outside = (seen.known == NONMEMBER)[order]
    models = []
    for fold in range(FOLDS):
        rows = order[outside & (fold_of[order] != fold)]
        models.append(fit(phi[rows], x[rows], classes[rows], seen.classes).deviations(phi, x, classes))
    each = np.stack(models)
    own = each[np.maximum(fold_of, 0), np.arange(seen.n)]
    return np.asarray(np.where(fold_of >= 0, own, each.mean(axis=0)))


def _folds(seen: Observations, order: Ints) -> Ints:
    """[R] number of the model that did not learn from the record's person; -1 where none of them did."""
    learnt = order[seen.known[order] == NONMEMBER]
    people, first = np.unique(seen.persons[learnt], return_index=True)
    if len(people) < FEWEST:
        raise NotEvaluable(
            f"quantile_regression: {len(people)} persons among the revealed non-members, at least {FEWEST} are needed",
            "give more non-members",
        )
    fold_of_person = np.full(int(seen.persons.max()) + 1, -1)
    # Dealt out in the order of their confidence, so that the folds are alike.
    fold_of_person[people[np.argsort(first)]] = np.arange(len(people)) % FOLDS
    return fold_of_person[seen.persons]


def _ranked(labels: Ints, order: Ints) -> Ints:
    """[R] classes numbered by their first record in `order`."""
    found, first, index = np.unique(labels[order], return_index=True, return_inverse=True)
    number = np.empty(len(found), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(found))
    ranked = np.empty(len(labels), dtype=np.int64)
    ranked[order] = number[index]
    return ranked


# --- the model of non-members ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A Gaussian for the confidence of a non-member: mean and ln variance from inputs, how typical they are, and class.

    Linear in the coordinates and in the log odds that they give to the record's class, plus an effect of the class.
    """

    typical: Typical
    mean: Line
    log_variance: Line

    def deviations(self, phi: Floats, x: Floats, classes: Ints) -> Floats:
        """[n] (phi - mu(x, y)) / sigma(x, y)."""
        known = np.column_stack([x, self.typical.of(x, classes)])
        spread = np.clip(self.log_variance.at(known, classes) - self.log_variance.middle, -WIDEST, WIDEST)
        sigma = np.exp((self.log_variance.middle + spread) / 2)
        return np.asarray((phi - self.mean.at(known, classes)) / sigma)


def fit(phi: Floats, x: Floats, classes: Ints, count: int) -> Head:
    """The head from non-members: phi [n], coordinates [n, d], classes [n] of 0..count-1.

    Least squares instead of pinball losses: one closed form serves every false-positive rate, has neither seed nor
    stopping rule, and where its Gaussian is wrong, thresholds taken from other non-members mend it.
    """
    typical = Typical.learnt(x, classes, count)
    known = np.column_stack([x, typical.without_itself(x, classes)])
    mean, residuals = ridge(phi, known, classes, count)
    # ln e^2 of a Gaussian lies a constant below ln sigma^2: the same for all records, so it may stay.
    floor = 1e-6 * float(np.square(residuals).mean()) or 1.0
    log_variance, _ = ridge(np.log(np.maximum(np.square(residuals), floor)), known, classes, count)
    return Head(typical, mean, log_variance)


@dataclass(frozen=True, slots=True, eq=False)
class Typical:
    """Fisher's linear discriminant: how well its inputs alone tell a record's class. Hard records get low confidence.

    members  [K] records per class
    sums     [K, d] of their coordinates
    inverse  [d, d] of the covariance within classes
    """

    members: Floats
    sums: Floats
    inverse: Floats

    @classmethod
    def learnt(cls, x: Floats, classes: Ints, count: int) -> Typical:
        """From coordinates [n, d] and classes [n] of 0..count-1."""
        members = np.bincount(classes, minlength=count).astype(np.float64)
        sums = np.zeros((count, x.shape[1]))
        np.add.at(sums, classes, x)
        within = x - (sums / (members + SHRINKAGE)[:, None])[classes]
        covariance = within.T @ within / len(x)
        # A coordinate that hardly varies here must not decide alone; coordinates have variance 1 over all records.
        inverse = np.linalg.inv(covariance + 1e-2 * np.eye(x.shape[1]))
        return cls(members, sums, np.asarray(inverse, dtype=np.float64))

    def of(self, x: Floats, classes: Ints) -> Floats:
        """[n] log odds of the own class, for records that the discriminant did not learn from."""
        return _log_odds(self._discriminants(x), classes)

    def without_itself(self, x: Floats, classes: Ints) -> Floats:
        """[n] the same for the records that it learnt from: each is left out of the mean of its class."""
        values = self._discriminants(x)
        rest = self.members[classes] - 1
        means = (self.sums[classes] - x) / (rest + SHRINKAGE)[:, None]
        directions = means @ self.inverse
        own = ((x - means / 2) * directions).sum(axis=1) + np.log(rest + 0.5)
        values[np.arange(len(x)), classes] = own
        return _log_odds(values, classes)

    def _discriminants(self, x: Floats) -> Floats:
        means = self.sums / (self.members + SHRINKAGE)[:, None]
        directions = means @ self.inverse
        return np.asarray(x @ directions.T - (means * directions).sum(axis=1) / 2 + np.log(self.members + 0.5))


def _log_odds(discriminants: Floats, classes: Ints) -> Floats:
    rows = np.arange(len(classes))
    others = discriminants.copy()
    others[rows, classes] = -np.inf
    return np.asarray(np.clip(discriminants[rows, classes] - logsumexp(others, axis=1), -MARGIN, MARGIN))


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """middle + (x - centre) . slopes + effect of the class."""

    middle: float
    centre: Floats  # [d]
    slopes: Floats  # [d]
    effects: Floats  # [K]

    def at(self, x: Floats, classes: Ints) -> Floats:
        """[n] from x [n, d] and classes [n]."""
        return np.asarray(self.middle + (x - self.centre) @ self.slopes + self.effects[classes])


def ridge(y: Floats, x: Floats, classes: Ints, count: int) -> tuple[Line, Floats]:
    """Ridge regression of y [n] on x [n, d] and class effects, and the residuals [n] of leaving each record out.

    The penalty, one for all, is that of generalised cross-validation: Golub, Heath & Wahba, Technometrics 1979.
    """
    n, d = x.shape
    design = np.concatenate([x, np.eye(count)[classes]], axis=1)
    centre = design.mean(axis=0)
    design -= centre
    middle = float(y.mean())
    values, vectors = np.linalg.eigh(design.T @ design)
    values = np.maximum(values, 0.0)
    turned = design @ vectors  # [n, p] orthogonal columns of squared length `values`
    along = turned.T @ (y - middle)
    best, shrunk = np.inf, np.zeros_like(values)
    for penalty in PENALTIES:
        fitted = turned @ (along / (values + penalty))
        freedom = n - 1 - float((values / (values + penalty)).sum())
        error = float(np.square(y - middle - fitted).sum()) / max(freedom, 1.0) ** 2
        if error < best:
            best, shrunk = error, 1 / (values + penalty)
    coefficients = vectors @ (along * shrunk)
    leverage = 1 / n + np.square(turned) @ shrunk
    residuals = (y - middle - design @ coefficients) / np.maximum(1 - leverage, 1e-3)
    effects = coefficients[d:] - centre[d:] @ coefficients[d:]
    return Line(middle, centre[:d], coefficients[:d], effects), residuals
