"""K-10: models that are really trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import Audit, Bools, Floats, Ints, Outputs, RuleStatus, ThreatModel
from privacy_gate.epsilon import most_accuracy
from privacy_gate.errors import ExitCode
from privacy_gate.measure import measure
from privacy_gate.observe import Answers, observe
from privacy_gate.policy import judge
from privacy_gate.selftest import Promise, Rng, evidence, halves, mostly, policy, rarely, result, status, world
from privacy_gate.selftest.models import SHADOWS, Answered, balanced, walk

DATA = "PRIVACY_GATE_REFERENCE_DATA"
EPSILON = 1.0
_TRAINED = 300  # records each model is trained on
_LAMBDA = 0.05  # regularisation of the private model
_MOST = 20

Train = Callable[[Floats, Ints, int], Callable[[Floats], Outputs]]


def overtrained(x: Floats, y: Ints, seed: int) -> Callable[[Floats], Outputs]:
    """Trees grown until every training record is alone."""
    from sklearn.ensemble import ExtraTreesClassifier

    model: Any = ExtraTreesClassifier(20, random_state=seed, n_jobs=1).fit(x, y)
    return lambda records: Outputs(model.predict_proba(records), "probabilities")


def private(x: Floats, y: Ints, seed: int) -> Callable[[Floats], Outputs]:
    """Logistic regression with EPSILON-differential privacy by output perturbation.

    With records of norm at most 1 the minimiser moves by at most 2 / (n lambda) when one record changes; noise with
    density proportional to exp(-epsilon n lambda |b| / 2) hides that (Chaudhuri et al., JMLR 2011, algorithm 1).
    """
    from sklearn.linear_model import LogisticRegression

    n, d = x.shape
    model: Any = LogisticRegression(C=1 / (n * _LAMBDA), fit_intercept=False, tol=1e-8, max_iter=1000).fit(x, y)
    rng = np.random.default_rng([26, seed])
    direction = rng.normal(size=d)
    length = rng.gamma(d, 2 / (n * _LAMBDA * EPSILON))
    weights = model.coef_[0] + length * direction / np.linalg.norm(direction)

    def answer(records: Floats) -> Outputs:
        margin = records @ weights
        return Outputs(np.stack((-margin / 2, margin / 2), axis=1), "logits")

    return answer


def trained(train: Train, rng: Rng, seed: int) -> Answered:
    """A target and its shadows, trained on noisy labels of records in the unit ball."""
    n, d = _TRAINED, 10
    x = rng.normal(size=(2 * n, d))
    x /= np.maximum(1.0, np.linalg.norm(x, axis=1, keepdims=True))
    y = (x[:, 0] + 0.3 * rng.normal(size=2 * n) > 0).astype(np.int64)
    member = halves(n)
    plan = balanced(rng, 2 * n, n)
    answers = [train(x[side], y[side], SHADOWS * seed + i)(x) for i, side in enumerate((member, *plan.member))]
    return Answered(answers[0], tuple(answers[1:]), plan, Audit(member, y, np.arange(2 * n), ("no", "yes")))


@world(id="K-10", quick=10, most=_MOST, heavy=True)
def trained_models(seed: int, replicates: int) -> Iterator[Promise]:
    """K-10: an over-trained model fails; one with differential privacy keeps the limits that its epsilon implies."""
    limit = most_accuracy(EPSILON)
    for train, name in (
        (overtrained, "trees grown to the end"),
        (private, f"logistic regression, epsilon {EPSILON:g}"),
    ):
        codes = []
        for r in range(replicates):
            drawn = trained(train, np.random.default_rng([seed, 27, r]), 100 * seed + r)
            codes.append(walk(drawn, policy({"PG101": limit, "PG102": limit}), r)[0].exit_code)
        said = f"K-10: {name}, limits {limit:.3f}"
        failed, passed = ([c == wanted for c in codes] for wanted in (ExitCode.VIOLATED, ExitCode.PASS))
        if train is overtrained:
            yield mostly("K-10.overtrained", said, "it fails", failed)
        else:
            yield rarely("K-10.private.fail", said, "it fails", failed)
            yield mostly("K-10.private.pass", said, "it passes", passed, 0.9)


@world(id="K-10 Location30", quick=0, most=_MOST, heavy=True)
def location30(seed: int, replicates: int) -> Iterator[Promise]:
    """K-10: networks of 8 and of 50 epochs on Location30, if the reference data are at hand."""
    folder = os.environ.get(DATA)
    if not folder:
        return
    arrays = np.load(Path(folder) / "location30" / "records.npz")
    x, y = arrays["x"].astype(np.float64), arrays["y"].astype(np.int64)
    limit, accuracies, failed = 0.75, [], []
    for r in range(replicates):
        rows = np.random.default_rng([seed, 28, r]).permutation(len(x))[:2000]
        member = halves(1000)
        audit = Audit(member, y[rows], np.arange(2000), tuple(str(k) for k in range(30)))
        found = []
        for outputs in _epochs(x[rows], y[rows], member, 100 * seed + r, (8, 50)):
            view = observe(Answers(outputs), audit, ["modified_entropy"]).views[0]
            outcomes = measure(ATTACKS["modified_entropy"], view, audit, r)
            # There are no shadows here: what is left is the attacker who knows some of the members.
            found.append([o for o in outcomes if o.threat_model is ThreatModel.KNOWN_SUBSET])
        accuracies.append([result(o).accuracy.value for o in found])
        verdict = judge(policy({"PG101": limit}), evidence(found[1], audit, r))
        failed.append(status(verdict, "PG101") is RuleStatus.FAIL)
    early, late = np.mean(accuracies, axis=0)
    yield mostly("K-10.location30.fail", "K-10: Location30, 50 epochs, limit 0.75", "it fails", failed)
    ordered = [a < b for a, b in accuracies]
    said = f"modified entropy finds less after 8 epochs ({early:.2f}) than after 50 ({late:.2f})"
    yield mostly("K-10.location30.order", "K-10: Location30", said, ordered)


def _epochs(x: Floats, y: Ints, member: Bools, seed: int, stops: tuple[int, ...]) -> Iterator[Outputs]:
    """Answers of one network at several epochs."""
    from sklearn.neural_network import MLPClassifier

    model: Any = MLPClassifier((256, 128), learning_rate_init=1e-3, batch_size=50, alpha=0.0, random_state=seed)
    rng = np.random.default_rng([29, seed])
    inside = np.flatnonzero(member)
    for epoch in range(1, max(stops) + 1):
        order = rng.permutation(inside)
        model.partial_fit(x[order], y[order], classes=np.arange(int(y.max()) + 1))
        if epoch in stops:
            yield Outputs(model.predict_proba(x), "probabilities")
