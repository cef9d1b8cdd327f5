"""What may be released: forged tags, copies, flipped bytes, and every way in which a signed verdict does not count."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy_gate import promotion
from privacy_gate.attestation import attest
from privacy_gate.errors import CandidateNotFound, RegistryUnreachable, UsageError
from privacy_gate.policy import resolve
from privacy_gate.promotion import Approval, Moved, Refused, approval, promote
from privacy_gate.registry import RecordedReport, Registry, open_registry
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.reports.document import seal
from tests.cli.test_init import model_folder
from tests.mlflow_server import embedded_registry, free_port
from tests.test_attestation import ID, KEY, KEYS, NOW, excused, sample, waived, warned, written

STANDARD = resolve("standard").digest
BY_STANDARD = frozenset({STANDARD})
THIEF = Ed25519PrivateKey.from_private_bytes(bytes(32))


def moment(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@dataclass
class Shop:
    """A registry, and what people do with it; each model has files of its own."""

    registry: Registry
    folder: Path
    uri: str | None = None
    number: itertools.count = field(default_factory=itertools.count)

    def new(self) -> Path:
        return self.folder / f"{next(self.number)}"

    def model(self, content: bytes | None = None) -> str:
        """A new registered model of one version; without content, unlike any other."""
        folder = model_folder(self.new())
        (folder / "model.skops").write_bytes(content or folder.name.encode())
        return self.register(f"m{folder.name}", folder)

    def register(self, name: str, folder: Path) -> str:
        if isinstance(self.registry, InMemoryRegistry):
            return f"models:/{name}/{self.registry.add(name, folder)}"
        client = self.registry._client
        if self.registry.version(name, "1") is None:
            client.create_registered_model(name)
        run = client.create_run(client.get_experiment_by_name("training").experiment_id)
        client.log_artifacts(run.info.run_id, str(folder), "model")
        made = client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
        return f"models:/{name}/{made.version}"

    def judged(
        self,
        uri: str,
        report=None,
        *,
        key: Ed25519PrivateKey = KEY,
        policy: str = STANDARD,
        at: str = "2026-09-01T12:00:00+00:00",
        until: str | None = "2026-11-30",
        attach: bool = True,
    ) -> SimpleNamespace:
        """Evidence as the gate and `attest` leave it: a run, tags, and signed files in the run."""
        out = self.new()
        candidate = self.registry.resolve(uri, out / "work")
        report = report or sample("pass")
        known = {"digest": candidate.digest, "resolved_uri": uri, "name": candidate.name, "version": candidate.version}
        report = report.model_copy(
            update={
                "subject": report.subject.model_copy(update=known),
                "policy": report.policy.model_copy(update={"digest": policy}),
                "verdict": report.verdict.model_copy(
                    update={"valid_until": until if report.verdict.valid_until else None}
                ),
                "run": report.run.model_copy(update={"finished_at": at}),
            }
        )
        written(seal(report), out, ())
        envelope = attest(out, key, NOW)
        recorded = RecordedReport(report.verdict.status, candidate.digest, policy, files=(out / "report.json",))
        run = self.registry.record(candidate, recorded).run_id
        if attach:
            self.registry.attach(run, [out / "report.json", envelope])
        return SimpleNamespace(
            run=run, out=out, envelope=envelope.read_bytes(), report=(out / "report.json").read_bytes()
        )

    def tags(self, uri: str) -> dict[str, str]:
        name, version = uri.removeprefix("models:/").split("/")
        return dict(self.registry.version(name, version).tags)

    def forge(self, uri: str, tags: dict[str, str]) -> None:
        name, version = uri.removeprefix("models:/").split("/")
        self.registry.mark(name, version, {k: v for k, v in tags.items() if k.startswith("privacy_gate.")})

    def ask(self, uri: str, **changes) -> Approval | Refused:
        given = {"envelope": None, "report": None, "policies": BY_STANDARD, "now": NOW, "keys": KEYS, **changes}
        return approval(self.registry, uri, self.new(), given.pop("keys"), **given)

    def digest(self, uri: str) -> str:
        return self.registry.resolve(uri, self.new()).digest

    def junk(self, uri: str, runs: int) -> None:
        """Runs that say that they are evaluations of these files, as anybody can make them."""
        candidate = replace(self.registry.resolve(uri, self.new()), name=None)
        for _ in range(runs):
            if isinstance(self.registry, InMemoryRegistry):
                self.registry.record(candidate, RecordedReport("pass", candidate.digest, STANDARD))
            else:
                client = self.registry._client
                experiment = client.get_experiment_by_name("privacy-gate").experiment_id
                client.create_run(experiment, tags={"privacy_gate.model_sha256": candidate.digest})


@pytest.fixture(scope="session")
def embedded_shop(tmp_path_factory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    uri = embedded_registry(folder)
    return Shop(open_registry(uri, None), folder, uri)


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(InMemoryRegistry(), tmp_path)


@pytest.fixture(params=["memory", "embedded"])
def either(request, shop) -> Shop:
    return request.getfixturevalue("embedded_shop") if request.param == "embedded" else shop


def names(found: Approval | Refused) -> set[str]:
    """Which checks refused it."""
    assert isinstance(found, Refused), found
    return {reason.partition(":")[0] for reason in found.reasons}


# --- what is promoted ---


def test_a_signed_pass_is_promoted(either):
    shop = either
    uri = shop.model()
    evidence = shop.judged(uri)
    found = shop.ask(uri)
    assert isinstance(found, Approval), found
    assert (found.uri, found.model_sha256) == (uri, shop.digest(uri))
    assert (found.signed.key_id, found.signed.status, found.signed.valid_until) == (ID, "pass", "2026-11-30")
    assert found.source == f"evidence run {evidence.run}"
    assert shop.registry.alias(found.name, "champion") is None, "to ask moves nothing"
    assert promote(shop.registry, found, "champion") == Moved(found.name, "champion", None, "1")
    assert shop.registry.alias(found.name, "champion") == "1"
    assert promote(shop.registry, found, "champion") == Moved(found.name, "champion", "1", "1")


@pytest.mark.parametrize("report", [waived, warned])
def test_warnings_and_waivers_let_through(shop, report):
    uri = shop.model()
    shop.judged(uri, report())
    assert isinstance(shop.ask(uri), Approval)


def test_the_last_day_counts(shop):
    uri = shop.model()
    shop.judged(uri)
    assert isinstance(shop.ask(uri, now=moment("2026-11-30T23:59:59")), Approval)
    assert names(shop.ask(uri, now=moment("2026-12-01"))) == {"freshness"}
    assert names(shop.ask(uri, now=moment("2026-08-31T23:59:59"))) == {"freshness"}


def test_given_files_need_no_evidence_run(either):
    shop = either
    uri = shop.model()
    evidence = shop.judged(uri, attach=False)
    found = shop.ask(uri, envelope=evidence.envelope, report=evidence.report)
    assert isinstance(found, Approval)
    assert found.source == "the given attestation"
    assert isinstance(shop.ask(uri, envelope=evidence.envelope), Approval), "the run has the same report"
    assert isinstance(shop.ask(uri, report=evidence.report), Refused), "and nothing that is signed"
    other = shop.judged(shop.model())
    assert names(shop.ask(uri, envelope=other.envelope, report=other.report)) == {"subject"}
    assert names(shop.ask(uri, envelope=evidence.envelope, report=other.report)) == {"report"}


def test_a_given_attestation_without_any_report_is_refused(shop):
    uri, other = shop.model(), shop.model()
    evidence = shop.judged(other)
    found = shop.ask(uri, envelope=evidence.envelope)
    assert names(found) == {"subject", "report"}
    assert sum(reason.startswith("report:") for reason in found.reasons) == 1


def test_one_of_several_policies_is_enough(shop):
    uri = shop.model()
    shop.judged(uri, policy="b" * 64)
    assert isinstance(shop.ask(uri, policies=frozenset({STANDARD, "b" * 64})), Approval)
    assert names(shop.ask(uri, policies=frozenset({STANDARD, "c" * 64}))) == {"policy"}


def test_an_alias_is_followed_once(either):
    shop = either
    uri = shop.model()
    shop.judged(uri)
    name = uri.split("/")[1]
    shop.register(name, model_folder(shop.new()))
    shop.registry.move_alias(name, "candidate", "1")
    found = shop.ask(f"models:/{name}@candidate")
    assert isinstance(found, Approval)
    shop.registry.move_alias(name, "candidate", "2")
    promote(shop.registry, found, "champion")
    assert shop.registry.alias(name, "champion") == "1", "what was hashed, not what the alias names now"
    assert names(shop.ask(f"models:/{name}@candidate")) == {"signature"}


def test_an_alias_that_somebody_else_moved_meanwhile(shop):
    uri = shop.model()
    shop.judged(uri)
    name = uri.split("/")[1]
    shop.register(name, model_folder(shop.new()))
    found = shop.ask(uri)
    shop.registry.move_alias(name, "champion", "2")
    assert promote(shop.registry, found, "champion") == Moved(name, "champion", "2", "1")


# --- what is refused ---


def test_forged_tags_are_worth_nothing(either):
    """All tags of an approved version, set on another one."""
    shop = either
    good, other = shop.model(), shop.model()
    shop.judged(good)
    shop.forge(other, shop.tags(good))
    found = shop.ask(other)
    assert names(found) == {"tags", "signature"}
    assert shop.digest(good) in found.reasons[0]
    assert shop.digest(other) in found.reasons[0]
    assert isinstance(shop.ask(good), Approval)


def test_forged_tags_of_the_run_are_worth_nothing(embedded_shop):
    """Both ends: the version's tags name the run, and the run's tags the version's files."""
    shop = embedded_shop
    good, other = shop.model(), shop.model()
    run = shop.judged(good).run
    shop.forge(other, {**shop.tags(good), "privacy_gate.model_sha256": shop.digest(other)})
    shop.registry._client.set_tag(run, "privacy_gate.model_sha256", shop.digest(other))
    found = shop.ask(other)
    assert names(found) == {"subject"}
    assert shop.digest(other) in found.reasons[0]
    assert isinstance(shop.ask(good), Refused), "its evidence is not found any more"
    shop.registry._client.set_tag(run, "privacy_gate.model_sha256", shop.digest(good))
    assert isinstance(shop.ask(good), Approval)


def test_a_report_of_another_model_signed_again_by_a_thief(shop):
    good, other = shop.model(), shop.model()
    shop.judged(good)
    shop.judged(other, key=THIEF)
    assert names(shop.ask(other)) == {"signature"}
    assert isinstance(shop.ask(other, keys={"x": THIEF.public_key()}), Refused), "a key has the id of its bytes"


def test_a_copy_of_the_same_bytes_is_as_good(embedded_shop):
    shop = embedded_shop
    good = shop.model()
    shop.judged(good)
    copied = shop.registry._client.copy_model_version(good, f"copy-of-{good.split('/')[1]}")
    copy, name = f"models:/{copied.name}/{copied.version}", good.split("/")[1]
    found = shop.ask(copy, judged_as=frozenset({name}))
    assert isinstance(found, Approval), found
    assert found.name == copied.name
    again = shop.model(b"the same bytes")
    same = shop.model(b"the same bytes")
    shop.judged(again)
    assert isinstance(shop.ask(same, judged_as=frozenset({again.split("/")[1]})), Approval), "without any tag"


def test_a_pass_by_the_records_of_another_model_is_refused(either):
    """A model that leaks its own records, registered once more where it is judged by others: signed, same bytes."""
    shop = either
    leaky, elsewhere = shop.model(b"knows its records"), shop.model(b"knows its records")
    evidence = shop.judged(elsewhere, at="2026-09-02T00:00:00+00:00")
    found = shop.ask(leaky)
    assert names(found) == {"name"}
    assert elsewhere in found.reasons[0]
    shop.judged(leaky, sample("fail"))
    assert isinstance(shop.ask(leaky), Refused), "though the pass is the later one"
    assert isinstance(shop.ask(elsewhere), Approval)
    assert isinstance(shop.ask(leaky, envelope=evidence.envelope), Approval), "whoever names it answers for it"


def test_one_flipped_byte_is_found(embedded_shop):
    shop = embedded_shop
    good = shop.model()
    evidence = shop.judged(good)
    copied = shop.registry._client.copy_model_version(good, f"flipped-{good.split('/')[1]}")
    before = shop.digest(good)
    place = Path(shop.registry._client.get_model_version_download_uri(*good.split("/")[1:]).removeprefix("file://"))
    content = (place / "model.skops").read_bytes()
    (place / "model.skops").write_bytes(bytes([content[0] ^ 1]) + content[1:])
    for uri in (good, f"models:/{copied.name}/{copied.version}"):
        found = shop.ask(uri)
        assert names(found) == {"tags", "signature"}
        assert found.model_sha256 != before
        assert names(shop.ask(uri, envelope=evidence.envelope, report=evidence.report)) == {"tags", "subject"}
    (place / "model.skops").write_bytes(content)
    assert isinstance(shop.ask(good), Approval)


@pytest.mark.parametrize("name", ["report.json", "attestation.json"])
def test_one_flipped_byte_in_the_evidence_is_found(shop, name):
    uri = shop.model()
    evidence = shop.judged(uri)
    path = evidence.out / name
    content = path.read_bytes()
    for place in (0, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        shop.registry.attach(evidence.run, [path])
        assert names(shop.ask(uri)) == ({"report"} if name == "report.json" else {"signature"})
    path.write_bytes(content)
    shop.registry.attach(evidence.run, [path])
    assert isinstance(shop.ask(uri), Approval)


def test_a_file_without_end_is_not_read(shop, monkeypatch):
    uri = shop.model()
    evidence = shop.judged(uri)
    monkeypatch.setattr(promotion, "MOST_REPORT", 10)
    assert names(shop.ask(uri)) == {"report"}
    (evidence.out / "attestation.json").write_bytes(b" " * (1 << 19) + evidence.envelope)
    shop.registry.attach(evidence.run, [evidence.out / "attestation.json"])
    assert names(shop.ask(uri)) == {"signature"}


def test_every_reason_is_said(shop):
    """All that is wrong, not the first of it."""
    uri = shop.model()
    other = shop.judged(shop.model(), sample("fail"), policy="b" * 64, at="2026-09-30T00:00:00+00:00")
    found = shop.ask(uri, envelope=other.envelope, report=other.report[:-1])
    assert names(found) == {"subject", "report", "policy", "freshness", "result"}
    assert all("the given attestation" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (lambda: sample("fail"), "fail"),
        (lambda: sample("inconclusive"), "inconclusive"),
        (lambda: sample("error"), "error"),
        (excused, "fail"),
    ],
)
def test_what_is_no_pass_is_refused(shop, report, said):
    uri = shop.model()
    shop.judged(uri, report())
    found = shop.ask(uri)
    assert names(found) == {"result"}
    assert found.reasons[0].startswith(f"result: FAILED: {said}")


def test_another_policy_is_refused(shop):
    uri = shop.model()
    shop.judged(uri, policy="b" * 64)
    found = shop.ask(uri)
    assert names(found) == {"policy"}
    assert STANDARD in found.reasons[0]


def test_what_nobody_signed_is_refused(shop):
    uri = shop.model()
    assert names(shop.ask(uri)) == {"signature"}
    run = shop.judged(uri, attach=False).run
    found = shop.ask(uri)
    assert found.reasons == (f"signature: the run has no attestation.json (evidence run {run})",)


def test_what_was_deleted_speaks_for_nothing(embedded_shop):
    shop = embedded_shop
    uri = shop.model()
    evidence = shop.judged(uri)
    shop.registry._client.delete_run(evidence.run)
    assert names(shop.ask(uri)) == {"deleted"}
    assert isinstance(shop.ask(uri, envelope=evidence.envelope, report=evidence.report), Approval)
    assert isinstance(shop.ask(uri, envelope=evidence.envelope), Approval), "the run still has the report"
    shop.registry._client.restore_run(evidence.run)
    assert isinstance(shop.ask(uri), Approval)


def test_evidence_whose_files_are_gone_is_gone(embedded_shop):
    shop = embedded_shop
    uri = shop.model()
    run = shop.judged(uri).run
    shutil.rmtree(Path(shop.registry._client.get_run(run).info.artifact_uri) / "privacy-gate")
    assert names(shop.ask(uri)) == {"signature"}


def test_evidence_elsewhere_is_no_evidence(embedded_shop):
    """A run that looks like the gate's, in an experiment of the attacker's own."""
    shop = embedded_shop
    uri = shop.model()
    evidence = shop.judged(uri)
    client = shop.registry._client
    tags = client.get_run(evidence.run).data.tags
    client.delete_run(evidence.run)
    training = client.get_experiment_by_name("training").experiment_id
    forged = client.create_run(training, tags={k: v for k, v in tags.items() if not k.startswith("mlflow.")})
    client.log_artifact(forged.info.run_id, str(evidence.out / "attestation.json"), "privacy-gate")
    shop.forge(uri, {"privacy_gate.run_id": forged.info.run_id})
    found = shop.ask(uri)
    assert names(found) == {"deleted"}
    assert forged.info.run_id not in str(found)


# --- several verdicts ---


def test_a_later_unsigned_look_hides_no_signed_pass(shop):
    uri = shop.model()
    first = shop.judged(uri)
    shop.judged(uri, attach=False)
    found = shop.ask(uri)
    assert isinstance(found, Approval)
    assert found.source.endswith(first.run)


def test_of_two_passes_the_later_one_counts(shop):
    uri = shop.model()
    shop.judged(uri, until="2026-10-01")
    shop.judged(uri, at="2026-09-02T01:00:00+00:00", until="2026-11-01")
    assert shop.ask(uri).signed.valid_until == "2026-11-01"
    late = shop.ask(uri, now=moment("2026-11-02"))
    assert names(late) == {"freshness"}


def test_a_violation_that_was_found_later_counts(either):
    """As after a waiver was withdrawn: the old pass is still signed, of these bytes, by this policy, and fresh."""
    shop = either
    uri = shop.model()
    passed = shop.judged(uri, at="2026-09-01T12:00:00+00:00")
    failed = shop.judged(uri, sample("fail"), at="2026-09-01T13:00:00+00:00")
    for given in ({}, {"envelope": passed.envelope, "report": passed.report}):
        found = shop.ask(uri, **given)
        assert names(found) == {"result"}
        assert failed.run in found.reasons[0]
    again = shop.judged(uri, at="2026-09-01T14:00:00+00:00")
    assert shop.ask(uri).source.endswith(again.run)


NO_PASS = ("fail", "inconclusive")


@pytest.mark.parametrize("status", NO_PASS)
def test_neither_junk_nor_deleting_hides_that_it_was_taken_back(either, status):
    """A pass, then a signed verdict that took the alias away; whoever may write runs tries to bury it."""
    shop = either
    uri = shop.model()
    passed = shop.judged(uri)
    taken = shop.judged(uri, sample(status), at="2026-09-01T13:00:00+00:00")
    shop.junk(uri, 21)
    shop.forge(uri, {"privacy_gate.run_id": passed.run})
    found = shop.ask(uri)
    assert names(found) == {"result"}
    assert taken.run in found.reasons[0]
    if shop.uri is None:
        return
    shop.registry._client.delete_run(taken.run)
    found = shop.ask(uri)
    assert names(found) == {"result"}
    assert f"{taken.run}, since deleted," in found.reasons[0]
    again = shop.judged(uri, at="2026-09-01T14:00:00+00:00")
    assert shop.ask(uri).source.endswith(again.run)


def test_a_deleted_experiment_hides_nothing(embedded_shop):
    shop = embedded_shop
    uri = shop.model()
    shop.judged(uri)
    shop.judged(uri, sample("fail"), at="2026-09-01T13:00:00+00:00")
    experiment = shop.registry._client.get_experiment_by_name("privacy-gate").experiment_id
    shop.registry._client.delete_experiment(experiment)
    try:
        assert isinstance(shop.ask(uri), Refused)
    finally:
        shop.registry._client.restore_experiment(experiment)


def test_more_than_can_be_looked_through_is_refused(either, monkeypatch):
    """A violation could be among the others; nothing is fetched to say so."""
    shop = either
    uri = shop.model()
    shop.judged(uri)
    shop.junk(uri, 3)
    assert isinstance(shop.ask(uri, most_runs=4), Approval)
    with monkeypatch.context() as patch:
        patch.setattr(type(shop.registry), "fetch", None)
        found = shop.ask(uri, most_runs=3)
    assert names(found) == {"runs"}
    assert "more than 3 runs" in found.reasons[0]
    assert found.model_sha256 in found.reasons[0], "how to find them"


def test_every_page_of_runs_is_looked_through(embedded_shop, monkeypatch):
    from privacy_gate.registry import mlflow

    shop = embedded_shop
    uri = shop.model()
    shop.judged(uri)
    shop.judged(uri, sample("fail"), at="2026-09-01T13:00:00+00:00")
    candidate = shop.registry.resolve(uri, shop.new())
    runs = list(shop.registry.evaluations(candidate))
    assert len(runs) == 2
    monkeypatch.setattr(mlflow, "PAGE", 1)
    assert list(shop.registry.evaluations(candidate)) == runs
    assert names(shop.ask(uri)) == {"result"}
    with pytest.raises(ValueError, match="not a sha256"):
        next(shop.registry.evaluations(replace(candidate, digest="' or 1=1")))


@pytest.mark.parametrize("status", NO_PASS)
@pytest.mark.parametrize("change", [{"key": THIEF}, {"policy": "b" * 64}, {"attach": False}])
def test_what_is_not_proven_undoes_no_pass(shop, change, status):
    uri = shop.model()
    shop.judged(uri)
    shop.judged(uri, sample(status), at="2026-09-01T13:00:00+00:00", **change)
    assert isinstance(shop.ask(uri), Approval)


def test_an_error_says_nothing_of_the_model(shop):
    uri = shop.model()
    shop.judged(uri)
    shop.judged(uri, sample("error"), at="2026-09-01T13:00:00+00:00")
    assert isinstance(shop.ask(uri), Approval)


@pytest.mark.parametrize("status", NO_PASS)
def test_it_counts_without_its_report_under_any_name_and_by_any_clock(shop, status):
    """All that can be said against such a verdict is no reason to release."""
    uri, elsewhere = shop.model(b"the same"), shop.model(b"the same")
    shop.judged(uri)
    failed = shop.judged(elsewhere, sample(status), at="2026-10-01T13:00:00+00:00")
    (failed.out / "report.json").write_text("{}")
    shop.registry.attach(failed.run, [failed.out / "report.json"])
    found = shop.ask(uri, now=moment("2026-09-02"))
    assert names(found) == {"result"}
    assert failed.run in found.reasons[0]


def test_a_later_pass_that_is_over_takes_an_earlier_one_back(shop):
    """It passed by a waiver, say, which has ended."""
    uri = shop.model()
    shop.judged(uri, until="2026-11-30")
    shop.judged(uri, at="2026-09-02T01:00:00+00:00", until="2026-10-01")
    assert isinstance(shop.ask(uri, now=moment("2026-10-01")), Approval)
    found = shop.ask(uri, now=moment("2026-10-02"))
    assert names(found) == {"result"}
    assert "a time that is over" in found.reasons[0]


def test_a_later_pass_under_another_name_takes_nothing_back(shop):
    uri, elsewhere = shop.model(b"the same"), shop.model(b"the same")
    shop.judged(uri)
    shop.judged(elsewhere, at="2026-09-02T01:00:00+00:00", until="2026-10-01")
    assert isinstance(shop.ask(uri, now=moment("2026-10-02")), Approval)


def test_reports_of_the_newest_verdicts_only_are_read(shop, monkeypatch):
    """However many copies of a signed file there are, which anybody can make."""
    monkeypatch.setattr(promotion, "MOST_REPORTS", 2)
    uri = shop.model()
    old, middle, new = (shop.judged(uri, at=f"2026-09-01T1{hour}:00:00+00:00") for hour in range(3))
    read = []
    fetch = type(shop.registry).fetch
    monkeypatch.setattr(
        type(shop.registry), "fetch", lambda self, uri, work: read.append(uri) or fetch(self, uri, work)
    )
    assert shop.ask(uri).source.endswith(new.run)
    assert {uri.split("/")[1] for uri in read if uri.endswith("report.json")} == {middle.run, new.run}
    for late in (middle, new):
        (late.out / "report.json").write_text("{}")
        shop.registry.attach(late.run, [late.out / "report.json"])
    assert names(shop.ask(uri)) == {"report"}, "which is a reason to look, and no approval"
    monkeypatch.setattr(promotion, "MOST_REPORTS", 3)
    assert shop.ask(uri).source.endswith(old.run)


# --- what cannot be asked ---


def test_only_versions_of_registered_models(either):
    shop = either
    folder = model_folder(shop.new())
    for uri in (str(folder), f"runs:/{'0' * 32}/model", f"models:/m-{'0' * 32}", f"file://{folder}"):
        with pytest.raises(UsageError, match="only versions of registered models"):
            shop.ask(uri)
    uri = shop.model()
    with pytest.raises(UsageError, match="which version"):
        shop.ask(uri.rpartition("/")[0])
    with pytest.raises(CandidateNotFound):
        shop.ask("models:/nobody/1")
    with pytest.raises(CandidateNotFound):
        shop.ask(uri + "1")
    assert shop.ask(uri.rpartition("/")[0] + "/latest").uri == uri


def test_no_key_and_no_policy_mean_no(shop):
    uri = shop.model()
    shop.judged(uri)
    with pytest.raises(UsageError, match="no key"):
        shop.ask(uri, keys={})
    with pytest.raises(UsageError, match="no policy"):
        shop.ask(uri, policies=frozenset())


def test_a_name_that_cannot_be_shown_is_not_another_models(embedded_shop):
    """What is shown of a name may be the name of another model."""
    shop = embedded_shop
    good = shop.model()
    shop.judged(good)
    name = good.split("/")[1]
    twin = shop.register(f"\x1b[31m{name}", model_folder(shop.new()))
    with pytest.raises(UsageError, match="cannot be shown"):
        shop.ask(twin)


def test_a_name_in_memory_stays_as_it_was_asked_for(tmp_path):
    shop = Shop(InMemoryRegistry(), tmp_path)
    uri = shop.register("\x1b[31mred", model_folder(tmp_path / "m"))
    assert shop.ask(uri).name == "\x1b[31mred"


def test_a_version_that_goes_meanwhile_is_not_promoted(embedded_shop):
    shop = embedded_shop
    uri = shop.model()
    shop.judged(uri)
    found = shop.ask(uri)
    shop.registry._client.delete_model_version(found.name, found.version)
    with pytest.raises(CandidateNotFound):
        promote(shop.registry, found, "champion")
    with pytest.raises(UsageError):
        promote(shop.registry, replace(found, name="nobody"), "champion")


def test_nobody_there(tmp_path, monkeypatch, embedded_shop):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = embedded_shop.model()
    embedded_shop.judged(uri)
    gone = open_registry(f"http://127.0.0.1:{free_port()}", None)
    with pytest.raises(RegistryUnreachable):
        approval(gone, uri, tmp_path, KEYS, envelope=None, report=None, policies=BY_STANDARD, now=NOW)
    with pytest.raises(RegistryUnreachable):
        promote(gone, embedded_shop.ask(uri), "champion")


def test_what_cannot_be_fetched_is_no_approval(shop, monkeypatch):
    """The registry goes while the evidence is looked for."""
    uri = shop.model()
    shop.judged(uri)

    def gone(*_):
        raise RegistryUnreachable("gone")

    monkeypatch.setattr(type(shop.registry), "fetch", gone)
    with pytest.raises(RegistryUnreachable):
        shop.ask(uri)

    def elsewhere(*_):
        raise UsageError("the files are at \x1b[31mhttp://elsewhere")

    monkeypatch.setattr(type(shop.registry), "fetch", elsewhere)
    found = shop.ask(uri)
    assert names(found) == {"signature"}
    assert "elsewhere" in found.reasons[0]
    assert "\x1b" not in found.reasons[0]


def test_the_sample_is_what_the_tests_take_it_for():
    """Judged on the day before NOW, valid until the end of November, by nobody's policy."""
    report = sample("pass")
    assert report.run.finished_at.startswith("2026-09-01")
    assert report.verdict.valid_until == "2026-11-30"
    assert report.policy.digest != STANDARD
