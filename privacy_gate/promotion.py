"""May this version be released? Its files are hashed afresh, and a signed verdict has to be about exactly these bytes.

Tags are hints: anybody can write them, and copies of a version carry them along. They say where a verdict may be found;
whether it counts is decided by a trusted key's signature, the digest, the policy, the report's bytes and the date; and
by the name it was given to, for that decides by which records: under another name a model may pass by those of others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from privacy_gate.attestation import FILE, MAX_BYTES, Attested, Finding, Keys, NotVerified, examine, opened
from privacy_gate.datamodel import Candidate, VerdictStatus
from privacy_gate.errors import CandidateNotFound, DataError, UsageError
from privacy_gate.registry import REPORT, SHARED_FOLDER, TAG_PREFIX, Registry
from privacy_gate.registry.snapshot import Alias, Bare, Version, parse
from privacy_gate.sandbox.untrusted import clean

MOST_RUNS = 20  # evidence runs of one model that are looked through
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
) -> Approval | Refused:
    """Whether the version that `uri` names now may be released.

    work      folder for private copies
    keys      whose signatures count; at least one
    envelope  attestation.json; None: that of the evidence runs of exactly these files
    report    report.json, with the same meaning of None
    policies  digests of the resolved policies that a verdict may be by; at least one
    now       seconds since 1970
    judged_as other registered models by whose records and configuration this one may have been judged
    Of several signed verdicts the newest that holds counts; a violation that was found after it, and signed, refuses.
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

    def judge(offer: _Offer) -> _Judged:
        return _judged(offer, candidate.digest, keys, policies, now, judged_as | {address.name})

    judged = [judge(offer) for offer in _offers(registry, candidate, work, keys, envelope, report)]
    reasons = _against(judged, candidate)
    # The name as it was asked for: a candidate's is made fit to be shown, and could then be another model's.
    if reasons:
        return Refused(address.name, candidate.version, candidate.digest, reasons)
    chosen = _newest(judged)
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
    """A signed verdict, not believed yet. envelope, report: None where there is none, as `missing` says.

    given  by whoever promotes, and not found in the registry
    """

    source: str
    envelope: bytes | None
    report: bytes | None
    missing: tuple[str, ...] = ()
    given: bool = False


def _offers(
    registry: Registry, candidate: Candidate, work: Path, keys: Keys, envelope: bytes | None, report: bytes | None
) -> Iterator[_Offer]:
    """The given files first, then the evidence runs: the one that the version's tags name, then the newest."""
    runs = registry.evaluations(candidate)
    hint = candidate.tags.get(TAG_PREFIX + "run_id", "")
    first = [run for run in runs if run == hint]
    chosen = [*first, *(run for run in runs if run != hint)][:MOST_RUNS]
    stored = [_stored(registry, run, work, wanted=envelope is not None and report is None) for run in chosen]
    if envelope is not None:
        found = report if report is not None else _report_of(envelope, keys, stored)
        missing = () if found is not None else ("report: it was not given, and no evidence run has it",)
        yield _Offer("the given attestation", envelope, found, missing, given=True)
        yield from stored
    elif report is not None:
        for offer in stored:
            yield _Offer(offer.source, offer.envelope, report, _without("report", offer.missing))
    else:
        yield from stored


def _without(name: str, reasons: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(reason for reason in reasons if not reason.startswith(f"{name}:"))


def _report_of(envelope: bytes, keys: Keys, stored: Sequence[_Offer]) -> bytes | None:
    """The bytes that a given attestation is about, from whichever run has them."""
    try:
        wanted = opened(envelope, keys).report_sha256
    except NotVerified:
        return None
    reports = (offer.report for offer in stored if offer.report is not None)
    return next((report for report in reports if hashlib.sha256(report).hexdigest() == wanted), None)


def _stored(registry: Registry, run: str, work: Path, *, wanted: bool) -> _Offer:
    """What a run has; its report only where it can be of use: `wanted`, or with an attestation."""
    missing: list[str] = []

    def read(name: str, label: str, most: int) -> bytes | None:
        try:
            path = registry.fetch(f"runs:/{run}/{SHARED_FOLDER}/{name}", work)
        except (DataError, CandidateNotFound):
            missing.append(f"{label}: the run has no {name}")
        except UsageError as error:
            missing.append(f"{label}: {name} cannot be read: {clean(error.what, 300)}")
        else:
            if path.is_file() and path.stat().st_size <= most:
                return path.read_bytes()
            missing.append(f"{label}: {name} is no file, or one of more than {most} bytes")
        return None

    envelope = read(FILE, "signature", MAX_BYTES)
    report = read(REPORT, "report", MOST_REPORT) if wanted or envelope is not None else None
    return _Offer(f"evidence run {clean(run, 100)}", envelope, report, tuple(missing))


# --- what is to be said of it ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Judged:
    """An offer that was examined: `signed` None if no trusted key has signed it; () for `reasons`: it holds."""

    source: str
    signed: Attested | None
    reasons: tuple[str, ...]


def _judged(
    offer: _Offer, digest: str, keys: Keys, policies: frozenset[str], now: float, names: frozenset[str]
) -> _Judged:
    if offer.envelope is None:
        return _Judged(offer.source, None, offer.missing)
    try:
        signed = opened(offer.envelope, keys)
    except NotVerified as error:
        return _Judged(offer.source, None, (f"signature: {error.what}", *offer.missing))
    found = examine(
        signed,
        model_sha256=digest,
        report=offer.report,
        policy_sha256=signed.policy_sha256 if signed.policy_sha256 in policies else min(policies),
        now=now,
    )
    wrong = tuple(f"{f.name}: {f.detail}" for f in found if f.ok is not True and not _is_said(f, offer, signed))
    other = _of_another(offer, signed, names) if signed.model_sha256 == digest else ()
    return _Judged(offer.source, signed, (*wrong, *other, *offer.missing))


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


def _newest(judged: list[_Judged], which: Callable[[_Judged], bool] = lambda j: not j.reasons) -> _Judged | None:
    return max((j for j in judged if j.signed is not None and which(j)), key=_judged_at, default=None)


def _judged_at(judged: _Judged) -> float:
    """Seconds since 1970; what does not say when it was judged was so when it was signed."""
    assert judged.signed is not None
    moment = datetime.fromisoformat(judged.signed.judged_at or judged.signed.signed_at)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_violation(judged: _Judged) -> bool:
    """A signed verdict on these files that a policy in force is violated; it needs no report to be believed."""
    return (
        judged.signed is not None
        and judged.signed.status == VerdictStatus.FAIL
        and all(reason.startswith(("result:", "report:", "name:")) for reason in judged.reasons)
    )


def _against(judged: list[_Judged], candidate: Candidate) -> tuple[str, ...]:
    """Why the candidate may not be released; () if it may."""
    passed, violated = _newest(judged), _newest(judged, _is_violation)
    if passed is not None:
        if violated is None or _judged_at(violated) < _judged_at(passed):
            return ()
        return (f"result: {violated.source} found a violation of the same policy after {passed.source} had passed it",)
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
