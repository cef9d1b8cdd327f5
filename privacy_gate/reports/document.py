"""report.json, field by field. `null` means not measured, never zero; a number is finite or absent.

Every other format is a rendering of this document. `run` holds all that differs between two identical runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, ValidationInfo, model_validator

from privacy_gate.datamodel import Action, Estimand, Invalidates, RuleStatus, Scope, ThreatModel, VerdictStatus
from privacy_gate.errors import UsageError
from privacy_gate.storage import sha256_of_json

SCHEMA_VERSION = "1.0"
SCHEMA_FILE = "schemas/report-1.0.schema.json"
CANONICALISATION = "JSON, keys sorted, no spaces, ASCII; all keys but run and integrity; SHA-256"

_NEWER_MINOR = object()  # validation context: drop the keys that this version does not know

JsonObject = dict[str, JsonValue]
Rate = Annotated[str, Field(pattern=r"^[01](\.\d{1,12})?$")]
"""A share as a key: "0.001"."""


class Part(BaseModel):
    """Base of everything in a report: frozen, no unknown keys, no NaN, no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_unknown(cls, value: Any, info: ValidationInfo) -> Any:
        if info.context is _NEWER_MINOR and isinstance(value, Mapping):
            return {key: item for key, item in value.items() if key in cls.model_fields}
        return value


class Interval(Part):
    """A measured number between two one-sided bounds (see `levels`)."""

    value: float | None
    low: float | None
    high: float | None


class Tool(Part):
    """What wrote the report."""

    name: str = "privacy-gate"
    version: str


class Verdict(Part):
    """The whole in one word, one line and one exit code."""

    status: VerdictStatus
    exit_code: int
    headline: str
    valid_until: str | None = Field(None, description="ISO date; after it the evidence should be renewed")
    counts: dict[str, int] = {}
    exit_zero: bool = Field(False, description="the caller asked for exit code 0 in place of 1")


class DatasetHint(Part):
    """A data set that the training run logged; a hint for people, not the audited records."""

    name: str
    context: str
    source_type: str
    digest: str


class Subject(Part):
    """The model that was judged."""

    uri: str | None
    resolved_uri: str | None = None
    name: str | None = None
    version: str | None = None
    model_id: str | None = None
    run_id: str | None = None
    digest: str | None = Field(None, description="sha256 over the files of the snapshot")
    flavor: str | None = None
    executes_code: bool | None = Field(None, description="loading the model runs code that came with it")
    kind: str | None = None
    datasets: tuple[DatasetHint, ...] = ()


class Policy(Part):
    """What was promised before the run."""

    name: str
    profile: str | None
    digest: str
    resolved: JsonObject = {}


class NotRun(Part):
    """An attack that gave no evidence, and why."""

    id: str
    threat_model: ThreatModel
    status: Literal["skipped", "error"]
    reason: str


class OutOfScope(Part):
    """A kind of attack about which the report says nothing."""

    id: str
    note: str


class Threats(Part):
    """Who attacks, with what, and what was left out."""

    access: str = Field(description="what the attacker sees of the model")
    threat_models: tuple[ThreatModel, ...] = ()
    attacks_run: tuple[str, ...] = ()
    attacks_not_run: tuple[NotRun, ...] = ()
    out_of_scope: tuple[OutOfScope, ...] = ()


class RecordSet(Part):
    """One role of the data."""

    n: int = Field(description="records")
    persons: int | None = Field(None, description="data subjects; null without a person column")
    digest: str | None = Field(None, description="sha256 over content, shape, names and types")
    drawn_from: int | None = Field(None, description="records that these were drawn from by lot; null: all are here")


class Data(Part):
    """Which records the evidence rests on."""

    members: RecordSet
    nonmembers: RecordSet
    population: RecordSet | None = None
    seen: RecordSet | None = None
    removed: dict[str, int] = Field({}, description="records left out, by reason")
    classes: int
    train_size: int | None = Field(None, description="records that the target was trained on")
    coverage: str = Field("", description="census or sample, in words")


class Location(Part):
    """Where in a file a rule stands; counts from 1."""

    file: str
    line: int
    column: int


class Rule(Part):
    """One rule of the policy, judged."""

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
    location: Location | None = None
    reason: str
    cell: str = Field("", description="the attack, threat model and scope that decided")
    needed: dict[str, int] = Field({}, description="records that would decide, when inconclusive")
    waiver: str = Field("", description="id of the waiver in effect")
    enforce_from: str = Field("", description="ISO date from which the rule blocks; until then it warns")


class Metrics(Part):
    """What one attack achieved; keys of `tpr_at_fpr` are false-positive rates."""

    accuracy: Interval = Field(description="balanced accuracy")
    auc: Interval | None
    advantage: Interval = Field(description="TPR - FPR")
    tpr_at_fpr: dict[Rate, Interval]
    precision: dict[Rate, Interval] = Field({}, description="of the decisions; keys are shares of members among all")


class Roc(Part):
    """A thinned receiver operating curve."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]

    @model_validator(mode="after")
    def _paired(self) -> Roc:
        if len(self.fpr) != len(self.tpr):
            raise ValueError("fpr and tpr must have the same length")
        return self


class Answered(Part):
    """Accuracy among the records that the model answered correctly, and among the others; never judged."""

    correct: Interval | None = None
    incorrect: Interval | None = None


class Attack(Part):
    """One attack under one threat model and threshold scope."""

    id: str
    family: str
    status: Literal["executed", "skipped", "error"]
    reason: str | None = None
    applies: bool = Field(True, description="false: the attack is for another kind of record or model")
    refused: bool = Field(False, description="the model under audit broke when the attack asked it")
    threat_model: ThreatModel
    threshold: Scope | None = None
    adaptive: bool | None = Field(None, description="shadows went through the same defence as the target")
    metrics: Metrics | None = None
    answered: Answered | None = None
    roc: Roc | None = None


class SliceAccuracy(Part):
    """The strongest attack within one slice of the records."""

    by: str = Field(description="class, a declared group, or difficulty: what models without the record find hard")
    value: str
    members: int | None
    nonmembers: int | None
    attack: str = Field(description="attack, threat model and scope")
    accuracy: Interval = Field(description="balanced; low is corrected for all attacks and slices, high is not")


class HighRisk(Part):
    """Persons (records without a person column) at or above a risk score.

    Counts of one to nine are null, and so are the values that would give them away.
    """

    score: float
    members: int | None
    nonmembers: int | None
    recall: float | None = Field(None, description="share of all members")
    verified: bool = Field(False, description="precision is proven to be as high as the score says, less 0.1")
    sure: int | None = Field(None, description="members whose whole 90 % interval lies at or above the score")
    attributable: Interval = Field(description="share of members in excess of the share of non-members")
    precision: Interval = Field(description="of flagging, at prior one half")
    precision_at: dict[Rate, Interval] = Field({}, description="at other shares of members among all")


class ReliabilityBin(Part):
    """Predicted against observed; null where fewer than ten records would show."""

    score: float
    members: float | None = Field(description="observed member share at prior one half")
    n: int | None


class Histogram(Part):
    """Counts between edges; null where fewer than ten records, or another hidden cell could be worked out."""

    name: str
    edges: tuple[float, ...]
    members: tuple[int | None, ...]
    nonmembers: tuple[int | None, ...]

    @model_validator(mode="after")
    def _fits(self) -> Histogram:
        if not len(self.edges) - 1 == len(self.members) == len(self.nonmembers):
            raise ValueError("a histogram has one edge more than cells")
        return self


class Group(Part):
    """Risk within one group; null where fewer than ten records would show."""

    by: str
    value: str
    members: int | None
    nonmembers: int | None
    mean_members: float | None = Field(description="mean risk score of the group's members")
    mean_nonmembers: float | None
    high_members: float | None = Field(description="share of the group's members at or above `group_score`")
    high_nonmembers: float | None
    quantiles: dict[Rate, float] = Field({}, description="of the members' scores; none that fewer than ten lie beyond")


class Risk(Part):
    """How likely single records can be told to have been members."""

    estimator: str
    high: tuple[HighRisk, ...]
    calibration: dict[str, float | None]
    errors: dict[str, Interval] = Field({}, description="calibration errors with bounds")
    reliability: tuple[ReliabilityBin, ...] = ()
    distribution: Histogram | None = None
    group_score: float | None = Field(None, description="at or above it a record counts as high-risk in `groups`")
    groups: tuple[Group, ...] = ()
    notes: tuple[str, ...] = Field((), description="how the risk was estimated")
    shown: tuple[Risk, ...] = Field((), description="other estimators; no verdict rests on them")


class CauseRow(Part):
    """One line of a cause's table; null where fewer than ten members would show."""

    name: str
    members: int | None
    numbers: dict[str, float | None]


class Cause(Part):
    """Why records are at risk; explains, decides nothing."""

    id: str
    title: str
    value: float | None
    p_value: float | None
    reason: str
    rows: tuple[CauseRow, ...] = ()


class Finding(Part):
    """The answer of one validity check."""

    check: str
    value: float | None
    status: Literal["pass", "warn", "fail", "not_applicable"]
    invalidates: Invalidates | None
    reason: str


class Shadows(Part):
    """The shadow models behind the evidence."""

    plan: Literal["balanced", "disjoint", "loaded"]
    count: int
    train_size: int
    accuracy_in: float | None = Field(None, description="shadows on their own training records")
    accuracy_out: float | None = Field(None, description="shadows on other records")
    target_accuracy_members: float | None = None
    target_accuracy_nonmembers: float | None = None
    notes: tuple[str, ...] = ()
    proxy: str = Field("", description="why they are of another kind than the candidate: they may fail it, not pass it")


class Defence(Part):
    """The defence that the candidate is released with; several are joined by a plus."""

    id: str
    settings: JsonObject = {}
    digest: str | None = Field(None, description="sha256 of the settings in full: what a registry tag is matched with")


class Stop(Part):
    """One model between privacy and utility."""

    name: str
    train_accuracy: float | None
    test_accuracy: float | None
    attacks: dict[str, Interval] = Field({}, description="attack -> balanced accuracy, thresholds cross-fitted")


class Frontier(Part):
    """The undefended model stopped early, and where the candidate stands beside it; never judged."""

    source: Literal["retraining", "staged", "checkpoints"]
    candidate: Stop
    stops: tuple[Stop, ...]
    matched: int = Field(description="index of the stop with the candidate's test accuracy, or the closest to it")
    differences: dict[str, Interval] = Field(
        {}, description="attack -> accuracy on the candidate less that on the matched stop, paired over records"
    )
    dominated_by: tuple[int, ...] = Field(
        (), description="stops at least as accurate on unseen records, and proven to leak less"
    )
    notes: tuple[str, ...] = ()


class Alternative(Part):
    """The candidate's recipe with another defence, judged by the same policy; the first one is the candidate."""

    name: str
    settings: JsonObject = {}
    status: VerdictStatus
    exit_code: int
    headline: str
    violated: tuple[str, ...] = Field((), description="ids of the blocking rules that do not hold")
    undecided: tuple[str, ...] = Field((), description="ids of the blocking rules that stay open")
    train_accuracy: float | None
    test_accuracy: float | None
    gain: float | None = Field(description="test accuracy less the candidate's")
    attack: str
    accuracy: Interval | None
    tpr_at_fpr: dict[Rate, Interval] = {}
    high_risk: Interval | None = Field(None, description="attributable share of members at the judged score")
    retrained: bool


class Waiver(Part):
    """An exception granted by people, and what became of it."""

    id: str
    rule: str
    state: Literal["active", "unused", "expired", "exceeded", "refused"]
    reason: str
    note: str = Field("", description="why it is in this state")
    approved_by: tuple[str, ...] = ()
    ticket: str = ""
    created: str = ""
    expires: str = ""


class Waivers(Part):
    """All waivers of the waiver file; only active ones have an effect."""

    active: tuple[Waiver, ...] = ()
    expired: tuple[Waiver, ...] = ()
    unused: tuple[Waiver, ...] = ()
    refused: tuple[Waiver, ...] = Field((), description="not allowed by the policy, or their ceiling is exceeded")


class Difference(Part):
    """One attack on both models."""

    attack: str
    accuracy: Interval = Field(description="candidate minus reference, balanced accuracy")


class Baseline(Part):
    """The candidate against an approved model."""

    reference: str
    reference_digest: str | None
    paired: bool
    members: int = Field(description="persons who are members of both models; 0 where only reports were compared")
    nonmembers: int
    differences: tuple[Difference, ...]
    note: str = ""


class Attempt(Part):
    """How often this model was evaluated on other data, seeds or shadows, and the levels that are left."""

    number: int
    recorded: bool = Field(description="whether the registry remembers; if not, this counts as the first")
    alpha_pass: float
    alpha_fail: float
    note: str = ""


class Problem(Part):
    """What went wrong, and the mend."""

    type: str
    what: str
    hint: str = ""


class Signoff(Part):
    """Filled in by people."""

    prepared_by: str | None = None
    reviewed_by: str | None = None
    date: str | None = None


class Levels(Part):
    """What the bounds mean."""

    alpha: float
    attacks: str = "low and high are one-sided bounds, each at confidence 1 - alpha, not corrected for many attacks"
    rules: str = (
        "low is corrected for all attacks, threat models, scopes, slices and rules (Bonferroni; Holm decides); "
        "high is not corrected, because to pass every attack must stay below the limit"
    )


class Integrity(Part):
    """How to find out whether the report was changed."""

    canonicalisation: str = CANONICALISATION
    report_sha256: str


class Cache(Part):
    """How much of the shadows came from the store."""

    trained: int | None = None
    cached: int | None = None


class MlflowLog(Part):
    """Where the evidence was logged."""

    run_id: str | None = None
    warning: str | None = None


class Run(Part):
    """Everything that differs between two identical runs."""

    report_id: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    duration_seconds: float | None = None
    host: str | None = None
    argv: tuple[str, ...] = ()
    jobs: int | None = None
    cache: Cache = Cache()
    versions: dict[str, str] = {}
    earlier_evaluations: int | None = Field(None, description="of this model, on record; null: nobody keeps them")
    mlflow: MlflowLog | None = None


class Report(Part):
    """report.json."""

    schema_version: str = Field(SCHEMA_VERSION, pattern=r"^1\.\d+$")
    tool: Tool
    verdict: Verdict
    subject: Subject
    policy: Policy | None
    threat_model: Threats
    data: Data | None
    estimand: Estimand = Field(Estimand.ARTEFACT, description="what the numbers are about")
    attempt: Attempt | None = None
    rules: tuple[Rule, ...]
    attacks: tuple[Attack, ...]
    slices: tuple[SliceAccuracy, ...] = ()
    risk: Risk | None
    causes: tuple[Cause, ...] = ()
    distributions: tuple[Histogram, ...]
    validity: tuple[Finding, ...]
    shadows: Shadows | None
    defence: Defence | None
    frontier: Frontier | None = None
    alternatives: tuple[Alternative, ...] = ()
    baseline: Baseline | None
    waivers: Waivers
    would_decide: tuple[str, ...] = Field((), description="evidence that would decide the rules that stay open")
    limitations: tuple[str, ...]
    warnings: tuple[str, ...]
    errors: tuple[Problem, ...]
    signoff: Signoff
    seed: int | None
    suite: str | None
    levels: Levels
    integrity: Integrity
    run: Run


def content_digest(content: Mapping[str, Any]) -> str:
    """sha256 (hex) over everything in a report.json but `run` and `integrity`."""
    return sha256_of_json({key: value for key, value in content.items() if key not in ("run", "integrity")})


def verify(report: Report | Mapping[str, Any]) -> bool:
    """Whether the content has the digest that it states; of a file give the raw JSON, `parse` may have dropped keys."""
    content = report.model_dump(mode="json") if isinstance(report, Report) else report
    integrity = content.get("integrity")
    return isinstance(integrity, Mapping) and integrity.get("report_sha256") == content_digest(content)


def seal(report: Report) -> Report:
    """The same report with its digest."""
    digest = content_digest(report.model_dump(mode="json"))
    return report.model_copy(update={"integrity": Integrity(report_sha256=digest)})


def dumps(report: Report) -> str:
    """report.json: keys in schema order, floats by repr, a newline at the end; equal reports give equal bytes."""
    # ASCII: a registry's escape sequences and text-direction marks reach no terminal through `cat`.
    return json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def parse(text: str | bytes) -> Report:
    """A report read back for rendering; keys of newer 1.x versions are ignored. Raises UsageError."""
    return _validated(_loaded(text))


def read(text: str | bytes) -> Report:
    """`parse`, of a report whose content has the digest that it states: accidents are found, forgers are not.

    Raises UsageError for anything else.
    """
    content = _loaded(text)
    report = _validated(content)
    if not verify(content):
        raise UsageError(
            "report.json was changed after it was written",
            "run the check again; the digest has no key: it finds accidents, not forgers",
        )
    return report


def _loaded(text: str | bytes) -> Any:
    hint = "give the report.json that `check` wrote"
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"not a report: {error}", hint) from error
    except RecursionError as error:
        raise UsageError("not a report: nested too deeply", hint) from error


def _validated(content: Any) -> Report:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, str) or version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise UsageError(
            f"not a report of schema version 1.x: schema_version is {version!r}",
            "render it with the version of privacy-gate that wrote it",
        )
    try:
        return Report.model_validate(content, context=None if version == SCHEMA_VERSION else _NEWER_MINOR)
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        hint = "the file was changed or cut after `check` wrote it"
        raise UsageError(f"not a valid report: {places}", hint) from error


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of what `dumps` writes."""
    schema = Report.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "privacy-gate report 1.0"}
