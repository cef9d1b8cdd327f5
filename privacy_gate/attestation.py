"""A finished report, signed: an in-toto Statement (test-result v0.1) about the model's digest in a DSSE envelope.

What a tag of the registry says anybody may have written. This file says who stands behind a verdict, and about which
files, policy, attacks and report. Signing is by ed25519; a signature is believed only by keys that the reader names.

The statement: subject = the model, by its digest. configuration = policy, attack-suite, report.json and report.html
(where it is there), each by digest; the verdict stands in the annotations of report.json. Test names are rule ids.
A file is read strictly: compact or not, but no key twice, no other type, no other alphabet, one signature.

Sources: in-toto attestation framework v1 (Statement, ResourceDescriptor, test-result), DSSE protocol 1.0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from privacy_gate.datamodel import RuleStatus, VerdictStatus
from privacy_gate.errors import ExitCode, GateError, StorageFailed, UsageError
from privacy_gate.reports import ATTESTATION, CATALOG, document
from privacy_gate.reports.document import Report, Rule
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.storage import atomic_write, sha256_of_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FILE = ATTESTATION
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
MAX_BYTES = 1 << 18
"""Of an envelope, and of a file of keys."""
SIGNING_PASSWORD = "PRIVACY_GATE_SIGNING_PASSWORD"

POLICY, SUITE, REPORT, PAGE = "policy", "attack-suite", "report.json", "report.html"
_PREFIX = "privacy_gate_"  # of annotations: names that nobody else uses

Result = Literal["PASSED", "WARNED", "FAILED"]
_RESULTS: dict[str, Result] = {
    VerdictStatus.PASS: "PASSED",
    VerdictStatus.PASS_WITH_WARNINGS: "PASSED",
    VerdictStatus.PASS_WITH_WAIVERS: "WARNED",
}


class NotVerified(GateError):
    """An attestation that proves nothing: malformed, of another type, or not signed by a trusted key."""

    exit_code = ExitCode.VIOLATED


@dataclass(frozen=True, slots=True)
class Attested:
    """What a trusted key has signed.

    subject       the model's URI, for people; the digest is what counts
    model_sha256  of the model's files
    result        PASSED: exit code 0, without waivers; WARNED: with waivers; FAILED: everything else
    status        of the verdict, as in report.json; exit_code: of the process, --exit-zero and all
    suite_sha256  see `suite_digest`
    report_sha256 of report.json's bytes; html_sha256: of report.html's; None: there was none
    valid_until   ISO date, the last day of a pass; None: no pass
    judged_at     ISO time at which the check ended; None: the report does not say
    signed_at     ISO time in UTC, by the clock of who signed
    key_id        sha256 of the public key's DER
    """

    subject: str
    model_sha256: str
    result: Result
    status: str
    exit_code: int
    policy_sha256: str
    suite_sha256: str
    report_sha256: str
    html_sha256: str | None
    valid_until: str | None
    judged_at: str | None
    signed_at: str
    key_id: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of an attestation: `ok` None says that it was not done."""

    name: str
    ok: bool | None
    detail: str


# --- keys -----------------------------------------------------------------------------------------------------------

Keys = Mapping[str, "Ed25519PublicKey"]
"""Key id -> public key: those that are trusted."""

_GENERATE = "privacy-gate attest --new-key FILE makes a pair"


def new_key(password: str | None = None) -> tuple[bytes, bytes]:
    """A new ed25519 pair as PEM: the private key (PKCS 8, encrypted if there is a password), the public key."""
    serialization = _cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key.private_bytes(pem, pkcs8, locked), public


def private_key(pem: bytes | str, password: str | None = None) -> Ed25519PrivateKey:
    """The signing key; `password` opens an encrypted one. Raises UsageError, which never quotes the key."""
    serialization = _cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    data = _ascii(pem)
    if b"PUBLIC KEY-----" in data:
        raise UsageError("the signing key is a public key", "give the private one; the public one is for `verify`")
    encrypted = False
    try:
        try:
            key = serialization.load_pem_private_key(data, None)
        except TypeError:  # so it says that a password is missing
            encrypted = True
            if not password:
                raise UsageError("the signing key is encrypted", f"set {SIGNING_PASSWORD}") from None
            key = serialization.load_pem_private_key(data, password.encode())
    except _broken() as error:
        what = "the signing key cannot be decrypted" if encrypted else "the signing key is not a private key in PEM"
        mend = f"check {SIGNING_PASSWORD}" if encrypted else _GENERATE
        raise UsageError(f"{what} ({type(error).__name__})", mend) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"the signing key is {_kind(key)}, not ed25519", _GENERATE)
    return key


def public_keys(pem: bytes | str) -> dict[str, Ed25519PublicKey]:
    """The trusted keys of a PEM file, one or several, by key id. Raises UsageError for anything else in it."""
    serialization = _cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    data = _ascii(pem)
    blocks = list(_BLOCK.finditer(data))
    if not blocks or len(blocks) != data.count(b"-----BEGIN ") or len(blocks) != data.count(b"-----END "):
        raise UsageError("not a file of public keys in PEM, or one that is cut off", _GIVE_PUBLIC)
    keys = {}
    for number, block in enumerate(blocks, start=1):
        label = block[1].decode()
        if label != "PUBLIC KEY":
            raise UsageError(f"block {number} is a {label.lower()}, not a public key", _GIVE_PUBLIC)
        try:
            key = serialization.load_pem_public_key(block[0])
        except _broken() as error:
            raise UsageError(f"public key {number} cannot be read ({type(error).__name__})", _GIVE_PUBLIC) from None
        if not isinstance(key, Ed25519PublicKey):
            raise UsageError(f"public key {number} is {_kind(key)}, not ed25519", _GIVE_PUBLIC)
        keys[key_id(key)] = key
    return keys


def key_id(key: Ed25519PublicKey) -> str:
    """sha256 of the key's DER (SubjectPublicKeyInfo), hex."""
    serialization = _cryptography()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def read_private(path: Path) -> bytes:
    """The content of a file that holds a private key; UsageError if others than its owner can get at it."""
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            # Of a file that is given to this process through a group, as orchestrators do, the group may read.
            shared = 0o077 if found.st_uid == os.geteuid() else 0o037
            content = stream.read(MAX_BYTES + 1)
            public = b"PUBLIC KEY-----" in content and b"PRIVATE KEY-----" not in content  # `private_key` says so
            if stat.S_IMODE(found.st_mode) & shared and not public:
                mode = stat.S_IMODE(found.st_mode)
                raise UsageError(f"{path}: a signing key that others can read or change (mode {mode:04o})", _LOCK)
            return content
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", "name a file that this user may read") from error


_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\r?\n.*?-----END \1-----", re.DOTALL)
_GIVE_PUBLIC = "give the .pub file that `attest --new-key` wrote, or several of them in one file"
_LOCK = "chmod 600 it; if it was readable for long, make a new one"


def _ascii(pem: bytes | str) -> bytes:
    data = pem.encode("utf-8", "surrogateescape") if isinstance(pem, str) else pem
    if len(data) > MAX_BYTES:
        raise UsageError(f"a file of keys with more than {MAX_BYTES} bytes", _GENERATE)
    return data.strip() + b"\n"


def _cryptography() -> Any:
    """cryptography's serialization; imported late, for it belongs to an extra."""
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise UsageError("signatures need the package cryptography", "pip install 'privacy-gate[server]'") from error
    return serialization


def _broken() -> tuple[type[Exception], ...]:
    from cryptography.exceptions import UnsupportedAlgorithm

    return ValueError, TypeError, UnsupportedAlgorithm


def _kind(key: object) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return "an RSA key"
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return "an elliptic curve key"
    return f"of type {type(key).__name__}"


# --- writing --------------------------------------------------------------------------------------------------------


def attest(folder: Path, key: Ed25519PrivateKey, now: float) -> Path:
    """Write the attestation of `folder`/report.json beside it; raises what `signed` raises, and StorageFailed."""
    envelope = signed(folder, key, now)
    path = folder / FILE
    with atomic_write(path) as stream:
        stream.write(envelope)
    return path


def signed(folder: Path, key: Ed25519PrivateKey, now: float) -> bytes:
    """The envelope about the report in `folder`: the same bytes for the same report, key and time (seconds since 1970).

    Raises UsageError for a report that was changed, is not of a model, or contradicts itself, and for a report.html
    that says something else.
    """
    raw = _read(folder / REPORT)
    page = _read(folder / PAGE) if (folder / PAGE).is_file() else None
    payload = _canonical(_statement(_checked(raw, page), raw, page, now))
    id = key_id(key.public_key())
    try:
        _attested(payload, id)  # nothing is signed that a reader would refuse
    except NotVerified as error:
        raise UsageError(f"{folder / REPORT}: cannot be attested: {error.what}", _AGAIN) from error
    signature = base64.b64encode(key.sign(pae(PAYLOAD_TYPE, payload))).decode()
    return _canonical(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": id, "sig": signature}],
        }
    )


_AGAIN = "run the check again, and attest the report that it writes"


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding of type and payload."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def result_of(status: str, exit_code: int) -> Result:
    """The predicate's word for a verdict: a violation behind --exit-zero stays FAILED, and so does what is open."""
    return _RESULTS.get(status, "FAILED") if exit_code == ExitCode.PASS else "FAILED"


def suite_digest(report: Report) -> str:
    """sha256 of canonical JSON: the suite's name, name and version of the tool, and every attack that it had to try.

    {"attacks": [[id, threat model, status], ...] sorted, each once, "suite": name or null, "tool": [name, version]}
    Attacks that do not apply to the model are among them: they are skipped.
    """
    attacks = sorted({(attack.id, str(attack.threat_model), attack.status) for attack in report.attacks})
    return sha256_of_json(
        {
            "attacks": [list(attack) for attack in attacks],
            "suite": report.suite,
            "tool": [report.tool.name, report.tool.version],
        }
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such report", "give the folder that `check` wrote") from error
    except OSError as error:
        raise StorageFailed(f"{path}: {error.strerror or error}", "make it readable for this user") from error


def _checked(raw: bytes, page: bytes | None) -> Report:
    """The report, if it may be signed."""
    try:
        _strict_json(raw)
    except ValueError as error:
        raise UsageError(f"not a report: {error}", _AGAIN) from error
    report = document.read(raw)
    if report.subject.digest is None or not report.subject.resolved_uri:
        raise UsageError(
            "the report is not about a model whose files are known: there is nothing that could be attested",
            "attest the report of `check MODEL`; predictions alone (--observations) have no digest",
        )
    if report.policy is None:
        raise UsageError("the report names no policy", _AGAIN)
    status = report.verdict.status
    passes = status in _RESULTS
    blocked = [rule.id for rule in report.rules if _outcome(rule) == "failed"]
    if passes and (report.verdict.exit_code != ExitCode.PASS or report.verdict.valid_until is None or blocked):
        raise UsageError(
            f"the report contradicts itself: it says {status}, but not with all that belongs to it", _AGAIN
        )
    waived = any(rule.status is RuleStatus.WAIVED for rule in report.rules)
    if passes and waived and status is not VerdictStatus.PASS_WITH_WAIVERS:
        raise UsageError(f"the report contradicts itself: it says {status}, and has waived rules", _AGAIN)
    if page is not None and page != CATALOG["html"].render(report).encode():
        raise UsageError(
            f"{PAGE} is not what this version makes of {REPORT}: it was changed, or is of another run",
            "privacy-gate report DIR/report.json renders it again; or remove it",
        )
    return report


def _outcome(rule: Rule) -> Literal["passed", "warned", "failed"] | None:
    """Of one rule, in the predicate's three words; None: it does not apply, and is not listed."""
    if rule.status is RuleStatus.NOT_APPLICABLE:
        return None
    if rule.status is RuleStatus.PASS:
        return "passed"
    return "warned" if rule.status is RuleStatus.WAIVED or rule.action == "warn" else "failed"


def _statement(report: Report, raw: bytes, page: bytes | None, now: float) -> dict[str, Any]:
    assert report.policy is not None
    verdict = report.verdict
    said = {
        "status": str(verdict.status),
        "exit_code": verdict.exit_code,
        "valid_until": verdict.valid_until,
        "judged_at": report.run.finished_at,
        "signed_at": datetime.fromtimestamp(int(now), UTC).isoformat(),
    }
    tool = f"{report.tool.name} {report.tool.version}"
    about = {"policy": report.policy.name, "profile": report.policy.profile}
    configuration = [
        _descriptor(POLICY, report.policy.digest, about),
        _descriptor(SUITE, suite_digest(report), {"suite": report.suite, "tool": tool}),
        {**_descriptor(REPORT, hashlib.sha256(raw).hexdigest(), said), "mediaType": "application/json"},
    ]
    if page is not None:
        configuration.append({**_descriptor(PAGE, hashlib.sha256(page).hexdigest(), {}), "mediaType": "text/html"})
    tests = {
        f"{outcome}Tests": [rule.id for rule in report.rules if _outcome(rule) == outcome]
        for outcome in ("passed", "warned", "failed")
    }
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": report.subject.resolved_uri, "digest": {"sha256": report.subject.digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"result": result_of(verdict.status, verdict.exit_code), "configuration": configuration, **tests},
    }


def _descriptor(name: str, sha256: str, annotations: Mapping[str, Any]) -> dict[str, Any]:
    named = {_PREFIX + key: value for key, value in annotations.items()}
    return {"name": name, "digest": {"sha256": sha256}, **({"annotations": named} if named else {})}


def _canonical(value: Any) -> bytes:
    """One way to write it: keys sorted, no spaces, ASCII, no newline at the end."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


# --- reading --------------------------------------------------------------------------------------------------------


def opened(envelope: bytes, keys: Keys) -> Attested:
    """What the envelope says, its signature verified by one of `keys`; NotVerified for every other file."""
    if len(envelope) > MAX_BYTES:
        raise NotVerified(f"more than {MAX_BYTES} bytes are no attestation", _GIVE)
    found = _parsed(_Envelope, envelope, "an envelope")
    if len(found.signatures) != 1:
        raise NotVerified(f"the envelope has {len(found.signatures)} signatures, not one", _GIVE)
    signature = found.signatures[0]
    key = keys.get(signature.keyid)
    if key is None:
        raise NotVerified(
            f"signed by a key that is not trusted: {clean(signature.keyid, 64)}",
            f"trusted: {', '.join(sorted(keys)) or 'none'}",
        )
    payload = _decoded(found.payload, "payload")
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(_decoded(signature.sig, "signature"), pae(PAYLOAD_TYPE, payload))
    except InvalidSignature:
        raise NotVerified("the signature is not of this content: it was changed", _FORGED) from None
    return _attested(payload, signature.keyid)


_GIVE = "give the attestation.json that `attest` wrote"
_FORGED = "fetch the attestation again from where it was made; do not release on this one"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _is_day(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        raise ValueError("not an ISO date")
    date.fromisoformat(text)
    return text


def _day_of(moment: str) -> date:
    """UTC day of an ISO time; one without a zone is UTC's. Raises ValueError."""
    time = datetime.fromisoformat(moment)
    try:
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).date()
    except OverflowError as error:
        raise ValueError("not a time") from error


def _is_time(text: str) -> str:
    _day_of(text)
    return text


class _Signature(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    keyid: Annotated[str, Field(max_length=256)]
    sig: Annotated[str, Field(max_length=1024)]


class _Envelope(BaseModel):
    """DSSE's JSON envelope; nothing in it but the signed bytes is signed, so nothing else is let in."""

    model_config = ConfigDict(extra="forbid", strict=True)

    payload: str
    payload_type: Annotated[Literal["application/vnd.in-toto+json"], Field(alias="payloadType")]
    signatures: list[_Signature]


class _Signed(BaseModel):
    """Base of what is signed: unknown fields are ignored, as the framework's parsing rules want it."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Digest(_Signed):
    sha256: Sha256


class _Subject(_Signed):
    name: str
    digest: _Digest


class _Descriptor(_Signed):
    name: str = ""
    digest: _Digest | None = None
    annotations: dict[str, JsonValue] = {}


class _Predicate(_Signed):
    result: Result
    configuration: list[_Descriptor]
    failed_tests: list[str] = Field(alias="failedTests")


class _Statement(_Signed):
    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[list[_Subject], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["https://in-toto.io/attestation/test-result/v0.1"], Field(alias="predicateType")]
    predicate: _Predicate


class _Said(_Signed):
    """Of the verdict, in the annotations of report.json."""

    status: Literal["pass", "pass_with_warnings", "pass_with_waivers", "fail", "inconclusive", "error"]
    exit_code: Annotated[int, Field(ge=0, le=255)]
    valid_until: Annotated[str, AfterValidator(_is_day)] | None
    judged_at: Annotated[str, AfterValidator(_is_time)] | None
    signed_at: Annotated[str, AfterValidator(_is_time)]


def _attested(payload: bytes, key: str) -> Attested:
    """What a statement says; NotVerified if it is of another type, incomplete, or contradicts itself."""
    statement = _parsed(_Statement, payload, "a statement about a test result")
    predicate = statement.predicate
    said = _validated(_Said, _verdict_of(predicate), "a verdict")
    result = result_of(said.status, said.exit_code)
    if predicate.result != result:
        raise NotVerified(f"it says {predicate.result}, and its verdict is {said.status}", _FORGED)
    if result != "FAILED" and (predicate.failed_tests or said.valid_until is None):
        raise NotVerified(f"it says {result}, and has failed rules or no last day", _FORGED)
    return Attested(
        subject=statement.subject[0].name,
        model_sha256=statement.subject[0].digest.sha256,
        result=result,
        status=said.status,
        exit_code=said.exit_code,
        policy_sha256=_digest_of(predicate, POLICY),
        suite_sha256=_digest_of(predicate, SUITE),
        report_sha256=_digest_of(predicate, REPORT),
        html_sha256=_digest_of(predicate, PAGE) if _named(predicate, PAGE) else None,
        valid_until=said.valid_until if result != "FAILED" else None,
        judged_at=said.judged_at,
        signed_at=said.signed_at,
        key_id=key,
    )


def _named(predicate: _Predicate, name: str) -> list[_Descriptor]:
    return [descriptor for descriptor in predicate.configuration if descriptor.name == name]


def _digest_of(predicate: _Predicate, name: str) -> str:
    found = _named(predicate, name)
    if len(found) != 1 or found[0].digest is None:
        raise NotVerified(f"it does not name one digest of {name}", _GIVE)
    return found[0].digest.sha256


def _verdict_of(predicate: _Predicate) -> dict[str, JsonValue]:
    annotations = {k: v for d in _named(predicate, REPORT) for k, v in d.annotations.items()}
    return {k.removeprefix(_PREFIX): v for k, v in annotations.items() if k.startswith(_PREFIX)}


def _decoded(text: str, what: str) -> bytes:
    """Base64, the standard alphabet, padded, and the only text for these bytes."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise NotVerified(f"the {what} is not base64", _GIVE) from None
    if base64.b64encode(data).decode() != text:
        raise NotVerified(f"the {what} is not base64 in its one canonical form", _GIVE)
    return data


_M = TypeVar("_M", bound=BaseModel)


def _parsed(model: type[_M], data: bytes, what: str) -> _M:
    try:
        content = _strict_json(data)
    except ValueError as error:
        raise NotVerified(f"not {what}: {error}", _GIVE) from None
    return _validated(model, content, what)


def _validated(model: type[_M], content: object, what: str) -> _M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = clean(".".join(map(str, first["loc"])) or "the file", 80)
        raise NotVerified(f"not {what}: {where}: {clean(first['msg'], 200)}", _GIVE) from None


def _strict_json(data: bytes) -> Any:
    """JSON in UTF-8 in which no key stands twice; ValueError, which quotes nothing, for everything else."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at character {error.pos}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key that stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError("a number that is not finite")


# --- checking -------------------------------------------------------------------------------------------------------


def examine(
    attested: Attested,
    *,
    model_sha256: str | None,
    report: bytes | None,
    policy_sha256: str | None,
    now: float,
    html: bytes | None = None,
) -> tuple[Finding, ...]:
    """Every check of a verified attestation against what is at hand: None was not given, so it is not checked.

    model_sha256   digest of the model's files, hashed afresh
    report, html   bytes of report.json and report.html
    policy_sha256  digest of the resolved policy that the verdict has to be by
    now            seconds since 1970
    Findings: signature, subject, report, report.html (only where html is given), policy, freshness, result.
    """
    page = () if html is None else (_page(attested, html),)
    return (
        Finding("signature", True, f"by key {attested.key_id}"),
        _compared(
            "subject", attested.model_sha256, model_sha256, attested.subject, "of the model's files", "the model"
        ),
        _report(attested, report),
        *page,
        _compared("policy", attested.policy_sha256, policy_sha256, "", "of the policy in force", "the policy"),
        _freshness(attested, datetime.fromtimestamp(now, UTC).date()),
        _result(attested),
    )


def _compared(name: str, signed: str, found: str | None, subject: str, what: str, given: str) -> Finding:
    about = ", ".join(part for part in (clean(subject, 200), f"sha256 {signed}") if part)
    if found is None:
        return Finding(name, None, f"{about}; {given} was not given")
    if found != signed:
        return Finding(name, False, f"{about}, but that {what} is {clean(found, 64)}")
    return Finding(name, True, about)


def _report(attested: Attested, raw: bytes | None) -> Finding:
    found = None if raw is None else hashlib.sha256(raw).hexdigest()
    bytes_ = _compared("report", attested.report_sha256, found, REPORT, "of the file", "the report")
    if raw is None or not bytes_.ok:
        return bytes_
    try:  # these bytes were signed: that they say the same is what the signer has to answer for
        report = document.read(raw)
    except UsageError as error:
        return Finding("report", False, f"{REPORT} is what was signed, but no report: {clean(error.what, 200)}")
    same = (
        report.verdict.status == attested.status
        and report.verdict.exit_code == attested.exit_code
        and report.subject.digest == attested.model_sha256
        and report.policy is not None
        and report.policy.digest == attested.policy_sha256
        and (attested.result == "FAILED" or report.verdict.valid_until == attested.valid_until)
    )
    return bytes_ if same else Finding("report", False, f"{REPORT} is what was signed, but says something else")


def _page(attested: Attested, html: bytes) -> Finding:
    if attested.html_sha256 is None:
        return Finding(PAGE, None, f"{PAGE} is not part of what was signed")
    found = hashlib.sha256(html).hexdigest()
    return _compared(PAGE, attested.html_sha256, found, PAGE, "of the file", "the page")


def _freshness(attested: Attested, today: date) -> Finding:
    """By days in UTC: neither before the verdict nor after its last day."""
    if attested.judged_at is not None and _day_of(attested.judged_at) > today:
        return Finding("freshness", False, f"judged at {attested.judged_at}, which is after {today}")
    if attested.valid_until is None:
        return Finding("freshness", None, "only a pass has a last day")
    if today.isoformat() > attested.valid_until:
        return Finding("freshness", False, f"valid until {attested.valid_until}, which is before {today}")
    return Finding("freshness", True, f"valid until {attested.valid_until}")


def _result(attested: Attested) -> Finding:
    return Finding("result", attested.result != "FAILED", f"{attested.result}: {attested.status.replace('_', ' ')}")
