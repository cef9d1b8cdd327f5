"""The nouns of the gate, in the order in which they flow. Everything here is frozen.

Shapes: R audited records (members, then non-members), S shadow models, K classes,
U records that shadows may be trained on (the R audited ones, then the population).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MEMBER, NONMEMBER, WITHHELD = 1, 0, -1


def freeze(*arrays: NDArray[Any] | None) -> None:
    """Make arrays read-only: values that flow are not changed on the way."""
    for array in arrays:
        if array is not None:
            array.flags.writeable = False


# --- the candidate --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DatasetHint:
    """A dataset input that the source run logged: a hint for people, never a source of records."""

    name: str
    context: str
    source_type: str
    digest: str
    rows: int | None = None  # None: not logged


@dataclass(frozen=True, slots=True)
class Candidate:
    """The model under audit: resolved once, copied to a private snapshot, named by its content."""

    uri: str  # as asked for
    resolved_uri: str  # models:/name/7 after the alias was followed once
    snapshot: Path  # private copy; nothing after the resolution reads the live store
    digest: str  # sha256 over the snapshot's files
    flavor: Literal["sklearn", "pytorch", "lightgbm", "xgboost", "pyfunc"]
    executes_code: bool  # loading it runs code that came with the model
    name: str | None = None
    version: str | None = None
    model_id: str | None = None
    run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    datasets: Sequence[DatasetHint] = ()
    run_seconds: float | None = None  # how long the source run took; None: unknown, or not finished
    inputs: tuple[tuple[str, str], ...] = ()  # (column, MLflow type) of the signature; (): of tensors, or none


@dataclass(frozen=True, slots=True)
class Description:
    """What loading the candidate in a process of its own told about it."""

    flavor: str
    kind: Literal["classifier", "regressor", "module", "unknown"]
    classes: tuple[Any, ...] | None  # the fitted model's own class order, where it has one
    recipe: Mapping[str, Any] | None  # canonical description of the estimator to clone; None: cannot be cloned
    versions: Mapping[str, str] = field(default_factory=dict)  # library versions the model was loaded with


# --- the data -------------------------------------------------------------------------------------------------------


class Role(StrEnum):
    """What the manifest says of a record."""

    MEMBERS = "members"
    NONMEMBERS = "nonmembers"
    POPULATION = "population"
    SEEN = "seen"  # validation or early-stopping records: neither member nor non-member, used as neither


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """The answer key over R records; the pipeline holds it, an attack never sees it."""

    member: Bools  # [R]
    labels: Ints  # [R] class index 0..K-1
    persons: Ints  # [R] dense index of the person; equal to the row where no person column exists
    classes: tuple[str, ...]  # [K] names, in the order of the model's columns
    groups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)  # name -> [R]
    has_persons: bool = False

    def __post_init__(self) -> None:
        freeze(self.member, self.labels, self.persons)


# --- what models say ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What one model answered for n records."""

    values: NDArray[np.floating[Any]]  # [n, K]
    kind: Literal["logits", "probabilities"]
    resolution: float = 0.0  # smallest probability step that the output path can express; 0: as fine as float64

    def __post_init__(self) -> None:
        freeze(self.values)

    @property
    def labels_only(self) -> bool:
        """Whether the model tells its decision and nothing else: 1 for one class, 0 for the others."""
        return self.kind == "probabilities" and self.resolution >= 1


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """All that an attack sees. Membership is visible through `known` alone.

    target            signal name -> [R], or [R, d] for signals that are vectors
    labels            [R] class index
    known             [R] int8: 1 member, 0 non-member, -1 withheld
    persons           [R] dense index of the person
    classes           K
    references        signal name -> [S, R] or [S, R, d] of the shadow models on the same records; empty without any
    reference_member  [S, R] whether record r was in the training set of shadow s; None without shadows
    answered_by       [R] number of the model that answered: several stand behind a pool; None: one for all
    """

    target: Mapping[str, Floats]
    labels: Ints
    known: NDArray[np.int8]
    persons: Ints
    classes: int
    references: Mapping[str, Floats] = field(default_factory=dict)
    reference_member: Bools | None = None
    answered_by: Ints | None = None

    def __post_init__(self) -> None:
        freeze(*self.target.values(), *self.references.values())
        freeze(self.labels, self.known, self.persons, self.reference_member, self.answered_by)

    @property
    def n(self) -> int:
        """R."""
        return len(self.labels)

    @property
    def shadows(self) -> int:
        """S."""
        return 0 if self.reference_member is None else len(self.reference_member)

    def take(self, rows: Ints, persons: Ints) -> Observations:
        """The given rows ([n]) in that order, their persons under other names ([n])."""
        return Observations(
            target={name: values[rows] for name, values in self.target.items()},
            labels=self.labels[rows],
            known=self.known[rows],
            persons=persons,
            classes=self.classes,
            references={name: values[:, rows] for name, values in self.references.items()},
            reference_member=None if self.reference_member is None else self.reference_member[:, rows],
            answered_by=None if self.answered_by is None else self.answered_by[rows],
        )

    def behind(self, pool: Observations, names: Iterable[str]) -> Observations:
        """The records of a pool, membership known, then these: what an attacker learns from, and what it judges.

        Only the named signals, which both must have. Nobody is the same person in both, and references are left out.
        """
        answered = np.zeros(pool.n, dtype=np.int64) if pool.answered_by is None else pool.answered_by
        own = np.full(self.n, int(answered.max(initial=-1)) + 1, dtype=np.int64)
        return Observations(
            target={name: np.concatenate([pool.target[name], self.target[name]]) for name in sorted(names)},
            labels=np.concatenate([pool.labels, self.labels]),
            known=np.concatenate([pool.known, self.known]),
            persons=np.concatenate([pool.persons, self.persons + int(pool.persons.max(initial=-1)) + 1]),
            classes=self.classes,
            answered_by=np.concatenate([answered, own]),
        )

    def reveal(self, member: Bools, where: Bools) -> Observations:
        """The same observations with the membership of the records in `where` ([R]) known and all other withheld."""
        known = np.where(where, member.astype(np.int8), np.int8(WITHHELD)).astype(np.int8)
        return replace(self, known=known)


# --- shadows --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class ShadowPlan:
    """Which record trains which shadow: a pure function of counts, persons, labels and seed."""

    kind: Literal["balanced", "disjoint", "loaded", "retrained"]
    member: Bools  # [S, U] in the training set of shadow s
    pool: Bools  # [U] records whose in/out answers set the shadow thresholds
    seeds: Ints  # [S] one per shadow, independent of every other shadow
    train_size: int  # records per shadow that the target had
    notes: tuple[str, ...] = ()  # what could not be had (a size, two in and two out, ...), for the report
    proxy: str = ""  # why its shadows are not of the candidate's own kind: they may fail it, never pass it
    by_lot: bool = True  # False: who trained them depends on who trained the target; no references, pool of one side
    sizes: tuple[int, ...] = ()  # [S] records that each was trained on, where `member` does not tell

    def __post_init__(self) -> None:
        freeze(self.member, self.pool, self.seeds)

    @property
    def size(self) -> int:
        """Records that a shadow was trained on, about: as planned, or the mean of those that are known."""
        return round(sum(self.sizes) / len(self.sizes)) if self.sizes else self.train_size


# --- attacks --------------------------------------------------------------------------------------------------------


class ThreatModel(StrEnum):
    """Where the decision threshold comes from."""

    SHADOW = "shadow"  # from the pooled records of shadow models
    KNOWN_SUBSET = "known-subset"  # cross-fitted on the target's own records
    REFERENCE = "reference"  # score needs reference models; threshold cross-fitted


class Scope(StrEnum):
    """How far one threshold reaches."""

    GLOBAL = "global"
    CLASS = "class"  # Song & Mittal: per class, unweighted objective
    CLASS_WEIGHTED = "class-weighted"  # per class, weighted so that it dominates GLOBAL on the data it is fitted on


def threat_told(model: ThreatModel, threshold: Scope | None) -> tuple[str, ...]:
    """The threat model as a part of an attack's name; () where no threshold came from anywhere (correctness)."""
    return () if threshold is None and model is not ThreatModel.REFERENCE else (model.value,)


class Estimand(StrEnum):
    """What the numbers are about."""

    ARTEFACT = "artefact"  # this model; its members are a sample of the records it might have been trained on
    CENSUS = "artefact-census"  # this model; every record it was trained on was scored
    PROCEDURE = "procedure"  # models that this training procedure makes: several were retrained


class Measurement(Protocol):
    """A number with one-sided confidence bounds at any level."""

    @property
    def value(self) -> float:
        """The point estimate."""

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A part of the audited records that was chosen without looking at the target's answers."""

    by: str  # class, a declared group, or difficulty
    value: str
    rows: Bools  # [R]
    members: int  # persons
    nonmembers: int

    def __post_init__(self) -> None:
        freeze(self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class SliceAccuracy:
    """What one attack achieves within one slice."""

    by: str
    value: str
    members: int  # persons
    nonmembers: int
    accuracy: Measurement  # balanced accuracy


@dataclass(frozen=True, slots=True, eq=False)
class AttackResult:
    """One attack under one threat model, threshold scope and knowledge of the defence."""

    id: str
    family: str
    threat_model: ThreatModel
    threshold: Scope | None  # None: the attack decides without a threshold (correctness)
    adaptive: bool  # shadows went through the same defence as the target
    accuracy: Measurement  # balanced accuracy
    advantage: Measurement  # TPR - FPR
    auc: Measurement | None
    tpr_at_fpr: Mapping[float, Measurement]  # FPR -> TPR
    scores: Floats  # [R], higher = more likely a member; never leaves the process
    decisions: Bools  # [R] of the first repeat; never leaves the process
    slices: tuple[SliceAccuracy, ...] = ()
    precision: Mapping[float, Measurement] = field(default_factory=dict)  # prior -> precision of the decisions
    answered: tuple[SliceAccuracy, ...] = ()  # among records that the target answered correctly, and the others


@dataclass(frozen=True, slots=True)
class AttackSkipped:
    """An attack that could not run on this evidence. Absence is a value; the policy says what it means."""

    id: str
    family: str
    threat_model: ThreatModel
    reason: str
    applies: bool = True  # False: it is for another kind of record or model, as the gate itself can tell


@dataclass(frozen=True, slots=True)
class AttackFailed:
    """An attack that crashed: exit code 3 when it was required, never a violation."""

    id: str
    family: str
    threat_model: ThreatModel
    reason: str
    refused: bool = False  # the model under audit broke when it was asked: that must not help it


AttackOutcome = AttackResult | AttackSkipped | AttackFailed


# --- risk -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HighRisk:
    """Persons whose risk score reaches `score`, and what of them can be attributed to membership."""

    score: float
    members: int  # member persons at or above the score
    nonmembers: int  # non-member persons at or above the score
    attributable: Measurement  # share of member persons in excess of the non-members' share
    precision: Measurement  # at prior one half
    precision_at: Mapping[float, Measurement] = field(default_factory=dict)  # prior -> precision
    sure: int | None = None  # member persons whose interval lies at or above the score; None without intervals


@dataclass(frozen=True, slots=True, eq=False)
class RiskScores:
    """The probability, at prior one half, that a record was a member: one per record."""

    estimator: str
    scores: Floats  # [R]
    high: tuple[HighRisk, ...]
    calibration: Mapping[str, float]  # rmse, rmse_weighted, ece, brier, log_loss
    reliability: tuple[tuple[float, float, int], ...] = ()  # (mean score, member share at prior 1/2, records) per bin
    interval: tuple[Floats, Floats] | None = None  # [R] each: ends of the 90 % interval over shadows
    errors: Mapping[str, Measurement] = field(default_factory=dict)  # calibration errors with bounds

    def __post_init__(self) -> None:
        freeze(self.scores, *(self.interval or ()))


@dataclass(frozen=True, slots=True)
class CauseRow:
    """One line of a cause's table: a class, a group, a kind of record. Few members: hidden in shared reports."""

    name: str
    members: int
    numbers: Mapping[str, float]  # column -> value


@dataclass(frozen=True, slots=True)
class Cause:
    """Why records are at risk: one observation about the audited records, as aggregates only."""

    id: str
    title: str
    value: float | None
    p_value: float | None
    reason: str
    rows: tuple[CauseRow, ...] = ()


# --- what else could be released ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stop:
    """One model on the way from privacy to utility: the undefended one stopped early, or the candidate itself."""

    name: str  # epoch 8, 40 % of its rounds, models:/churn/3
    train_accuracy: float  # on the audited members
    test_accuracy: float  # on the audited non-members
    attacks: Mapping[str, Measurement]  # attack -> its balanced accuracy, thresholds cross-fitted

    @property
    def worst(self) -> float:
        """Accuracy of the strongest attack."""
        return max(found.value for found in self.attacks.values())


@dataclass(frozen=True, slots=True)
class Frontier:
    """The early-stopping benchmark (Song & Mittal 2021, section 5.2): is the candidate better than stopping early?

    source       how the stops came about
    stops        of the undefended model, in order of training
    matched      the stop whose test accuracy comes closest to the candidate's; the earliest among equals
    differences  attack -> accuracy on the candidate less that on the matched stop, paired over records
    dominated_by stops that are at least as accurate on unseen records, and proven to leak less
    """

    source: Literal["retraining", "staged", "checkpoints"]
    candidate: Stop
    stops: tuple[Stop, ...]
    matched: int
    differences: Mapping[str, Measurement]
    dominated_by: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Alternative:
    """The candidate's recipe with another defence, judged by the same policy."""

    name: str  # of the defence with its settings; "as it is" for the candidate
    settings: Mapping[str, Any]  # defence -> settings; empty for none
    verdict: Verdict
    train_accuracy: float
    test_accuracy: float
    attack: str  # the strongest one's name; "" where none ran
    accuracy: Measurement | None  # of that attack
    tpr_at_fpr: Mapping[float, Measurement]  # FPR -> TPR of the attack that is best there
    high_risk: HighRisk | None  # at the judged score
    retrained: bool  # False: the candidate itself, behind an output defence perhaps
    gain: float  # test accuracy less the candidate's


# --- the verdict ----------------------------------------------------------------------------------------------------


class Invalidates(StrEnum):
    """What a fired validity check takes away."""

    PASS = "pass"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of one validity check: is this evidence admissible?"""

    check: str
    status: Literal["pass", "warn", "fail", "not_applicable"]  # fail: the check fired
    invalidates: Invalidates | None  # what it takes away when it fires
    value: float | None
    reason: str
    informs: bool = False  # a warning takes nothing away, even where equivalence is asked for


@dataclass(frozen=True, slots=True, eq=False)
class Regression:
    """The candidate against an approved model: differences of balanced accuracy, candidate minus reference.

    paired  on persons who are members of both and on persons who are members of neither; else two stored reports
    """

    reference: str  # models:/churn/11, or a report's subject
    reference_digest: str | None
    paired: bool
    members: int  # persons compared; 0 where only reports were
    nonmembers: int
    differences: tuple[tuple[str, Measurement], ...]  # name of the attack, threat model and scope -> difference
    note: str = ""
    approved: bool = True  # whether the reference passed its own gate


@dataclass(frozen=True, slots=True)
class Attempt:
    """An earlier evaluation of the same model, as the registry remembers it.

    references  what its reference models were drawn from; "" where the run does not say
    """

    data_digest: str
    seed: int
    policy_digest: str
    verdict: str
    exit_code: int
    run_id: str
    at: str  # ISO time
    references: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the policy judges."""

    attacks: tuple[AttackOutcome, ...]
    risk: RiskScores | None  # the calibrated estimator's
    findings: tuple[Finding, ...]
    members: int  # records
    nonmembers: int
    member_persons: int
    nonmember_persons: int
    seed: int = 0
    estimand: Estimand = Estimand.ARTEFACT
    description: Description | None = None  # None when predictions are judged alone
    regression: Regression | None = None
    train_size: int | None = None  # records the model was trained on; None: the audited members
    attempt: int = 1  # which evaluation of this model on other data, seeds or shadows this is
    left_out: tuple[tuple[str, str], ...] = ()  # by and value of the slices with too few persons to be measured


@dataclass(frozen=True, slots=True)
class Location:
    """Where in a file a rule stands; counts from 1."""

    file: str
    line: int
    column: int


class RuleStatus(StrEnum):
    """What became of one rule."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    WAIVED = "waived"
    ERROR = "error"
    NOT_APPLICABLE = "not_applicable"


Action = Literal["block", "warn", "off"]


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """One rule, judged. `low` is Bonferroni-corrected, `high` is not: fail and pass need different corrections."""

    id: str
    title: str
    metric: str
    limit: float | None
    value: float | None
    low: float | None
    high: float | None
    status: RuleStatus
    action: Action
    severity: str
    reason: str
    location: Location | None = None
    cell: str = ""  # the attack, threat model and scope that decided
    needed: Mapping[str, int] = field(default_factory=dict)  # records that would decide, when inconclusive
    waiver: str = ""  # id of the waiver in effect
    enforce_from: str = ""  # ISO date from which the rule blocks; until then it warns


@dataclass(frozen=True, slots=True)
class WaiverState:
    """One waiver of the waiver file, and what became of it in this run."""

    id: str
    rule: str
    state: Literal["active", "unused", "expired", "exceeded", "refused"]  # refused: the policy does not allow it
    reason: str  # the approver's
    note: str  # why it is in this state
    approved_by: tuple[str, ...] = ()
    ticket: str = ""
    created: str = ""  # ISO date
    expires: str = ""


class VerdictStatus(StrEnum):
    """The whole in one word."""

    PASS = "pass"
    PASS_WITH_WARNINGS = "pass_with_warnings"
    PASS_WITH_WAIVERS = "pass_with_waivers"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the pipeline obeys."""

    status: VerdictStatus
    exit_code: int
    headline: str
    rules: tuple[RuleOutcome, ...]
    counts: Mapping[str, int]
    waivers: tuple[WaiverState, ...] = ()
