"""The candidate against an approved model: both attacked on the same people, who are members of both or of neither.

The anchor is what people approved, not what was evaluated last: a tolerance measured from release to release would
let the leak grow by a little each time. Its verdict, and that this verdict is about exactly these bytes, are looked up.

Which people were members of an earlier model is known from its member list: pseudonyms that its own evaluation kept.
Without a list, or with too few people in common, the stored figures are compared, which is less sharp.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privacy_gate.annex import KEY_VARIABLE, key_from_environment
from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import (
    AttackOutcome,
    AttackResult,
    Audit,
    Candidate,
    Estimand,
    Ints,
    Measurement,
    Outputs,
    Regression,
    Role,
    VerdictStatus,
)
from privacy_gate.defences import NOTHING, Defences
from privacy_gate.errors import (
    DataError,
    ModelOutputUnusable,
    NotEvaluable,
    UnsupportedModel,
    UsageError,
    WorkerDied,
)
from privacy_gate.features import read_npz, row_hashes, take
from privacy_gate.manifest import DUPLICATES, Dataset, class_order, encode
from privacy_gate.observe import Answers, observe
from privacy_gate.pairs import alone, differences
from privacy_gate.policy.cells import name_of
from privacy_gate.registry import Registry, StoredEvidence
from privacy_gate.reports.compare import stored_accuracies, unpaired
from privacy_gate.reports.document import Report
from privacy_gate.reports.document import read as read_report
from privacy_gate.sandbox import examine
from privacy_gate.sandbox.outputs import AUTO, Form
from privacy_gate.sandbox.runtime import HERE, Runtime
from privacy_gate.signals import CATALOG as SIGNALS
from privacy_gate.storage import atomic_write

FEWEST_PERSONS = 10  # on a side, in common; below it nothing is measured
DIGEST_BYTES = 16  # two of a billion people share a digest once in 10^20
_REPEATS = 5
_ORDER_STREAM = 17  # keeps this draw apart from every other use of the run's seed

Kind: TypeAlias = Literal["person", "record"]


# --- the member list ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class MemberList:
    """Who was a member of one model, as keyed pseudonyms. Without the key nobody can look a person up in it.

    digests       [n, 16] uint8, sorted, each once: their order and number of rows tell nothing of the records
    kind          what a digest stands for: a person, or the content of a record where no person column exists
    key_id        tells whether two lists were made with the same key
    model_sha256  the model it is about
    complete      whether every record of the training set was audited, but for dropped copies of non-members: 5 % at
                  most, which a later evaluation with the same non-members drops as well
    """

    digests: NDArray[np.uint8]
    kind: Kind
    key_id: bytes
    model_sha256: str
    complete: bool


def pseudonym_key(environment: Mapping[str, str]) -> bytes | None:
    """The key of all pseudonyms, out of PRIVACY_GATE_PSEUDONYM_KEY; None if unset. UsageError if it can be guessed."""
    return key_from_environment(environment) if environment.get(KEY_VARIABLE) else None


def _keyed(key: bytes, purpose: str, content: bytes) -> bytes:
    return hmac.digest(key, b"privacy-gate/v1 " + purpose.encode() + b"\0" + content, hashlib.sha256)[:DIGEST_BYTES]


def identities(dataset: Dataset, people: NDArray[np.str_] | None, key: bytes) -> list[bytes]:
    """[R] the pseudonym of each audited record's person, or of its content where there is no person column.

    people  [U] the person column as text; None without one
    Equal people have equal pseudonyms in all runs with one key; a content hash also depends on the columns' types.
    """
    if (people is not None) != dataset.has_persons:
        raise ValueError("the person column goes with a data set that has one")
    if people is not None:
        contents = [person.encode(errors="surrogatepass") for person in people[: dataset.audited].tolist()]
        made = {content: _keyed(key, "person", content) for content in set(contents)}
        return [made[content] for content in contents]
    # Without the label: its code is a matter of the class order; its text goes in beside the hash.
    hashes = row_hashes(dataset.features, np.zeros(len(dataset.raw_labels), dtype=np.int64))[: dataset.audited]
    labels = [_label(label).encode(errors="surrogatepass") for label in dataset.raw_labels[: dataset.audited].tolist()]
    return [_keyed(key, "record", int(h).to_bytes(8, "big") + label) for h, label in zip(hashes, labels, strict=True)]


def _label(label: Any) -> str:
    """1, 1.0 and True are one label; text stays text."""
    return repr(float(label)) if isinstance(label, bool | int | float) else f"text {label}"


def member_list(dataset: Dataset, people: NDArray[np.str_] | None, key: bytes, model_sha256: str) -> MemberList:
    """The members of a model among the audited records; see `identities` for `people`."""
    members = sorted(set(identities(dataset, people, key)[: dataset.members]))
    return MemberList(
        digests=np.frombuffer(b"".join(members), dtype=np.uint8).reshape(-1, DIGEST_BYTES),
        kind="record" if people is None else "person",
        key_id=_keyed(key, "key", b""),
        model_sha256=model_sha256,
        complete=_complete(dataset),
    )


def _complete(dataset: Dataset) -> bool:
    drawn, of = dataset.sampled.get(Role.MEMBERS, (0, 0))
    missing = dataset.train_size - dataset.members - dataset.removed.get(DUPLICATES, 0)
    return missing <= 0 and drawn >= of  # duplicates must not hide who was not drawn


def save(members: MemberList, path: Path) -> Path:
    """Write a member list as .npz, readable by this user alone; returns the path."""
    with atomic_write(path) as stream:
        np.savez(
            stream,
            digests=members.digests,
            kind=np.array(members.kind),
            key_id=np.frombuffer(members.key_id, dtype=np.uint8),
            model_sha256=np.array(members.model_sha256),
            complete=np.array(members.complete),
        )
    return path


def read(path: Path) -> MemberList:
    """Read what `save` wrote; DataError for anything else."""
    arrays = read_npz(path)
    wrong = DataError(f"{path.name}: not a member list", "it is written at the end of a check with a pseudonym key")
    try:
        digests, kind = arrays["digests"], str(arrays["kind"][()])
        made = MemberList(
            digests=digests,
            kind="person" if kind == "person" else "record",
            key_id=arrays["key_id"].tobytes(),
            model_sha256=str(arrays["model_sha256"][()]),
            complete=bool(arrays["complete"][()]),
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise wrong from error
    if digests.dtype != np.uint8 or digests.ndim != 2 or digests.shape[1] != DIGEST_BYTES or kind not in KINDS:
        raise wrong
    return made


KINDS = ("person", "record")


# --- the difference of two models on the same records -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Nothing:
    """The difference between a model and itself."""

    value: float = 0.0

    def lower(self, alpha: float) -> float:
        """0."""
        return 0.0

    def upper(self, alpha: float) -> float:
        """0."""
        return 0.0


# --- the anchor -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """The approved model, and what is known of it.

    reference  models:/churn/11, or the path of a report
    model      its private snapshot; None where only a report was given
    report     its own report; None if there is none to be trusted
    members    who was in its training set; None if unknown
    notes      what speaks against it, and what could not be had
    approved   whether its own verdict was a pass
    """

    reference: str
    digest: str | None
    model: Candidate | None = None
    report: Report | None = None
    members: MemberList | None = None
    notes: tuple[str, ...] = ()
    approved: bool = True


_PASSES = (VerdictStatus.PASS, VerdictStatus.PASS_WITH_WARNINGS, VerdictStatus.PASS_WITH_WAIVERS)


def anchor(reference: str, registry: Registry, work: Path) -> Anchor:
    """Find the approved model before anything is trained; everything is copied below `work`.

    Raises UsageError (CandidateNotFound among them) for a reference that is none, or a report that was changed.
    """
    if not reference.startswith(("models:", "runs:")) and (Path(reference).is_file() or reference.endswith(".json")):
        return _from_report(reference)
    model = registry.resolve(reference, work / "baseline")
    return _from_registry(model, registry.evidence(model, work / "baseline"))


def _from_report(reference: str) -> Anchor:
    try:
        report = read_report(Path(reference).read_bytes())
    except OSError as error:
        raise UsageError(
            f"{reference}: {error.strerror or error}", "give the report.json that `check` wrote"
        ) from error
    subject = report.subject.resolved_uri or report.subject.uri or reference
    against = _disapproved(report)
    return Anchor(subject, report.subject.digest, report=report, notes=against, approved=not against)


def _from_registry(model: Candidate, stored: StoredEvidence | None) -> Anchor:
    if stored is None:
        none = f"the gate has no evidence about {model.resolved_uri}, so nobody knows whether it was approved"
        return Anchor(model.resolved_uri, model.digest, model, notes=(none,), approved=False)
    notes = list(stored.warnings)
    report: Report | None = None
    if stored.report is not None:
        try:
            report = read_report(stored.report.read_bytes())
        except UsageError as error:
            notes.append(f"the report of {model.resolved_uri} cannot be used: {error.what}")
        else:
            if report.subject.digest != model.digest:
                notes.append(f"the report of {model.resolved_uri} is about another model; it is not used")
                report = None
    against = _disapproved(report) if report is not None else _unapproved(stored.verdict)
    notes += against
    members: MemberList | None = None
    if stored.members is not None:
        try:
            members = read(stored.members)
        except DataError:
            notes.append(f"the member list of {model.resolved_uri} cannot be read")
        else:
            if members.model_sha256 != model.digest:
                notes.append(f"the member list of {model.resolved_uri} is about another model; it is not used")
                members = None
    return Anchor(model.resolved_uri, model.digest, model, report, members, tuple(notes), not against)


def _disapproved(report: Report) -> tuple[str, ...]:
    return _unapproved(report.verdict.status.value, report.verdict.exit_zero)


def _unapproved(verdict: str, exit_zero: bool = False) -> tuple[str, ...]:
    """What keeps a model from being an anchor: a regression is measured from what was approved, not from what was."""
    if verdict in _PASSES and not exit_zero:
        return ()
    return (f"the reference was never approved: its own verdict is {verdict.replace('_', ' ') or 'not known'}",)


# --- the comparison -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The candidate's side of the comparison.

    people   [U] the person column as text; None without one
    target   [R, K] the candidate's answers before any defence
    classes  its class values in the order of its columns
    """

    candidate: Candidate
    dataset: Dataset
    people: NDArray[np.str_] | None
    audit: Audit
    target: Outputs
    classes: Sequence[Any]
    form: Form = AUTO
    runtime: Runtime = HERE


def regression(
    found: Anchor,
    subject: Subject,
    outcomes: Sequence[AttackOutcome],
    attacks: Sequence[str],
    seed: int,
    *,
    work: Path,
    key: bytes | None,
    defences: Defences = NOTHING,
    declared_classes: Sequence[Any] | None = None,
    logs: Path | None = None,
    estimand: Estimand = Estimand.ARTEFACT,
) -> Regression:
    """Differences in balanced accuracy, candidate less anchor, with the reasons for what could not be had.

    outcomes          of the candidate's own evaluation, for a comparison of stored figures
    attacks           ids of the suite; those that need no references are run on both models
    key               of the pseudonyms; see `pseudonym_key`
    declared_classes  data.classes of the configuration, for a model that does not know its own
    Raises what breaks the gate itself (StorageFailed); an anchor that cannot be scored is compared by its report.
    """
    notes = list(found.notes)
    if found.report is not None and found.report.estimand is not estimand:
        notes.append(f"the stored figures of the reference are about its {found.report.estimand.value}: not compared")
        found = replace(found, report=None)
    if found.digest is not None and found.digest == subject.candidate.digest:
        notes.append("the reference is this very model: nothing can have changed")
        names = dict.fromkeys(name_of(o, scope=True) for o in outcomes if isinstance(o, AttackResult))
        same = tuple((name, Nothing()) for name in names)
        return Regression(found.reference, found.digest, True, 0, 0, same, _joined(notes), found.approved)
    try:
        common = _common(found, subject, key, seed, notes)
        answers = _answers(found, subject, common, work, declared_classes, logs)
        found_pairs = _paired(subject, answers, common, attacks, seed, defences, notes)
        if not found_pairs:
            raise _CannotPair("no attack of the suite runs on the answers of both models alone")
    except _CannotPair as error:
        notes.append(error.what)
        return _from_reports(found, outcomes, notes)
    return Regression(
        reference=found.reference,
        reference_digest=found.digest,
        paired=True,
        members=common.members,
        nonmembers=common.nonmembers,
        differences=(*found_pairs, *_unpaired_rest(found, outcomes, [name for name, _ in found_pairs], notes)),
        note=_joined(notes),
        approved=found.approved,
    )


def _unpaired_rest(
    found: Anchor, outcomes: Sequence[AttackOutcome], paired: Sequence[str], notes: list[str]
) -> list[tuple[str, Measurement]]:
    """Attacks that take more than the answers of one model, or more than answers: their stored figures, unpaired."""
    done = {name.partition(",")[0] for name in paired}
    rest = [o for o in outcomes if isinstance(o, AttackResult) and o.id not in done]
    before = {} if found.report is None else stored_accuracies(found.report)
    compared = [(o.id, name, o) for o in rest if (name := name_of(o, scope=True)) in before]
    ids = sorted({id for id, _, _ in compared})
    if ids:
        notes.append(f"{', '.join(ids)} need more than one model's answers: the stored figures are compared, unpaired")
    if missing := sorted({o.id for o in rest} - set(ids)):
        notes.append(_not_compared(missing))
    return [(name, unpaired(o.accuracy, before[name])) for _, name, o in compared]


def _not_compared(ids: Sequence[str]) -> str:
    return f"{', '.join(ids)} could not be compared: no report of the reference has them"


class _CannotPair(Exception):
    """Why the two models cannot be compared on the same people."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def _joined(notes: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(notes))


@dataclass(frozen=True, slots=True, eq=False)
class _Common:
    """Records of people who are members of both models or of neither, in an order that tells nothing.

    rows                 [C] of the R audited records
    members, nonmembers  persons
    """

    rows: Ints
    members: int
    nonmembers: int


def _common(found: Anchor, subject: Subject, key: bytes | None, seed: int, notes: list[str]) -> _Common:
    if found.model is None:
        raise _CannotPair("only a report was given, so the figures of two runs are compared, not the same people")
    listed = found.members
    if listed is None:
        raise _CannotPair("no member list of the reference is known, so the figures of two runs are compared")
    if key is None:
        raise _CannotPair(f"{KEY_VARIABLE} is not set, so the member list of the reference cannot be read")
    if listed.key_id != _keyed(key, "key", b""):
        raise _CannotPair(f"the member list of the reference was made with another {KEY_VARIABLE}")
    if (listed.kind == "person") != (subject.people is not None):
        raise _CannotPair("the member list of the reference and this run do not both name persons")
    if not listed.complete:
        # People who are in it and not on the list would count as strangers, and make the reference look safer.
        raise _CannotPair("the member list of the reference holds a part of its training set only")
    known = {digest.tobytes() for digest in listed.digests}
    inside = np.array([identity in known for identity in identities(subject.dataset, subject.people, key)])
    audit = subject.audit
    rows = np.flatnonzero(audit.member == inside)
    sides = [len(np.unique(audit.persons[rows[audit.member[rows] == side]])) for side in (True, False)]
    if min(sides) < FEWEST_PERSONS:
        raise _CannotPair(
            f"too few people are members of both models or of neither ({sides[0]} and {sides[1]}; "
            f"{FEWEST_PERSONS} each are needed)"
        )
    shuffled = np.random.default_rng([_ORDER_STREAM, seed]).permutation(rows)
    return _Common(shuffled, *sides)


def _answers(
    found: Anchor,
    subject: Subject,
    common: _Common,
    work: Path,
    declared_classes: Sequence[Any] | None,
    logs: Path | None,
) -> Outputs:
    """[C, K] what the anchor answers for the common records, its columns in the order of the candidate's classes."""
    if found.model is None:
        raise _CannotPair("only a report was given")
    try:
        description, scored = examine(
            found.model,
            take(subject.dataset.features, common.rows),
            work,
            form=subject.form,
            logs=logs,
            runtime=subject.runtime,
        )
        outputs = scored.outputs
        own = class_order(description.classes, declared_classes, outputs.values.shape[1])
        places = encode(np.array(list(own), dtype=object), subject.classes)
    except (NotEvaluable, ModelOutputUnusable, DataError, UnsupportedModel, WorkerDied) as error:
        raise _CannotPair(f"the reference cannot be scored on these records: {error.what}") from error
    if sorted(places.tolist()) != list(range(len(subject.classes))):
        raise _CannotPair("the reference knows other classes than the candidate")
    return replace(outputs, values=outputs.values[:, np.argsort(places)])


def _paired(
    subject: Subject,
    answers: Outputs,
    common: _Common,
    attacks: Sequence[str],
    seed: int,
    defences: Defences,
    notes: list[str],
) -> tuple[tuple[str, Measurement], ...]:
    """Per attack and scope, on the people whom both models know alike."""
    audit = _part(subject.audit, common.rows)
    target = replace(subject.target, values=subject.target.values[common.rows])
    there = set(SIGNALS.names())
    able = [a for name in dict.fromkeys(attacks) if alone(a := ATTACKS[name]) and a.requires <= there]
    try:
        first, second = (
            observe(Answers(outputs), audit, [attack.id for attack in able], defences, seed).views[0].seen
            for outputs in (target, answers)
        )
    except (NotEvaluable, DataError, ModelOutputUnusable) as error:
        raise _CannotPair(f"the two models cannot be attacked alike: {error.what}") from error
    return tuple(differences(able, first, second, audit, seed, notes))


def _part(audit: Audit, rows: Ints) -> Audit:
    return Audit(
        member=audit.member[rows],
        labels=audit.labels[rows],
        persons=np.unique(audit.persons[rows], return_inverse=True)[1].astype(np.int64),
        classes=audit.classes,
        groups={name: values[rows] for name, values in audit.groups.items()},
        has_persons=audit.has_persons,
    )


def _from_reports(found: Anchor, outcomes: Sequence[AttackOutcome], notes: list[str]) -> Regression:
    """Unpaired: every attack that both evaluations ran. Without a report there is nothing to compare, and no pass."""
    differences: list[tuple[str, Measurement]] = []
    results = [outcome for outcome in outcomes if isinstance(outcome, AttackResult)]
    if found.report is None:
        notes.append("no report of the reference is known either: nothing was compared")
    else:
        before = stored_accuracies(found.report)
        compared = [o for o in results if name_of(o, scope=True) in before]
        names = [name_of(o, scope=True) for o in compared]
        differences += [(name, unpaired(o.accuracy, before[name])) for name, o in zip(names, compared, strict=True)]
        notes.append("the reference's stored report was compared, unpaired: on other people, with wider bounds")
        if not differences:
            notes.append("no attack ran in both evaluations: nothing was compared")
        elif missing := sorted({o.id for o in results} - {o.id for o in compared}):
            notes.append(_not_compared(missing))
    return Regression(found.reference, found.digest, False, 0, 0, tuple(differences), _joined(notes), found.approved)
