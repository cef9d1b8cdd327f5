"""Signed verdicts: what is signed, by other implementations of the same formats, and every way of changing it."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult as ResultMessage
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from privacy_gate import attestation
from privacy_gate.attestation import (
    NotVerified,
    attest,
    examine,
    key_id,
    new_key,
    opened,
    pae,
    private_key,
    public_keys,
    read_private,
    result_of,
    signed,
    suite_digest,
)
from privacy_gate.datamodel import RuleStatus, VerdictStatus
from privacy_gate.errors import ExitCode, GateError, StorageFailed, UsageError
from privacy_gate.reports import write
from privacy_gate.reports.document import Report, seal
from tests.reports.samples import SAMPLES

# RFC 8032, section 7.1, test 1
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
DER = bytes.fromhex("302a300506032b6570032100") + PUBLIC  # RFC 8410, section 4
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
ID = hashlib.sha256(DER).hexdigest()
KEYS = {ID: KEY.public_key()}
PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
PRIVATE_PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
FEW = settings(max_examples=60, deadline=None, derandomize=True)
NOW = datetime(2026, 9, 2, 12, tzinfo=UTC).timestamp()  # the samples were judged the day before


@functools.cache
def sample(name: str) -> Report:
    return SAMPLES[name]()


def with_rules(report: Report, verdict: dict[str, object], **rules: dict[str, object]) -> Report:
    """The report with another verdict, and other rules, sealed."""
    return seal(
        report.model_copy(
            update={
                "verdict": report.verdict.model_copy(update=verdict),
                "rules": tuple(rule.model_copy(update=rules.get(rule.id, {})) for rule in report.rules),
            }
        )
    )


def waived() -> Report:
    verdict = {"status": VerdictStatus.PASS_WITH_WAIVERS}
    return with_rules(sample("pass"), verdict, PG202={"status": RuleStatus.WAIVED, "waiver": "W-1"})


def warned() -> Report:
    verdict = {"status": VerdictStatus.PASS_WITH_WARNINGS}
    return with_rules(sample("pass"), verdict, PG202={"status": RuleStatus.INCONCLUSIVE, "action": "warn"})


def excused() -> Report:
    """--exit-zero: the process ended with 0, the policy is violated all the same."""
    return with_rules(sample("fail"), {"exit_code": 0, "exit_zero": True})


def written(report: Report, folder: Path, formats: tuple[str, ...] = ("html",)) -> Path:
    write(report, folder, formats)
    return folder


def statement(envelope: bytes) -> dict:
    return json.loads(base64.b64decode(json.loads(envelope)["payload"]))


def enveloped(payload: bytes | object, key: Ed25519PrivateKey = KEY) -> bytes:
    """An envelope around anything, signed as it should be."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return json.dumps(
        {
            "payload": base64.b64encode(data).decode(),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [
                {
                    "keyid": key_id(key.public_key()),
                    "sig": base64.b64encode(key.sign(pae("application/vnd.in-toto+json", data))).decode(),
                }
            ],
        }
    ).encode()


@pytest.fixture(scope="module")
def passing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a passing report and its attestation; nobody writes to it."""
    folder = written(sample("pass"), tmp_path_factory.mktemp("pass"))
    attest(folder, KEY, NOW)
    return folder


@pytest.fixture(scope="module")
def envelope(passing: Path) -> bytes:
    return (passing / attestation.FILE).read_bytes()


# --- what is signed ---


def test_the_encoding_that_is_signed_is_dsse_s():
    # The example of DSSE's protocol.md, version 1.0.0.
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"\x00 1 ") == b"DSSEv1 2 \xc3\xa9 4 \x00 1 "
    assert pae("", b"") == b"DSSEv1 0  0 "


def test_the_envelope_by_hand(passing, envelope):
    """Every byte of it, put together once more from the report's own fields."""
    raw, page = (passing / "report.json").read_bytes(), (passing / "report.html").read_bytes()
    report = json.loads(raw)
    attacks = sorted({(a["id"], a["threat_model"], a["status"]) for a in report["attacks"]})
    suite = {
        "attacks": [list(a) for a in attacks],
        "suite": "full",
        "tool": ["privacy-gate", report["tool"]["version"]],
    }
    assert len(attacks) > 5

    def sha(data: bytes) -> dict[str, str]:
        return {"sha256": hashlib.sha256(data).hexdigest()}

    expected = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "models:/adult-regression/12", "digest": {"sha256": report["subject"]["digest"]}}],
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "predicate": {
            "result": "PASSED",
            "configuration": [
                {
                    "name": "policy",
                    "digest": {"sha256": report["policy"]["digest"]},
                    "annotations": {
                        "privacy_gate_policy": report["policy"]["name"],
                        "privacy_gate_profile": report["policy"]["profile"],
                    },
                },
                {
                    "name": "attack-suite",
                    "digest": sha(json.dumps(suite, sort_keys=True, separators=(",", ":")).encode()),
                    "annotations": {
                        "privacy_gate_suite": "full",
                        "privacy_gate_tool": f"privacy-gate {report['tool']['version']}",
                    },
                },
                {
                    "name": "report.json",
                    "digest": sha(raw),
                    "mediaType": "application/json",
                    "annotations": {
                        "privacy_gate_status": "pass",
                        "privacy_gate_exit_code": 0,
                        "privacy_gate_valid_until": "2026-11-30",
                        "privacy_gate_judged_at": "2026-09-01T09:19:48Z",
                        "privacy_gate_signed_at": "2026-09-02T12:00:00+00:00",
                    },
                },
                {"name": "report.html", "digest": sha(page), "mediaType": "text/html"},
            ],
            "passedTests": [r["id"] for r in report["rules"] if r["status"] == "pass"],
            "warnedTests": [],
            "failedTests": [],
        },
    }
    payload = json.dumps(expected, sort_keys=True, separators=(",", ":")).encode()
    kind = b"application/vnd.in-toto+json"
    message = b"DSSEv1 " + str(len(kind)).encode() + b" " + kind + b" " + str(len(payload)).encode() + b" " + payload
    assert json.loads(envelope) == {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind.decode(),
        "signatures": [{"keyid": ID, "sig": base64.b64encode(KEY.sign(message)).decode()}],
    }
    assert b" " not in envelope
    assert b"\n" not in envelope


def test_the_same_report_key_and_time_give_the_same_bytes(passing, envelope, tmp_path):
    assert signed(passing, KEY, NOW) == envelope
    assert signed(passing, KEY, NOW + 0.9) == envelope  # to the second
    assert signed(passing, KEY, NOW + 1) != envelope
    again = attest(written(sample("pass"), tmp_path), KEY, NOW)
    assert again == tmp_path / "attestation.json"
    assert again.read_bytes() == envelope
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attestation.json", "report.html", "report.json"]


CASES = {
    "pass": ("PASSED", "pass"),
    "warned": ("PASSED", "pass_with_warnings"),
    "waived": ("WARNED", "pass_with_waivers"),
    "fail": ("FAILED", "fail"),
    "excused": ("FAILED", "fail"),
    "inconclusive": ("FAILED", "inconclusive"),
}
REPORTS = {**{name: functools.partial(sample, name) for name in SAMPLES}, "warned": warned, "waived": waived}
REPORTS["excused"] = excused


@pytest.mark.parametrize("name", CASES)
def test_one_verdict_in_report_and_attestation(name, tmp_path):
    result, status = CASES[name]
    report = REPORTS[name]()
    folder = written(report, tmp_path, ())
    attested = opened(signed(folder, KEY, NOW), KEYS)
    assert (attested.result, attested.status) == (result, status)
    assert attested.status == json.loads((folder / "report.json").read_bytes())["verdict"]["status"]
    assert attested.exit_code == report.verdict.exit_code
    assert attested.valid_until == report.verdict.valid_until
    assert attested.html_sha256 is None
    assert (attested.subject, attested.model_sha256) == (report.subject.resolved_uri, report.subject.digest)
    assert attested.policy_sha256 == report.policy.digest
    assert attested.suite_sha256 == suite_digest(report)
    assert attested.key_id == ID
    found = {f.name: f.ok for f in examine(attested, **nothing(now=NOW))}
    assert found["result"] is (result != "FAILED")


def nothing(**given):
    return {"model_sha256": None, "report": None, "policy_sha256": None, "now": NOW, **given}


@pytest.mark.parametrize(
    ("status", "code", "result"),
    [
        ("pass", 0, "PASSED"),
        ("pass_with_warnings", 0, "PASSED"),
        ("pass_with_waivers", 0, "WARNED"),
        *[("fail", code, "FAILED") for code in (0, 1)],
        *[("inconclusive", code, "FAILED") for code in (0, 4)],
        *[("error", code, "FAILED") for code in (0, 3)],
        *[("pass", code, "FAILED") for code in (1, 2, 3, 4, 130)],
        ("PASS", 0, "FAILED"),
        ("", 0, "FAILED"),
    ],
)
def test_only_a_pass_with_code_0_is_one(status, code, result):
    assert result_of(status, code) == result


def test_rules_become_tests(tmp_path):
    report = sample("inconclusive")
    rules = {rule.id: rule for rule in report.rules}
    assert rules["PG501"].status == "error"
    assert rules["PG203"].status == "not_applicable"
    report = with_rules(
        report,
        {},
        PG101={"status": RuleStatus.FAIL, "action": "warn"},
        PG102={"status": RuleStatus.WAIVED},
        PG103={"status": RuleStatus.INCONCLUSIVE, "action": "warn"},
        PG104={"status": RuleStatus.FAIL},
    )
    predicate = statement(signed(written(report, tmp_path, ()), KEY, NOW))["predicate"]
    assert predicate["failedTests"] == ["PG104", "PG201", "PG501"]
    assert predicate["warnedTests"] == ["PG101", "PG102", "PG103"]
    assert predicate["passedTests"] == ["PG202", "PG301"]


def test_the_suite_digest_tells_attacks_statuses_suite_and_tool_apart():
    report = sample("pass")
    first, *rest = report.attacks
    other = {
        "attacks": (first.model_copy(update={"status": "skipped"}), *rest),
        "suite": "fast",
        "tool": report.tool.model_copy(update={"version": "0.0.1"}),
    }
    digests = [suite_digest(report), *(suite_digest(report.model_copy(update={k: v})) for k, v in other.items())]
    assert len(set(digests)) == 4
    backwards = report.model_copy(update={"attacks": report.attacks[::-1]})
    assert suite_digest(backwards) == digests[0]


# --- what is not signed ---


def without_model(**changes):
    report = sample("pass")
    return seal(report.model_copy(update={"subject": report.subject.model_copy(update=changes)}))


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (lambda: sample("error"), "not about a model"),
        (lambda: without_model(digest=None), "not about a model"),
        (lambda: without_model(resolved_uri=None), "not about a model"),
        (lambda: without_model(digest="9f" * 31), "cannot be attested"),
        (lambda: seal(sample("pass").model_copy(update={"policy": None})), "names no policy"),
        (lambda: with_rules(sample("pass"), {"exit_code": 1}), "contradicts itself"),
        (lambda: with_rules(sample("pass"), {"valid_until": None}), "contradicts itself"),
        (lambda: with_rules(sample("pass"), {"valid_until": "2026-13-01"}), "cannot be attested"),
        (lambda: with_rules(sample("pass"), {"valid_until": "next year"}), "cannot be attested"),
        (lambda: with_rules(sample("pass"), {}, PG101={"status": RuleStatus.FAIL}), "contradicts itself"),
        (lambda: with_rules(sample("pass"), {}, PG101={"status": RuleStatus.INCONCLUSIVE}), "contradicts itself"),
        (lambda: with_rules(sample("pass"), {}, PG101={"status": RuleStatus.WAIVED}), "has waived rules"),
        (lambda: with_rules(sample("fail"), {"status": VerdictStatus.PASS, "exit_code": 0}), "contradicts itself"),
    ],
)
def test_a_report_that_says_too_little_or_too_much_is_refused(report, said, tmp_path):
    folder = written(report(), tmp_path, ())
    with pytest.raises(UsageError, match=said):
        attest(folder, KEY, NOW)
    assert not (folder / "attestation.json").exists()


def test_a_report_that_was_changed_is_refused(tmp_path):
    folder = written(sample("fail"), tmp_path, ())
    text = (folder / "report.json").read_text()
    (folder / "report.json").write_text(text.replace('"exit_code": 1', '"exit_code": 0', 1))
    with pytest.raises(UsageError, match="was changed after it was written"):
        signed(folder, KEY, NOW)
    (folder / "report.json").write_text(text.replace("{", '{"seed": 1,', 1))  # which one counts depends on the reader
    with pytest.raises(UsageError, match="a key that stands twice"):
        signed(folder, KEY, NOW)
    (folder / "report.json").unlink()
    with pytest.raises(UsageError, match="no such report"):
        signed(folder, KEY, NOW)
    (folder / "report.json").mkdir()
    with pytest.raises(StorageFailed):
        signed(folder, KEY, NOW)


def test_a_page_that_says_something_else_is_refused(tmp_path):
    folder = written(sample("fail"), tmp_path)
    page = (folder / "report.html").read_bytes()
    place = page.index(b"FAIL") if b"FAIL" in page else len(page) // 2
    (folder / "report.html").write_bytes(page[:place] + bytes([page[place] ^ 1]) + page[place + 1 :])
    with pytest.raises(UsageError, match=r"report\.html is not what this version makes"):
        attest(folder, KEY, NOW)
    written(sample("pass"), tmp_path / "other")
    (folder / "report.html").write_bytes((tmp_path / "other" / "report.html").read_bytes())
    with pytest.raises(UsageError, match="of another run"):
        attest(folder, KEY, NOW)


# --- the other implementations ---


def sslib(key: Ed25519PrivateKey = KEY, id: str = ID) -> SSlibKey:
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return SSlibKey(id, "ed25519", "ed25519", {"public": raw.hex()})


def test_securesystemslib_verifies_ours(envelope):
    theirs = Envelope.from_dict(json.loads(envelope))
    assert theirs.pae() == pae(attestation.PAYLOAD_TYPE, theirs.payload)
    assert list(theirs.verify([sslib()], 1)) == [ID]
    with pytest.raises(VerificationError):
        theirs.verify([sslib(Ed25519PrivateKey.generate())], 1)


def test_we_open_theirs(envelope):
    payload = base64.b64decode(json.loads(envelope)["payload"])
    theirs = Envelope(payload, attestation.PAYLOAD_TYPE, {})
    theirs.sign(CryptoSigner(KEY, sslib()))
    assert opened(json.dumps(theirs.to_dict(), indent=4).encode(), KEYS) == opened(envelope, KEYS)
    assert json.loads(envelope) == theirs.to_dict()


@pytest.mark.parametrize("name", CASES)
def test_in_toto_s_messages_hold_ours(name, tmp_path):
    """Unknown fields and fields of another type would be refused by the parser."""
    content = statement(signed(written(REPORTS[name](), tmp_path), KEY, NOW))
    message = json_format.Parse(json.dumps(content), statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()
    assert message.type == "https://in-toto.io/Statement/v1"
    assert message.subject[0].digest["sha256"] == REPORTS[name]().subject.digest
    predicate = json_format.ParseDict(content["predicate"], ResultMessage())
    assert predicate.result == CASES[name][0]
    assert [d.name for d in predicate.configuration] == ["policy", "attack-suite", "report.json", "report.html"]
    for descriptor in predicate.configuration:
        ResourceDescriptor.copy_from_pb(descriptor).validate()
        assert len(descriptor.digest["sha256"]) == 64
    assert predicate.configuration[2].annotations["privacy_gate_status"] == CASES[name][1]
    assert [*predicate.passed_tests, *predicate.warned_tests, *predicate.failed_tests]


# --- reading strictly ---


def refused(data: bytes, keys=KEYS) -> str:
    with pytest.raises(NotVerified) as caught:
        opened(data, keys)
    assert caught.value.exit_code == ExitCode.VIOLATED
    assert caught.value.hint
    return caught.value.what


def test_every_byte_of_the_envelope_counts(envelope):
    assert len(envelope) < 2500
    for place in range(len(envelope)):
        for change in (1 << place % 8, 0x20):
            refused(envelope[:place] + bytes([envelope[place] ^ change]) + envelope[place + 1 :])


@FEW
@given(st.data())
def test_no_other_byte_will_do(envelope, data):
    place = data.draw(st.integers(0, len(envelope) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda b: b != envelope[place]))
    refused(envelope[:place] + bytes([other]) + envelope[place + 1 :])
    end = data.draw(st.integers(place + 1, len(envelope)))
    refused(envelope[:place] + envelope[end:])
    inserted = data.draw(st.binary(min_size=1, max_size=8).filter(lambda b: b.strip(b" \t\r\n")))
    refused(envelope[:place] + inserted + envelope[place:])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@FEW
@given(st.binary() | JSON.map(lambda v: json.dumps(v).encode()))
def test_anything_else_is_refused_and_never_a_crash(data):
    refused(data)


@FEW
@given(st.binary() | JSON)
def test_a_trusted_key_does_not_make_it_a_statement(payload):
    refused(enveloped(payload))


@FEW
@given(data=st.data())
def test_a_statement_with_a_foreign_part_is_refused_or_read(envelope, data):
    """Whatever stands where a trusted signer should have put something else: an answer, or NotVerified."""
    content = statement(envelope)
    place, spot = content, None
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        spot = data.draw(st.sampled_from(keys))
        inner = place[spot]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        place = inner
    place[spot] = data.draw(JSON)
    try:
        found = opened(enveloped(content), KEYS)
    except NotVerified:
        return
    for finding in examine(found, **nothing(model_sha256="0" * 64, policy_sha256="0" * 64)):
        assert isinstance(finding.detail, str)
    assert found.result == result_of(found.status, found.exit_code)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e | {"payloadType": "application/json"}, "payloadType"),
        (lambda e: e | {"payloadType": None}, "payloadType"),
        (lambda e: e | {"extra": 1}, "extra"),
        (lambda e: {k: v for k, v in e.items() if k != "payload"}, "payload"),
        (lambda e: e | {"payload": e["payload"] + "\n"}, "payload is not base64"),
        (lambda e: e | {"payload": " " + e["payload"]}, "payload is not base64"),
        (lambda e: e | {"payload": e["payload"].rstrip("=") + "===="}, "payload is not base64"),
        (lambda e: e | {"payload": e["payload"] + "é"}, "payload is not base64"),
        (lambda e: e | {"payload": ""}, "was changed"),
        (lambda e: e | {"signatures": []}, "0 signatures"),
        (lambda e: e | {"signatures": e["signatures"] * 2}, "2 signatures"),
        (lambda e: e | {"signatures": e["signatures"][0]}, "signatures"),
        (lambda e: e | {"signatures": [e["signatures"][0] | {"keyid": "0" * 64}]}, "not trusted"),
        (lambda e: e | {"signatures": [e["signatures"][0] | {"keyid": ID.upper()}]}, "not trusted"),
        (lambda e: e | {"signatures": [e["signatures"][0] | {"keyid": "\x1b]0;x\x07ab\n"}]}, "not trusted: ab "),
        (lambda e: e | {"signatures": [{"sig": e["signatures"][0]["sig"]}]}, "keyid"),
        (lambda e: e | {"signatures": [e["signatures"][0] | {"sig": ""}]}, "was changed"),
        (lambda e: e | {"signatures": [e["signatures"][0] | {"sig": "AAAA" * 200}]}, "was changed"),
        (lambda e: e | {"signatures": [e["signatures"][0] | {"sig": "-_-_" * 22}]}, "signature is not base64"),
        (lambda e: e | {"signatures": [e["signatures"][0] | {"sig": "AAAA" * 300}]}, "sig"),
        (lambda e: e | {"signatures": [e["signatures"][0] | {"cert": "x"}]}, "cert"),
    ],
)
def test_envelopes_are_read_strictly(envelope, change, said):
    assert said in refused(json.dumps(change(json.loads(envelope))).encode())


def test_more_than_one_way_to_write_the_same_is_refused(envelope):
    found = json.loads(envelope)
    sig = found["signatures"][0]["sig"]
    assert sig.endswith("==")
    loose = sig[:-3] + chr(ord(sig[-3]) + 1) + "=="  # unused bits of the last character: the same bytes
    assert base64.b64decode(loose) == base64.b64decode(sig)
    found["signatures"][0]["sig"] = loose
    assert "canonical" in refused(json.dumps(found).encode())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        ('{"payload": 1}'.encode("utf-16"), "not UTF-8"),
        ("\ufeff{}".encode(), "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 30_000, "nested too deeply"),
        (b"9" * 10_000, "not an envelope"),
        (b'{"payload": NaN}', "not finite"),
        (b'{"payload": "", "payload": ""}', "stands twice"),
        (b'{"signatures": [{"keyid": "a", "keyid": "b"}]}', "stands twice"),
        (b"null", "not an envelope"),
        (b" " * ((1 << 18) + 1), "more than 262144 bytes"),
    ],
)
def test_files_that_are_no_envelopes(data, said):
    assert said in refused(data)


def test_a_key_twice_is_refused_where_it_is_signed_too(envelope):
    payload = base64.b64decode(json.loads(envelope)["payload"])
    twice = payload.replace(b'"result":"PASSED"', b'"result":"FAILED","result":"PASSED"')
    assert "stands twice" in refused(enveloped(twice))


def put(content: dict, trail: str, value: object) -> dict:
    content = json.loads(json.dumps(content))
    *path, last = [int(part) if part.isdigit() else part for part in trail.split("/")]
    place = functools.reduce(lambda inner, part: inner[part], path, content)
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content


CONFIG = "predicate/configuration"
VERDICT = f"{CONFIG}/2/annotations/privacy_gate"


@pytest.mark.parametrize(
    ("trail", "value", "said"),
    [
        ("_type", "https://in-toto.io/Statement/v0.1", "_type"),
        ("_type", ..., "_type"),
        ("predicateType", "https://slsa.dev/provenance/v1", "predicateType"),
        ("predicateType", "https://in-toto.io/attestation/test-result/v0.2", "predicateType"),
        ("subject", [], "subject"),
        ("subject/0/digest", {}, "sha256"),
        ("subject/0/digest/sha256", "A" * 64, "sha256"),
        ("subject/0/digest/sha256", "a" * 64 + "\n", "sha256"),
        ("subject/0/digest/sha256", 7, "sha256"),
        ("predicate/result", "passed", "result"),
        ("predicate/result", "WARNED", "it says WARNED"),
        ("predicate/result", "FAILED", "it says FAILED"),
        ("predicate/failedTests", ["PG101"], "has failed rules"),
        ("predicate/failedTests", ..., "failedTests"),
        (f"{CONFIG}/0", ..., "one digest of policy"),
        (f"{CONFIG}/0/digest", ..., "one digest of policy"),
        (f"{CONFIG}/1/name", "policy", "one digest of policy"),
        (f"{CONFIG}/1/name", "suite", "one digest of attack-suite"),
        (f"{CONFIG}/3/name", "report.json", "one digest of report.json"),
        (f"{CONFIG}/2/annotations", ..., "a verdict"),
        (f"{VERDICT}_status", "fail", "it says PASSED, and its verdict is fail"),
        (f"{VERDICT}_status", "passed", "status"),
        (f"{VERDICT}_exit_code", 1, "it says PASSED"),
        (f"{VERDICT}_exit_code", False, "exit_code"),
        (f"{VERDICT}_exit_code", 0.0, "exit_code"),
        (f"{VERDICT}_valid_until", None, "no last day"),
        (f"{VERDICT}_valid_until", "2026-1-1", "valid_until"),
        (f"{VERDICT}_valid_until", "2026-02-30", "valid_until"),
        (f"{VERDICT}_valid_until", "9999", "valid_until"),
        (f"{VERDICT}_valid_until", ..., "valid_until"),
        (f"{VERDICT}_judged_at", "yesterday", "judged_at"),
        (f"{VERDICT}_judged_at", "0001-01-01T00:00:00+23:00", "judged_at"),
        (f"{VERDICT}_signed_at", ..., "signed_at"),
    ],
)
def test_statements_are_read_strictly(envelope, trail, value, said):
    assert said in refused(enveloped(put(statement(envelope), trail, value)))


def test_what_the_framework_lets_signers_add_is_ignored(envelope):
    content = statement(envelope) | {"extra": [1]}
    content["predicate"]["url"] = "https://ci.example/1"
    content["predicate"]["configuration"].append({"name": "other", "uri": "https://x.example"})
    assert opened(enveloped(content), KEYS) == opened(envelope, KEYS)


def test_one_of_several_trusted_keys(envelope):
    others = [Ed25519PrivateKey.generate().public_key() for _ in range(3)]
    assert "not trusted" in refused(envelope, {})
    assert "not trusted" in refused(envelope, {key_id(k): k for k in others})
    assert opened(envelope, {key_id(k): k for k in [*others, KEY.public_key()]}).key_id == ID
    # A key under another's id: the signature decides.
    assert "was changed" in refused(envelope, {ID: others[0]})


def test_a_signature_is_bound_to_its_payload_and_type(envelope, tmp_path):
    other = json.loads(signed(written(sample("fail"), tmp_path, ()), KEY, NOW))
    mixed = json.loads(envelope)["payload"]
    assert "was changed" in refused(json.dumps(other | {"payload": mixed}).encode())
    payload = base64.b64decode(mixed)
    for message in (payload, pae("application/json", payload), pae("application/vnd.in-toto+json", payload + b" ")):
        wrong = json.loads(envelope)
        wrong["signatures"][0]["sig"] = base64.b64encode(KEY.sign(message)).decode()
        assert "was changed" in refused(json.dumps(wrong).encode())


def test_there_is_one_signature_of_a_content(envelope):
    """S + L passes the equation as well: RFC 8032, section 5.1.7, wants S < L."""
    order = 2**252 + 27742317777372353535851937790883648493
    found = json.loads(envelope)
    raw = base64.b64decode(found["signatures"][0]["sig"])
    other = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    found["signatures"][0]["sig"] = base64.b64encode(other).decode()
    assert "was changed" in refused(json.dumps(found).encode())


# --- checking ---


def found(attested, **given):
    return {f.name: f.ok for f in examine(attested, **nothing(**given))}


def test_what_was_not_given_is_not_checked(envelope):
    everything = {"signature": True, "subject": None, "report": None, "policy": None, "freshness": True, "result": True}
    assert found(opened(envelope, KEYS)) == everything


def test_what_was_given_has_to_be_what_was_signed(passing, envelope):
    attested = opened(envelope, KEYS)
    report = sample("pass")
    right = {
        "model_sha256": report.subject.digest,
        "policy_sha256": report.policy.digest,
        "report": (passing / "report.json").read_bytes(),
        "html": (passing / "report.html").read_bytes(),
    }
    assert set(found(attested, **right).values()) == {True}
    wrong = {
        "model_sha256": (report.policy.digest, "subject"),
        "policy_sha256": (report.subject.digest, "policy"),
        "report": (right["report"] + b"\n", "report"),
        "html": (right["html"] + b"\n", "report.html"),
    }
    for name, (value, check) in wrong.items():
        assert [c for c, ok in found(attested, **{**right, name: value}).items() if not ok] == [check]
    for empty in (b"", b"{}"):
        assert not found(attested, report=empty)["report"]


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_a_flipped_bit_in_a_report_is_found(passing, envelope, name):
    attested = opened(envelope, KEYS)
    content = (passing / name).read_bytes()
    given, check = ("report", "report") if name == "report.json" else ("html", "report.html")
    for place in [0, len(content) - 1, *range(7, len(content), len(content) // 97)]:
        changed = content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :]
        assert found(attested, **{given: changed})[check] is False


@pytest.mark.parametrize(
    ("trail", "value"),
    [
        ("subject/0/digest/sha256", "0" * 64),
        (f"{CONFIG}/0/digest/sha256", "0" * 64),
        (f"{VERDICT}_status", "pass_with_warnings"),
        (f"{VERDICT}_valid_until", "2026-12-01"),
    ],
)
def test_a_signer_who_says_more_than_the_report_is_found(passing, envelope, trail, value):
    """Signed by a trusted key, and the report's bytes are right: they have to say the same."""
    attested = opened(enveloped(put(statement(envelope), trail, value)), KEYS)
    assert found(attested, report=(passing / "report.json").read_bytes())["report"] is False


def test_a_signed_file_that_is_no_report_is_found(envelope):
    raw = b"not a report"
    digest = hashlib.sha256(raw).hexdigest()
    attested = opened(enveloped(put(statement(envelope), f"{CONFIG}/2/digest/sha256", digest)), KEYS)
    assert found(attested, report=raw)["report"] is False


def test_a_page_that_was_not_signed_is_said(tmp_path):
    attested = opened(signed(written(sample("pass"), tmp_path, ()), KEY, NOW), KEYS)
    assert "report.html" not in found(attested)
    assert found(attested, html=b"<p>pass</p>")["report.html"] is None


@pytest.mark.parametrize(
    ("now", "ok"),
    [
        ("2026-08-31T23:59:59", False),  # judged on the next day
        ("2026-09-01T00:00:00", True),
        ("2026-11-30T23:59:59", True),
        ("2026-12-01T00:00:00", False),
        ("2027-01-01T00:00:00", False),
    ],
)
def test_a_pass_has_a_first_and_a_last_day(envelope, now, ok):
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp()
    assert found(opened(envelope, KEYS), now=moment)["freshness"] is ok


def test_days_are_utc_s(envelope):
    late = opened(enveloped(put(statement(envelope), f"{VERDICT}_judged_at", "2026-09-01T23:30:00-02:00")), KEYS)
    first = datetime(2026, 9, 1, 23, 59, tzinfo=UTC).timestamp()
    assert found(late, now=first)["freshness"] is False
    assert found(late, now=first + 60)["freshness"] is True
    unknown = opened(enveloped(put(statement(envelope), f"{VERDICT}_judged_at", None)), KEYS)
    assert found(unknown, now=0.0)["freshness"] is True


def test_a_failure_has_no_days(tmp_path):
    attested = opened(signed(written(excused(), tmp_path, ()), KEY, NOW), KEYS)
    assert attested.valid_until is None
    assert found(attested)["freshness"] is None
    assert found(attested)["result"] is False


def test_names_of_strangers_move_no_cursor(tmp_path):
    report = without_model(resolved_uri="models:/a\x1b[2J\n::set-env/1")
    attested = opened(signed(written(report, tmp_path, ()), KEY, NOW), KEYS)
    for finding in examine(attested, **nothing(model_sha256="\x1b[31mred")):
        assert "\x1b" not in finding.detail
        assert "\n" not in finding.detail


# --- keys ---


def pem(key, password=None, form=serialization.PrivateFormat.PKCS8):
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, locked)


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_the_key_id_is_the_digest_of_the_key_s_der():
    assert key_id(KEY.public_key()) == hashlib.sha256(DER).hexdigest()
    assert list(public_keys(PEM)) == [ID]


def test_a_new_pair_belongs_together():
    private, public = new_key()
    key = private_key(private)
    assert list(public_keys(public)) == [key_id(key.public_key())]
    assert new_key()[0] != private
    locked, public = new_key("correct horse")
    assert b"ENCRYPTED" in locked
    assert list(public_keys(public)) == [key_id(private_key(locked, "correct horse").public_key())]


def test_text_or_bytes_and_a_password_that_is_not_needed():
    for text in (PRIVATE_PEM, PRIVATE_PEM.decode(), PRIVATE_PEM.decode().strip()):
        assert key_id(private_key(text).public_key()) == ID
        assert key_id(private_key(text, "unused").public_key()) == ID


P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    ("data", "password", "said"),
    [
        (pem(KEY, b"secret word"), None, "is encrypted"),
        (pem(KEY, b"secret word"), "", "is encrypted"),
        (pem(KEY, b"secret word"), "wrong word", "cannot be decrypted"),
        (pem(P256), None, "is an elliptic curve key, not ed25519"),
        (pem(RSA), None, "is an RSA key, not ed25519"),
        (pem(ed448.Ed448PrivateKey.generate()), None, "of type .*Ed448.*, not ed25519"),
        (pem(x25519.X25519PrivateKey.generate()), None, "of type .*X25519.*, not ed25519"),
        (pem(RSA, form=serialization.PrivateFormat.TraditionalOpenSSL), None, "RSA"),
        (PEM, None, "is a public key"),
        (b"", None, "not a private key"),
        (b"hunter2", None, "not a private key"),
        ("größe", None, "not a private key"),
        (PRIVATE_PEM[:60], None, "not a private key"),
        (b"x" * ((1 << 18) + 1), None, "more than"),
    ],
)
def test_other_private_keys_are_refused_by_name(data, password, said):
    with pytest.raises(UsageError, match=said) as caught:
        private_key(data, password)
    assert caught.value.hint
    for secret in ("hunter2", "wrong word", "größe", PRIVATE_PEM.decode()[30:50]):
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a file of public keys"),
        (b"ssh-ed25519 AAAA", "not a file of public keys"),
        (PRIVATE_PEM, "block 1 is a private key"),
        (PEM + PRIVATE_PEM, "block 2 is a private key"),
        (PEM + PEM[:50], "cut off"),
        (PEM[20:] + PEM, "cut off"),
        (PEM.replace(b"MCow", b"MCoX"), "cannot be read"),
        (PEM + public_pem(P256), "public key 2 is an elliptic curve key"),
        (public_pem(RSA), "public key 1 is an RSA key"),
        (PEM + b"x" * (1 << 18), "more than"),
    ],
)
def test_other_public_keys_are_refused_by_name(data, said):
    with pytest.raises(UsageError, match=said) as caught:
        public_keys(data)
    assert caught.value.hint


def test_several_public_keys_with_words_between_them():
    more = [Ed25519PrivateKey.generate() for _ in range(2)]
    text = b"# ours\r\n" + PEM.replace(b"\n", b"\r\n") + b"\n# theirs\n" + b"".join(public_pem(k) for k in more) + PEM
    assert list(public_keys(text)) == [ID, *(key_id(k.public_key()) for k in more)]


@FEW
@given(st.binary(max_size=200), st.integers(0, len(PEM) - 1))
def test_keys_are_read_or_refused(data, place):
    for content in (data, PEM[:place] + data + PEM[place + 1 :], PRIVATE_PEM[:place] + data + PRIVATE_PEM[place + 1 :]):
        for read in (public_keys, private_key):
            with contextlib.suppress(GateError):
                read(content)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o640, 0o644, 0o604, 0o620, 0o602, 0o601, 0o610])
def test_a_key_that_others_can_get_at_is_refused(mode, tmp_path):
    path = tmp_path / "key.pem"
    path.write_bytes(PRIVATE_PEM)
    path.chmod(mode)
    if mode & 0o077 == 0:
        assert read_private(path) == PRIVATE_PEM
        return
    with pytest.raises(UsageError, match=rf"others can read or change \(mode {mode:04o}\)"):
        read_private(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(("mode", "ok"), [(0o440, True), (0o640, True), (0o660, False), (0o444, False)])
def test_a_key_of_another_owner_may_be_the_group_s(mode, ok, tmp_path):
    path = tmp_path / "key.pem"
    path.write_bytes(PRIVATE_PEM)
    os.chown(path, 65534, 65534)
    path.chmod(mode)
    if ok:
        assert read_private(path) == PRIVATE_PEM
    else:
        with pytest.raises(UsageError):
            read_private(path)


def test_a_key_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.pem", tmp_path):
        with pytest.raises(UsageError, match=str(path)):
            read_private(path)


def test_without_cryptography_there_is_a_mend(monkeypatch, envelope):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    for call in (new_key, lambda: private_key(PRIVATE_PEM), lambda: public_keys(PEM)):
        with pytest.raises(UsageError, match="need the package cryptography") as caught:
            call()
        assert "privacy-gate[server]" in caught.value.hint
