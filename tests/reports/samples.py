"""Four fixed reports: a leaky forest, a private regression, too few records, a registry that did not answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from privacy_gate.datamodel import (
    Alternative,
    AttackFailed,
    AttackOutcome,
    AttackResult,
    AttackSkipped,
    Audit,
    Candidate,
    Cause,
    CauseRow,
    DatasetHint,
    Description,
    Finding,
    Floats,
    Frontier,
    HighRisk,
    Invalidates,
    Location,
    Regression,
    RiskScores,
    RuleOutcome,
    RuleStatus,
    Scope,
    ShadowPlan,
    SliceAccuracy,
    Stop,
    ThreatModel,
    Verdict,
    VerdictStatus,
    WaiverState,
)
from privacy_gate.defences import configure
from privacy_gate.errors import RegistryUnreachable
from privacy_gate.reports import assemble
from privacy_gate.reports.document import Attempt, Cache, MlflowLog, Report, Run


@dataclass(frozen=True)
class Measured:
    """A measurement with a normal error, kept within [floor, 1]."""

    value: float
    error: float
    floor: float = 0.0

    def lower(self, alpha: float) -> float:
        return round(max(self.value + self.error * NormalDist().inv_cdf(alpha), self.floor), 6)

    def upper(self, alpha: float) -> float:
        return round(min(self.value - self.error * NormalDist().inv_cdf(alpha), 1.0), 6)


def _roc(scores: Floats, member: np.ndarray) -> tuple[Floats, Floats]:
    """Every step of the empirical curve."""
    thresholds = np.unique(scores)[::-1]
    return (
        np.array([np.mean(scores[~member] >= t) for t in thresholds]),
        np.array([np.mean(scores[member] >= t) for t in thresholds]),
    )


def _audit(members: int, nonmembers: int, persons_per: int, seed: int, classes: tuple[str, ...]) -> Audit:
    rng = np.random.default_rng(seed)
    n = members + nonmembers
    return Audit(
        member=np.arange(n) < members,
        labels=rng.choice(len(classes), n, p=[0.76, 0.24]).astype(np.int64),
        persons=np.arange(n) // persons_per,
        classes=classes,
        groups={"age": rng.choice(["under 30", "30 to 60", "over 60"], n, p=[0.3, 0.55, 0.15])},
        has_persons=persons_per > 1,
    )


def _scores(audit: Audit, shift: float, tail: float, seed: int) -> Floats:
    """Normal scores; members are shifted, and a share `tail` of them far out."""
    rng = np.random.default_rng(seed)
    far = rng.random(audit.member.size) < tail
    return np.round(rng.normal(size=audit.member.size) + audit.member * (shift + 4.0 * far), 2)


def _result(
    id: str,
    family: str,
    model: ThreatModel,
    scope: Scope | None,
    accuracy: float,
    auc: float | None,
    tpr: tuple[float, float] | None,
    error: float,
) -> AttackResult:
    empty = np.zeros(0)
    return AttackResult(
        id=id,
        family=family,
        threat_model=model,
        threshold=scope,
        adaptive=True,
        accuracy=Measured(accuracy, error),
        advantage=Measured(round(2 * accuracy - 1, 6), 2 * error, floor=-1.0),
        auc=None if auc is None else Measured(auc, error),
        tpr_at_fpr={} if tpr is None else {0.01: Measured(tpr[0], error / 2), 0.001: Measured(tpr[1], error / 3)},
        scores=empty,
        decisions=empty.astype(bool),
        precision={
            prior: Measured(round(prior * accuracy / (prior * accuracy + (1 - prior) * (1 - accuracy)), 6), error)
            for prior in (0.5, 0.1, 0.01)
        },
        slices=tuple(
            SliceAccuracy(by, value, members, others, Measured(min(accuracy + more, 1.0), 4 * error))
            for by, value, members, others, more in (
                ("class", "<=50K", 1520, 1518, -0.02),
                ("class", ">50K", 480, 482, 0.05),
                ("difficulty", "hardest tenth", 205, 195, 0.1),
            )
        )
        if threshold_matters(scope)
        else (),
    )


def threshold_matters(scope: Scope | None) -> bool:
    """Slices are shown once per attack here."""
    return scope is Scope.GLOBAL


_METRIC = ("confidence", "entropy", "modified_entropy")


def _attacks(lift: float, error: float) -> list[AttackOutcome]:
    """A full suite; `lift` 0 is chance, 1 the leaky forest."""
    made: list[AttackOutcome] = [
        _result("correctness", "correctness", ThreatModel.KNOWN_SUBSET, None, 0.5 + 0.072 * lift, None, None, error)
    ]
    for strength, id in zip((0.107, 0.094, 0.112), _METRIC, strict=True):
        for model in (ThreatModel.SHADOW, ThreatModel.KNOWN_SUBSET):
            for scope in Scope:
                gain = lift * (strength - 0.006 * (scope is Scope.GLOBAL) - 0.011 * (model is ThreatModel.SHADOW))
                made.append(
                    _result(
                        id,
                        "metric",
                        model,
                        scope,
                        round(0.5 + gain, 6),
                        round(0.5 + 1.3 * gain, 6),
                        (round(0.01 + 0.1 * gain * lift, 6), round(0.001 + 0.002 * gain, 6)),
                        error,
                    )
                )
    for strength, low, id in ((0.236, (0.122, 0.0405), "lira"), (0.221, (0.098, 0.031), "rmia")):
        made.append(
            _result(
                id,
                "reference",
                ThreatModel.REFERENCE,
                Scope.GLOBAL,
                round(0.5 + lift * strength, 6),
                round(0.5 + 1.32 * lift * strength, 6),
                (round(0.01 + lift * low[0], 6), round(0.001 + lift * low[1], 6)),
                error,
            )
        )
    made.append(AttackSkipped("nasr_nn", "neural", ThreatModel.SHADOW, "needs gradients; this model has none"))
    return made


def _curves(audit: Audit, lift: float) -> dict[str, tuple[Floats, Floats]]:
    shapes = {"confidence": (0.55, 0.0), "modified_entropy": (0.6, 0.0), "lira": (0.9, 0.12), "rmia": (0.85, 0.09)}
    return {
        id: _roc(_scores(audit, lift * shift, lift * tail, seed), audit.member)
        for seed, (id, (shift, tail)) in enumerate(shapes.items())
    }


def _risk(audit: Audit, lift: float, seed: int, estimator: str = "calibrated") -> RiskScores:
    raw = _scores(audit, lift, 0.1 * lift, seed) * max(lift, 0.15)
    scores = np.round(1 / (1 + np.exp(-np.round(raw - raw.mean(), 3))), 3)
    high = []
    for score in (0.8, 0.9):
        above = scores >= score
        inside, outside = int((above & audit.member).sum()), int((above & ~audit.member).sum())
        share, other = inside / audit.member.sum(), outside / (~audit.member).sum()
        precision = share / (share + other) if inside else float("nan")
        high.append(
            HighRisk(
                score,
                inside,
                outside,
                Measured(share - other, 0.008, floor=-1.0),
                Measured(precision, 0.02),
                {0.1: Measured(0.1 * precision, 0.01), 0.01: Measured(0.01 * precision, 0.001)},
                inside // 2,
            )
        )
    bins = [
        (round((i + 0.5) / 10, 3), round(float(audit.member[where].mean()), 6), int(where.sum()))
        for i in range(10)
        if (where := (scores >= i / 10) & (scores < (i + 1) / 10)).any()
    ]
    calibration = {"rmse": 0.031, "ece": 0.018, "brier": round(0.25 - 0.06 * lift, 6), "log_loss": float("nan")}
    ece = {"ece": Measured(0.018, 0.004)}
    return RiskScores(estimator, scores, tuple(high), calibration, tuple(bins), errors=ece)


def _signals(audit: Audit, lift: float) -> dict[str, Floats]:
    return {
        "confidence": np.round(np.clip(0.82 + 0.08 * _scores(audit, lift, 0.0, 21), 0, 1), 3),
        "modified_entropy": np.round(np.exp(-np.round(_scores(audit, lift, 0.0, 22), 2) / 2), 3),
        "lira": _scores(audit, lift, 0.1 * lift, 23),
    }


_RULES: tuple[tuple[str, str, str, float | None, Literal["block", "warn"], str], ...] = (
    ("PG101", "Worst attack accuracy", "attack.accuracy", 0.60, "block", "high"),
    ("PG102", "Worst attack AUC", "attack.auc", 0.65, "block", "high"),
    ("PG103", "TPR at 1 % FPR", "attack.tpr_at_fpr", 0.05, "block", "high"),
    ("PG104", "TPR at 0.1 % FPR", "attack.tpr_at_fpr", 0.01, "block", "high"),
    ("PG201", "High-risk share", "risk.high_share", 0.01, "block", "high"),
    ("PG202", "High-risk persons in excess", "risk.high_excess_count", 100.0, "block", "medium"),
    ("PG203", "Worst group accuracy", "group.attack.accuracy", 0.70, "warn", "medium"),
    ("PG301", "Instance-based model", "model.instance_based", None, "block", "high"),
    ("PG501", "Required attacks ran", "attacks.required", None, "block", "high"),
)

_Judged = tuple[float | None, float | None, float | None, RuleStatus, str]


def _rules(judged: Mapping[str, _Judged], cell: str, needed: Mapping[str, int]) -> tuple[RuleOutcome, ...]:
    return tuple(
        RuleOutcome(
            id=id,
            title=title,
            metric=metric,
            limit=limit,
            value=judged[id][0],
            low=judged[id][1],
            high=judged[id][2],
            status=judged[id][3],
            action=action,
            severity=severity,
            reason=judged[id][4],
            location=Location("privacy-policy.yaml", 14 + line, 5),
            cell=cell if metric.startswith("attack.") else "",
            needed=needed if judged[id][3] is RuleStatus.INCONCLUSIVE else {},
        )
        for line, (id, title, metric, limit, action, severity) in enumerate(_RULES)
    )


def _counts(rules: tuple[RuleOutcome, ...]) -> dict[str, int]:
    return {str(status): sum(rule.status is status for rule in rules) for status in RuleStatus}


def _candidate(name: str, flavor: Literal["sklearn", "pytorch"] = "sklearn") -> Candidate:
    return Candidate(
        uri=f"models:/{name}@candidate",
        resolved_uri=f"models:/{name}/12",
        snapshot=Path("/nowhere"),
        digest="9f2c1e7ab0d34c55" * 4,
        flavor=flavor,
        executes_code=False,
        name=name,
        version="12",
        model_id="m-3b1f09c2",
        run_id="8d0f5c1fd6b1404f9a3c5a6d7f2b1e90",
        datasets=(DatasetHint("adult-train", "training", "local", "a1b2c3d4"),),
    )


_POLICY = assemble.policy(
    "adult-release",
    "standard",
    "77ab3f0c" * 8,
    {"extends": "standard", "rules": {"PG101": {"max": 0.6}, "PG102": {"max": 0.65}}, "on_inconclusive": "fail"},
)

_RUN = Run(
    report_id="0198f2a4-7c1e-7b55-9d3e-5f60718293a4",
    started_at="2026-09-01T09:14:02Z",
    finished_at="2026-09-01T09:19:48Z",
    duration_seconds=346.2,
    host="runner-7",
    argv=("privacy-gate", "check", "models:/adult@candidate", "--suite", "full"),
    jobs=2,
    cache=Cache(trained=16, cached=0),
    versions={"python": "3.11.9", "numpy": "2.1.0", "scikit-learn": "1.5.2", "mlflow": "3.17.2"},
    mlflow=MlflowLog(run_id="8d0f5c1fd6b1404f9a3c5a6d7f2b1e90"),
)


def _shadows(audit: Audit, count: int, inside: float, outside: float) -> Any:
    member = np.zeros((count, audit.member.size), dtype=bool)
    plan = ShadowPlan(
        "balanced",
        member,
        np.ones(audit.member.size, dtype=bool),
        np.arange(count),
        int(audit.member.sum()),
        ("every record is in at least 2 shadows and out of at least 2",),
    )
    return assemble.shadows(plan, inside, outside, inside + 0.002, outside - 0.001)


def _findings(shift: Literal["pass", "warn"] = "pass") -> tuple[Finding, ...]:
    return (
        Finding("shift", shift, Invalidates.BOTH, 0.507, "a blind classifier cannot tell members from non-members"),
        Finding("duplicates", "pass", Invalidates.BOTH, 0.0021, "17 of 8,034 records were repeated and are left out"),
        Finding("negative_control", "pass", Invalidates.BOTH, 0.502, "random membership does not fail the policy"),
        Finding("positive_control", "pass", Invalidates.PASS, 0.71, "a planted leak is found"),
        Finding("shadow_fidelity", "warn", Invalidates.PASS, 0.013, "shadows generalise slightly better"),
        Finding("saturation", "not_applicable", Invalidates.PASS, None, "outputs are probabilities of a forest"),
    )


_CAUSES = (
    Cause(
        "generalisation_gap",
        "classes that generalise worse",
        0.71,
        0.004,
        "classes with a larger gap between training and test accuracy hold riskier members (correlation 0.71)",
        (
            CauseRow("<=50K", 1520, {"gap": 0.081, "mean_risk": 0.61}),
            CauseRow(">50K", 480, {"gap": 0.214, "mean_risk": 0.74}),
            CauseRow("rare", 7, {"gap": 0.5, "mean_risk": 0.9}),
        ),
    ),
    Cause("label_noise", "labels that other models doubt", 0.31, None, "31 % of the high-risk members, 4 % of all"),
)

_WAIVERS = (
    WaiverState(
        "W-3",
        "PG203",
        "active",
        "retraining with balanced classes is planned, see the ticket",
        "class >50K, until the value exceeds 0.75",
        ("dpo@example.org", "release@example.org"),
        "PRIV-211",
        "2026-08-20",
        "2026-09-19",
    ),
    WaiverState("W-1", "PG104", "expired", "too few non-members in the first quarter", "expired on 2026-06-30"),
)

_REGRESSION = Regression(
    "models:/adult-forest/11",
    "5d" * 32,
    paired=True,
    members=1804,
    nonmembers=1990,
    differences=(("confidence, known-subset, global", Measured(0.051, 0.011, floor=-1.0)),),
)


def _stop(name: str, train: float, test: float, *leaks: float) -> Stop:
    ids = ("correctness", "confidence", "modified_entropy")
    return Stop(name, train, test, {id: Measured(leak, 0.004) for id, leak in zip(ids, leaks, strict=True)})


_FRONTIER = Frontier(
    source="staged",
    candidate=_stop("the candidate", 0.999, 0.852, 0.573, 0.701, 0.712),
    stops=(
        _stop("10 % of its rounds", 0.871, 0.846, 0.512, 0.518, 0.519),
        _stop("40 % of its rounds", 0.912, 0.853, 0.53, 0.561, 0.565),
        _stop("100 % of its rounds", 0.999, 0.852, 0.573, 0.701, 0.712),
    ),
    matched=2,
    differences={
        "correctness": Measured(0.0, 0.0, -1.0),
        "confidence": Measured(0.0, 0.0, -1.0),
        "modified_entropy": Measured(0.0, 0.0, -1.0),
    },
    dominated_by=(1,),
    notes=("round 1 answers every record alike; left out",),
)


def _alternative(
    name: str, settings: dict[str, Any], status: VerdictStatus, violated: tuple[str, ...], *numbers: float
) -> Alternative:
    test, gain, accuracy, tpr, high = numbers
    rules = tuple(
        RuleOutcome(id, id, "", 0.6, 0.7, 0.65, 0.75, RuleStatus.FAIL, "block", "high", "beyond the limit")
        for id in violated
    )
    return Alternative(
        name,
        settings,
        Verdict(status, int(bool(violated)), "", rules, {}),
        0.999 if violated else 0.87,
        test,
        "lira, reference, global",
        Measured(accuracy, 0.004),
        {0.01: Measured(tpr, 0.004), 0.001: Measured(tpr / 10, 0.001)},
        HighRisk(0.8, round(4000 * high), 0, Measured(high, 0.004), Measured(1.0 if high else 0.0, 0.0)),
        bool(settings),
        gain,
    )


_ALTERNATIVES = (
    _alternative("as it is", {}, VerdictStatus.FAIL, ("PG101", "PG103"), 0.852, 0.0, 0.742, 0.18, 0.21),
    _alternative(
        "tree_limits (min_samples_leaf 20)",
        {"tree_limits": {"min_samples_leaf": 20}},
        VerdictStatus.FAIL,
        ("PG103",),
        0.857,
        0.005,
        0.561,
        0.071,
        0.011,
    ),
    _alternative(
        "tree_limits (min_samples_leaf 100)",
        {"tree_limits": {"min_samples_leaf": 100}},
        VerdictStatus.PASS,
        (),
        0.849,
        -0.003,
        0.513,
        0.012,
        0.0,
    ),
)


def failing() -> Report:
    """A full-depth random forest that memorised its records."""
    audit = _audit(4000, 4000, 2, 1, ("<=50K", ">50K"))
    rules = _rules(
        {
            "PG101": (0.736, 0.7149, 0.7441, RuleStatus.FAIL, "lower bound 71.5 % is above the limit of 60.0 %"),
            "PG102": (0.8115, 0.7902, 0.8197, RuleStatus.FAIL, "lower bound 0.790 is above the limit of 0.650"),
            "PG103": (0.132, 0.1034, 0.1361, RuleStatus.FAIL, "lower bound 10.3 % is above the limit of 5.0 %"),
            "PG104": (0.0415, 0.0094, 0.0442, RuleStatus.INCONCLUSIVE, "the bounds lie on both sides of the limit"),
            "PG201": (0.118, 0.0981, 0.1312, RuleStatus.FAIL, "lower bound 9.8 % is above the limit of 1.0 %"),
            "PG202": (236.0, 196.0, 262.0, RuleStatus.FAIL, "lower bound 196 is above the limit of 100"),
            "PG203": (0.7432, 0.7011, 0.7714, RuleStatus.WAIVED, "waived until 2026-09-19 by W-3"),
            "PG301": (None, None, None, RuleStatus.PASS, "the model does not store training records"),
            "PG501": (None, None, None, RuleStatus.PASS, "all required attacks ran"),
        },
        "lira, reference, global",
        {"members": 11200, "nonmembers": 11200},
    )
    return assemble.report(
        assemble.Parts(
            verdict=Verdict(VerdictStatus.FAIL, 1, "5 of 9 rules block release", rules, _counts(rules), _WAIVERS),
            candidate=_candidate("adult-forest"),
            description=Description("sklearn", "classifier", ("<=50K", ">50K"), {"class": "RandomForestClassifier"}),
            policy=_POLICY,
            audit=audit,
            digests={"members": "1c" * 32, "nonmembers": "2d" * 32},
            removed={"duplicates": 34, "shared_persons": 8},
            train_size=4000,
            attacks=_attacks(1.0, 0.0055),
            curves=_curves(audit, 1.0),
            risk=_risk(audit, 1.0, 31),
            shown_risk=[_risk(audit, 1.2, 32, "song2021")],
            signals=_signals(audit, 1.0),
            findings=_findings(),
            shadows=_shadows(audit, 16, 0.999, 0.852),
            causes=_CAUSES,
            regression=_REGRESSION,
            frontier=_FRONTIER,
            alternatives=_ALTERNATIVES,
            attempt=Attempt(number=2, recorded=True, alpha_pass=0.0076, alpha_fail=0.0076),
            warnings=("the model was logged without a signature",),
            seed=0,
            suite="full",
            run=_RUN,
        )
    )


def passing() -> Report:
    """A regularised logistic regression."""
    audit = _audit(12000, 12000, 1, 2, ("<=50K", ">50K"))

    def held(high: str) -> str:
        return f"upper bound {high} is within the limit"

    rules = _rules(
        {
            "PG101": (0.5071, 0.4989, 0.5148, RuleStatus.PASS, held("51.5 %")),
            "PG102": (0.5093, 0.4996, 0.5187, RuleStatus.PASS, held("0.519")),
            "PG103": (0.0112, 0.0071, 0.0163, RuleStatus.PASS, held("1.6 %")),
            "PG104": (0.0011, 0.0002, 0.0038, RuleStatus.PASS, held("0.38 %")),
            "PG201": (0.0, 0.0, 0.0004, RuleStatus.PASS, held("0.04 %")),
            "PG202": (0.0, 0.0, 5.0, RuleStatus.PASS, held("5")),
            "PG203": (None, None, None, RuleStatus.NOT_APPLICABLE, "no group has both 100 members and 100 others"),
            "PG301": (None, None, None, RuleStatus.PASS, "the model does not store training records"),
            "PG501": (None, None, None, RuleStatus.PASS, "all required attacks ran"),
        },
        "modified_entropy, known-subset, class",
        {},
    )
    return assemble.report(
        assemble.Parts(
            verdict=Verdict(VerdictStatus.PASS, 0, "all 8 rules that apply hold", rules, _counts(rules)),
            valid_until="2026-11-30",
            candidate=_candidate("adult-regression"),
            description=Description("sklearn", "classifier", ("<=50K", ">50K"), {"class": "LogisticRegression"}),
            policy=_POLICY,
            audit=audit,
            digests={"members": "3e" * 32, "nonmembers": "4f" * 32, "population": "50" * 32},
            others={"population": 20000, "seen": 1500},
            removed={"duplicates": 52},
            train_size=12000,
            attacks=_attacks(0.05, 0.0042),
            curves=_curves(audit, 0.03),
            risk=_risk(audit, 0.03, 33),
            shown_risk=[_risk(audit, 0.3, 34, "song2021")],
            signals=_signals(audit, 0.03),
            findings=_findings(),
            shadows=_shadows(audit, 16, 0.853, 0.851),
            defences=configure({"output_coarsening": {"decimals": 2}}),
            seed=0,
            suite="full",
            run=_RUN,
        )
    )


def inconclusive() -> Report:
    """A hundred and twenty records: too few for any bound to fall on one side of a limit."""
    audit = _audit(60, 60, 1, 3, ("ill", "well"))
    few = "the bounds lie on both sides of the limit"
    rules = _rules(
        {
            "PG101": (0.567, 0.401, 0.641, RuleStatus.INCONCLUSIVE, few),
            "PG102": (0.571, 0.382, 0.668, RuleStatus.INCONCLUSIVE, few),
            "PG103": (None, None, None, RuleStatus.INCONCLUSIVE, "60 non-members cannot fix a threshold at 1 % FPR"),
            "PG104": (None, None, None, RuleStatus.INCONCLUSIVE, "60 non-members cannot fix a threshold at 0.1 % FPR"),
            "PG201": (0.0, 0.0, 0.061, RuleStatus.INCONCLUSIVE, few),
            "PG202": (0.0, 0.0, 3.7, RuleStatus.PASS, "upper bound 3.7 is within the limit"),
            "PG203": (None, None, None, RuleStatus.NOT_APPLICABLE, "no group has both 100 members and 100 others"),
            "PG301": (None, None, None, RuleStatus.PASS, "the model does not store training records"),
            "PG501": (None, None, None, RuleStatus.ERROR, "rmia crashed"),
        },
        "confidence, known-subset, global",
        {"members": 4600, "nonmembers": 4600},
    )
    attacks: list[AttackOutcome] = [
        _result("correctness", "correctness", ThreatModel.KNOWN_SUBSET, None, 0.5167, None, None, 0.045),
        _result("confidence", "metric", ThreatModel.KNOWN_SUBSET, Scope.GLOBAL, 0.5667, 0.571, None, 0.045),
        AttackSkipped("lira", "reference", ThreatModel.REFERENCE, "no record has 2 shadows in and 2 out"),
        AttackFailed("rmia", "reference", ThreatModel.REFERENCE, "ended with a division by zero"),
    ]
    own = "4 shadows of the candidate's own recipe"
    findings = (
        Finding("power", "fail", Invalidates.PASS, 0.12, "a leak at the limit would be seen 12 % of the time"),
        Finding("shift", "warn", Invalidates.BOTH, 0.561, "members and non-members may differ in more than membership"),
    )
    return assemble.report(
        assemble.Parts(
            verdict=Verdict(
                VerdictStatus.INCONCLUSIVE, 4, "5 of 9 rules cannot be decided with 120 records", rules, _counts(rules)
            ),
            candidate=_candidate("clinic-net", "pytorch"),
            policy=_POLICY,
            audit=audit,
            attacks=attacks,
            curves={"confidence": _roc(_scores(audit, 0.3, 0.0, 5), audit.member)},
            risk=_risk(audit, 0.2, 35),
            signals={"confidence": _signals(audit, 0.2)["confidence"]},
            findings=findings,
            shadows=_shadows(audit, 2, 0.93, 0.81),
            would_decide=(
                f"{own} (about 3 minutes) can decide PG501, which this evidence cannot",
                "PG101: about 4,600 members and 4,600 non-members",
            ),
            train_size=600,
            sampled={"members": (60, 600)},
            warnings=("the budget of 5 minutes allowed 2 of 16 shadow models",),
            limitations=("No person column was given: every record counts as a person of its own.",),
            seed=7,
            suite="fast",
            run=_RUN,
        )
    )


def broken() -> Report:
    """The registry did not answer."""
    error = RegistryUnreachable(
        "https://gate:hunter2@mlflow.example.org: no answer within 30 s", "check tracking_uri and the network"
    )
    return assemble.report(
        assemble.Parts(
            verdict=Verdict(VerdictStatus.ERROR, 3, "the registry could not be reached", (), {}),
            uri="models:/adult-forest@candidate",
            policy=_POLICY,
            errors=(error,),
            run=Run(
                started_at="2026-09-01T09:14:02Z", argv=("privacy-gate", "check", "models:/adult-forest@candidate")
            ),
        )
    )


SAMPLES: dict[str, Callable[[], Report]] = {
    "pass": passing,
    "fail": failing,
    "inconclusive": inconclusive,
    "error": broken,
}
