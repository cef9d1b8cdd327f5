"""May this version be released? Its files are hashed afresh, and a signed verdict has to be about exactly these bytes.

Tags are hints: anybody can write them, and copies of a version carry them along. They say where a verdict may be found;
whether it counts is decided by a trusted key's signature, the digest, the policy, the report's bytes and the date; and
by the name it was given to, for that decides by which records: under another name a model may pass by those of others.

The newest signed verdict decides: one that is no pass takes an older pass back, wherever it is found. What takes back
may be more than what lets through: a run that somebody deleted still speaks against a version, and never for it.
Evidence that nobody can look through is refused. What is no longer in the registry at all cannot be found.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from privacy_gate.attestation import FILE, MAX_BYTES, Attested, Finding, Keys, NotVerified, examine, opened
from privacy_gate.datamodel import Candidate, VerdictStatus
from privacy_gate.errors import CandidateNotFound, DataError, UsageError
from privacy_gate.registry import REPORT, SHARED_FOLDER, TAG_PREFIX, Evaluation, Registry
from privacy_gate.registry.snapshot import Alias, Bare, Version, parse
from privacy_gate.sandbox.untrusted import clean

MOST_RUNS = 500  # evaluations of one model that are looked through; anybody who may write runs can make them
MOST_REPORTS = 20  # of them whose report is read: those with the newest signed verdicts
MOST_REPORT = 1 << 26  # bytes of a report that are read


@dataclass(frozen=True, slots=True)
class Approval:
    """A version that may be released, by whom and until when.

    name, version  of the registered model, as the registry calls them
    model_sha256   of its files, hashed for this approval
    signed         what the trusted key has signed
    source         where it was found, for people
    """

    name: str
    version: str
    model_sha256: str
    signed: Attested
    source: str

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A version that may not be released; every reason, for people.

    model_sha256  of its files, hashed for this refusal
    """

    name: str
    version: str
    model_sha256: str
    reasons: tuple[str, ...]

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of an alias; `before` None: it pointed nowhere."""

    name: str
    alias: str
    before: str | None
    after: str


def approval(
    registry: Registry,
    uri: str,
    work: Path,
    keys: Keys,
    *,
    envelope: bytes | None,
    report: bytes | None,
    policies: frozenset[str],
    now: float,
    judged_as: frozenset[str] = frozenset(),
    most_runs: int = MOST_RUNS,
) -> Approval | Refused:
    """Whether the version that `uri` names now may be released.

    work      folder for private copies
    keys      whose signatures count; at least one
    envelope  attestation.json; None: that of the evidence runs of exactly these files
    report    report.json, with the same meaning of None
    policies  digests of the resolved policies that a verdict may be by; at least one
    now       seconds since 1970
    judged_as other registered models by whose records and configuration this one may have been judged
    most_runs evaluations of these files that are looked through; more refuse, for a violation could be among the others
    Of several signed verdicts the newest that holds counts; one that is no pass, not older than it, refuses.
    Raises UsageError for what is no version of a registered model, CandidateNotFound, RegistryUnreachable.
    """
    if not keys:
        raise UsageError("there is no key whose signature would count", "name a file of public keys")
    if not policies:
        raise UsageError("there is no policy that a verdict could be by", "name a policy or a profile")
    address = parse(uri)
    if not isinstance(address, Version | Alias | Bare):
        raise UsageError(
            f"{clean(uri, 200)}: only versions of registered models can be promoted", "write models:/NAME/VERSION"
        )
    candidate = registry.resolve(uri, work)
    if candidate.version is None:  # a registered model has versions; nothing is moved if one does not say which
        raise UsageError(f"{clean(uri, 200)}: has no version", "write models:/NAME/VERSION")

    found = list(itertools.islice(registry.evaluations(candidate), most_runs + 1))
    if len(found) > most_runs:
        return Refused(address.name, candidate.version, candidate.digest, (_too_many(candidate, most_runs),))
    judged = [
        _judged(offer, candidate.digest, policies, now, judged_as | {address.name})
        for offer in _offers(registry, candidate, found, work, keys, envelope, report)
    ]
    reasons = _against(judged, candidate)
    # The name as it was asked for: a candidate's is made fit to be shown, and could then be another model's.
    if reasons:
        return Refused(address.name, candidate.version, candidate.digest, reasons)
    chosen = _newest(judged, lambda j: not j.reasons)
    assert chosen is not None
    assert chosen.signed is not None
    return Approval(address.name, candidate.version, candidate.digest, chosen.signed, chosen.source)


def promote(registry: Registry, approval: Approval, alias: str) -> Moved:
    """Point an alias to the approved version; again is the same as once.

    Raises CandidateNotFound if the version is gone meanwhile, UsageError for an alias that the registry refuses,
    RegistryUnreachable.
    """
    before = registry.alias(approval.name, alias)
    registry.move_alias(approval.name, alias, approval.version)
    return Moved(approval.name, alias, before, approval.version)


# --- what speaks for it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Offer:
    """An attestation that was found, or not.

    signed   what it says; None where no trusted key has signed it
    report   the bytes of its report; None where they are not at hand
    missing  why one of them is None
    given    by whoever promotes, and not found in the registry
    deleted  it is in a run that somebody deleted
    """

    source: str
    signed: Attested | None
    report: bytes | None = None
    missing: tuple[str, ...] = ()
    given: bool = False
    deleted: bool = False


def _too_many(candidate: Candidate, most: int) -> str:
    where = f"tags.`{TAG_PREFIX}model_sha256` = '{candidate.digest}'"
    return (
        f"runs: more than {most} runs say that they are evaluations of these files ({where}), and a violation could be"
        " among those that are not looked at; --most-runs looks at more, `mlflow gc` removes deleted ones for good"
    )


def _offers(
    registry: Registry,
    candidate: Candidate,
    runs: Iterable[Evaluation],
    work: Path,
    keys: Keys,
    envelope: bytes | None,
    report: bytes | None,
) -> Iterator[_Offer]:
    """The given files first, then the evidence runs: the one that the version's tags name, then the newest."""
    hint = candidate.tags.get(TAG_PREFIX + "run_id", "")
    ordered = sorted(runs, key=lambda run: run.run_id != hint)
    found = {run.run_id: _stored(registry, run, work, keys) for run in ordered}
    if envelope is not None:
        signed, why = _opened(envelope, keys)
        if report is None and signed is not None:
            told = f"and none of the {MOST_REPORTS} newest evidence runs has it"
            report = _report_of(signed, (_report(registry, run.run_id, work)[0] for run in ordered[:MOST_REPORTS]))
            why = why if report is not None else (*why, f"report: it was not given, {told}")
        yield _Offer("the given attestation", signed, report, why, given=True)
        report = None
    # Signatures first: a report may be large, and it says nothing against a version that its signature does not.
    newest = sorted((run for run in found if found[run].signed), key=lambda run: _judged_at(found[run]), reverse=True)
    for place, run in enumerate(newest):
        if report is not None:
            found[run] = replace(found[run], report=report)
        elif place < MOST_REPORTS:
            content, missing = _report(registry, run, work)
            found[run] = replace(found[run], report=content, missing=missing)
        else:
            found[run] = replace(found[run], missing=(f"report: not read: {MOST_REPORTS} runs have newer verdicts",))
    yield from found.values()


def _report_of(signed: Attested, reports: Iterable[bytes | None]) -> bytes | None:
    """The bytes that an attestation is about, from whichever run has them."""
    wanted = signed.report_sha256
    there = (report for report in reports if report is not None)
    return next((report for report in there if hashlib.sha256(report).hexdigest() == wanted), None)


def _stored(registry: Registry, run: Evaluation, work: Path, keys: Keys) -> _Offer:
    """The attestation of a run, without its report."""
    source = f"evidence run {clean(run.run_id, 100)}{', since deleted,' if run.deleted else ''}"
    envelope, missing = _read(registry, run.run_id, FILE, "signature", MAX_BYTES, work)
    signed = None
    if envelope is not None:
        signed, missing = _opened(envelope, keys)
    return _Offer(source, signed, missing=missing, deleted=run.deleted)


def _opened(envelope: bytes, keys: Keys) -> tuple[Attested | None, tuple[str, ...]]:
    try:
        return opened(envelope, keys), ()
    except NotVerified as error:
        return None, (f"signature: {error.what}",)


def _report(registry: Registry, run: str, work: Path) -> tuple[bytes | None, tuple[str, ...]]:
    return _read(registry, run, REPORT, "report", MOST_REPORT, work)


def _read(
    registry: Registry, run: str, name: str, label: str, most: int, work: Path
) -> tuple[bytes | None, tuple[str, ...]]:
    """A file of a run, or why there is none."""
    try:
        path = registry.fetch(f"runs:/{run}/{SHARED_FOLDER}/{name}", work)
    except (DataError, CandidateNotFound):
        return None, (f"{label}: the run has no {name}",)
    except UsageError as error:
        return None, (f"{label}: {name} cannot be read: {clean(error.what, 300)}",)
    if path.is_file() and path.stat().st_size <= most:
        return path.read_bytes(), ()
    return None, (f"{label}: {name} is no file, or one of more than {most} bytes",)


# --- what is to be said of it ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Judged:
    """An offer that was examined: `signed` None if no trusted key has signed it; () for `reasons`: it holds."""

    source: str
    signed: Attested | None
    reasons: tuple[str, ...]


def _judged(offer: _Offer, digest: str, policies: frozenset[str], now: float, names: frozenset[str]) -> _Judged:
    signed = offer.signed
    if signed is None:
        return _Judged(offer.source, None, offer.missing)
    found = examine(
        signed,
        model_sha256=digest,
        report=offer.report,
        policy_sha256=signed.policy_sha256 if signed.policy_sha256 in policies else min(policies),
        now=now,
    )
    wrong = tuple(f"{f.name}: {f.detail}" for f in found if f.ok is not True and not _is_said(f, offer, signed))
    other = _of_another(offer, signed, names) if signed.model_sha256 == digest else ()
    gone = (_DELETED,) if offer.deleted else ()
    return _Judged(offer.source, signed, (*wrong, *other, *offer.missing, *gone))


_DELETED = "deleted: somebody deleted the run; restore it, or name the file by --attestation"


def _of_another(offer: _Offer, signed: Attested, names: frozenset[str]) -> tuple[str, ...]:
    """Why a verdict that was only found here is another model's, though the files are the same; () if it is not."""
    try:
        subject = parse(signed.subject)
    except UsageError:
        return ()  # of no registered model: somebody signed it by hand
    if offer.given or not isinstance(subject, Version) or subject.name in names:
        return ()
    told = f"{clean(signed.subject, 200)}, by the records and the configuration of that model"
    return (f"name: it was given to {told}; --judged-as lets it count where they are the right ones",)


def _is_said(finding: Finding, offer: _Offer, signed: Attested) -> bool:
    """Whether another reason says the same: the missing report, or that what is no pass has no last day."""
    if finding.ok is False:
        return False
    if finding.name == "report":
        return any(reason.startswith("report:") for reason in offer.missing)
    return finding.name == "freshness" and signed.result == "FAILED"


def _newest(judged: list[_Judged], which: Callable[[_Judged], bool]) -> _Judged | None:
    return max((j for j in judged if j.signed is not None and which(j)), key=_judged_at, default=None)


def _judged_at(judged: _Judged | _Offer) -> float:
    """Seconds since 1970; what does not say when it was judged was so when it was signed."""
    assert judged.signed is not None
    moment = datetime.fromisoformat(judged.signed.judged_at or judged.signed.signed_at)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


# What a signed verdict on these files, by a policy in force, says against them in spite of: it is no pass, nobody has
# its report, it was given to another name, its day has not come by this clock, its run was deleted.
_NO_EXCUSE = ("result:", "report:", "name:", "freshness:", "deleted:")
_NO_PASS: dict[str, str] = {
    VerdictStatus.FAIL: "found a violation of the same policy",
    VerdictStatus.INCONCLUSIVE: "could not decide it by the same policy",
}


def _takes_back(judged: _Judged) -> str | None:
    """How a signed verdict on these files undoes an older pass; None: it does not. An error says nothing of them."""
    signed = judged.signed
    if signed is None or not judged.reasons:
        return None
    if (said := _NO_PASS.get(signed.status)) is not None:
        return said if all(reason.startswith(_NO_EXCUSE) for reason in judged.reasons) else None
    ended = signed.result != "FAILED" and all(reason.startswith("freshness:") for reason in judged.reasons)
    return "passed it for a time that is over" if ended else None


def _against(judged: list[_Judged], candidate: Candidate) -> tuple[str, ...]:
    """Why the candidate may not be released; () if it may."""
    passed = _newest(judged, lambda j: not j.reasons)
    later = _newest(judged, lambda j: _takes_back(j) is not None)
    if passed is not None:
        if later is None or _judged_at(later) < _judged_at(passed):
            return ()
        return (f"result: {later.source} {_takes_back(later)} after {passed.source} had passed it",)
    tags = _tags(candidate)
    if not judged:
        return (*tags, f"signature: no evaluation of a model with sha256 {candidate.digest} is to be found")
    # What is nearest to an approval tells most: the given file, or the run with the fewest reasons against it.
    given = judged[0].source.startswith("the given")
    best = judged[0] if given else min(judged, key=lambda j: (j.signed is None, len(j.reasons)))
    return (*tags, *(f"{reason} ({best.source})" for reason in best.reasons))


def _tags(candidate: Candidate) -> tuple[str, ...]:
    """What the tags say of another model: they count for nothing, but people believe them."""
    told = candidate.tags.get(TAG_PREFIX + "model_sha256")
    if told is None or told == candidate.digest:
        return ()
    files = f"the files have {candidate.digest}: they were copied or forged, or the files were changed"
    return (f"tags: they are of a model with sha256 {clean(told, 64)}, and {files}",)
