"""`privacy-gate promote`: what it says, and how it ends."""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace

import pytest
import yaml

from privacy_gate import cli
from privacy_gate.cli.promote import promote as verb_of_promote
from privacy_gate.policy import resolve
from privacy_gate.promotion import MOST_RUNS
from privacy_gate.registry.in_memory import InMemoryRegistry
from tests.cli.test_init import model_folder
from tests.mlflow_server import free_port
from tests.test_attestation import ID, PEM, PRIVATE_PEM, sample
from tests.test_promotion import THIEF, Shop, embedded_shop  # noqa: F401  (a fixture)

FOREVER = {"until": "9999-12-31"}


def verb(shop: Shop, folder, monkeypatch, capsys):
    """The verb, in a folder with the key."""
    monkeypatch.chdir(folder)
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "PRIVACY_GATE_"))]:
        monkeypatch.delenv(name)
    (folder / "key.pub").write_bytes(PEM)

    def run(*arguments, key="key.pub"):
        capsys.readouterr()
        code = cli.run(["promote", *map(str, arguments), *([] if key is None else ["--key", str(key)])])
        said = capsys.readouterr()
        return SimpleNamespace(code=code, stdout=said.out, stderr=said.err, lines=said.out.splitlines())

    run.shop = shop
    run.alias = lambda uri, alias="champion": shop.registry.alias(uri.split("/")[1], alias)
    return run


@pytest.fixture
def gate(tmp_path, monkeypatch, capsys):
    """With a registry in memory: what it says does not depend on the registry."""
    shop = Shop(InMemoryRegistry(), tmp_path)
    monkeypatch.setattr("privacy_gate.registry.open_registry", lambda *_: shop.registry)
    return verb(shop, tmp_path, monkeypatch, capsys)


@pytest.fixture
def real(embedded_shop: Shop, tmp_path, monkeypatch, capsys):  # noqa: F811
    """With a real one."""
    run = verb(embedded_shop, tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", embedded_shop.uri)
    return run


TO = ("--alias", "champion")


@pytest.fixture(scope="module")
def approved(embedded_shop: Shop) -> str:  # noqa: F811
    """A version that may be released, and that nobody promotes."""
    uri = embedded_shop.model()
    embedded_shop.judged(uri, **FOREVER)
    return uri


def test_it_says_what_moved(real):
    first = real.shop.model()
    evidence = real.shop.judged(first, **FOREVER)
    name = first.split("/")[1]
    digest = real.shop.digest(first)
    done = real(first, *TO)
    assert (done.code, done.stderr) == (0, "")
    assert done.lines == [
        f"moved champion of {name} from nothing to version 1",
        f"pass, valid until 9999-12-31; signed by key {ID}; evidence run {evidence.run}; model sha256 {digest}",
    ]
    assert real.alias(first) == "1"
    done = real(first, *TO)
    assert (done.code, done.lines[0]) == (0, f"champion of {name} points to version 1 already")
    second = real.shop.register(name, model_folder(real.shop.new(), "pytorch"))
    real.shop.judged(second, **FOREVER)
    real.shop.registry.move_alias(name, "candidate", "2")
    done = real(f"models:/{name}@candidate", *TO, "--dry-run")
    assert (done.code, done.lines[0]) == (0, f"would move champion of {name} from version 1 to version 2")
    assert real.alias(first) == "1"
    done = real(f"models:/{name}@candidate", *TO)
    assert (done.code, done.lines[0]) == (0, f"moved champion of {name} from version 1 to version 2")
    assert real.alias(first) == "2"


def test_each_reason_has_a_line(gate):
    good, other = gate.shop.model(), gate.shop.model()
    evidence = gate.shop.judged(good, policy=resolve("internal").digest, until="2020-01-01")
    gate.shop.forge(other, gate.shop.tags(good))
    done = gate(other, *TO, "--attestation", evidence.out)
    assert (done.code, done.stderr.startswith("  hint: these are not the files that were judged")) == (1, True)
    assert done.lines[0] == f"refused: {other}, sha256 {gate.shop.digest(other)}: champion was not moved"
    assert [line.split(":")[0].strip() for line in done.lines[1:]] == ["tags", "subject", "policy", "freshness"]
    assert gate.alias(other) is None


def test_for_machines(gate):
    uri, other = gate.shop.model(), gate.shop.model()
    evidence = gate.shop.judged(uri, **FOREVER)
    wanted = {
        "model": uri,
        "alias": "champion",
        "model_sha256": gate.shop.digest(uri),
        "promoted": False,
        "before": None,
        "after": "1",
        "reasons": [],
        "source": f"evidence run {evidence.run}",
    }
    for promoted, options in ((False, ["--dry-run"]), (True, [])):
        done = gate(uri, *TO, "--json", *options)
        said = json.loads(done.stdout)
        assert said.pop("signed")["key_id"] == ID
        assert (done.code, said) == (0, {**wanted, "promoted": promoted})
    done = gate(other, *TO, "--json")
    refused = json.loads(done.stdout)
    assert (done.code, refused["promoted"], refused["after"], refused["signed"]) == (1, False, None, None)
    assert len(refused["reasons"]) == 1
    assert set(refused) == {*wanted, "signed"}


def test_the_policy_is_the_configs(real, tmp_path, monkeypatch):
    uri = real.shop.model()
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump({"apiVersion": "privacy-gate/v1", "extends": "internal"}))
    real.shop.judged(uri, policy=resolve(tmp_path / "policy.yaml").digest, **FOREVER)
    assert real(uri, *TO).code == 1
    assert real(uri, *TO, "--policy", "policy.yaml").code == 0
    assert real(uri, *TO, "--profile", "strict").code == 1
    config = {
        "apiVersion": "privacy-gate/v1",
        "tracking_uri": real.shop.uri,
        "data": {"members": "a.csv", "nonmembers": "b.csv"},
        "policy": "policy.yaml",
    }
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert real(uri, *TO, "--policy", "policy.yaml").code == 2, "there is no registry"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    assert real(uri, *TO, "--config", "other.yaml").code == 0
    (tmp_path / "privacy-gate.yaml").write_text(yaml.safe_dump(config))
    assert real(uri, *TO).code == 0
    assert real(uri, *TO, "--profile", "standard").code == 1


def test_the_key_may_come_from_the_environment(gate, tmp_path, monkeypatch):
    uri = gate.shop.model()
    gate.shop.judged(uri, **FOREVER)
    monkeypatch.setenv("PRIVACY_GATE_PUBLIC_KEY_FILE", str(tmp_path / "key.pub"))
    assert gate(uri, *TO, key=None).code == 0
    monkeypatch.setenv("PRIVACY_GATE_PUBLIC_KEY_FILE", str(tmp_path / "absent.pub"))
    assert gate(uri, *TO, key=None).code == 2
    assert gate(uri, *TO).code == 0, "what is given wins"


def test_files_at_hand(gate):
    uri = gate.shop.model()
    evidence = gate.shop.judged(uri, attach=False, **FOREVER)
    assert gate(uri, *TO).code == 1
    assert gate(uri, *TO, "--attestation", evidence.out / "attestation.json").code == 0
    (evidence.out / "report.json").rename(evidence.out / "r.json")
    done = gate(uri, *TO, "--attestation", evidence.out, "--report", evidence.out / "r.json")
    assert done.code == 0
    assert "the given attestation" in done.lines[1]
    (evidence.out / "r.json").write_bytes(b"{}")
    done = gate(uri, *TO, "--attestation", evidence.out, "--report", evidence.out / "r.json")
    assert (done.code, done.lines[1].strip().split(":")[0]) == (1, "report")


def test_what_was_taken_back_stays_so(gate):
    """Also where a deleted run says so: see the registry's own tests."""
    uri = gate.shop.model()
    gate.shop.judged(uri, **FOREVER)
    taken = gate.shop.judged(uri, sample("inconclusive"), at="2026-09-01T13:00:00+00:00")
    gate.shop.junk(uri, 21)
    done = gate(uri, *TO)
    assert done.code == 1
    assert taken.run in done.lines[1]
    assert gate.alias(uri) is None


def test_runs_beyond_those_that_are_looked_through_refuse(gate):
    uri = gate.shop.model()
    gate.shop.judged(uri, **FOREVER)
    gate.shop.junk(uri, 2)
    done = gate(uri, *TO, "--most-runs", 2)
    assert (done.code, gate.alias(uri)) == (1, None)
    assert "more than 2 runs" in done.lines[1]
    assert "see who made those runs" in done.stderr
    assert gate(uri, *TO, "--most-runs", 3).code == 0
    assert gate(uri, *TO, "--most-runs", 0).code == 2


def test_the_default_of_the_verb_is_the_modules():
    import inspect

    assert inspect.signature(verb_of_promote).parameters["most_runs"].default == MOST_RUNS


def test_a_thief_and_a_failure(gate):
    uri = gate.shop.model()
    gate.shop.judged(uri, key=THIEF, **FOREVER)
    done = gate(uri, *TO)
    assert done.code == 1
    assert "signed by a key that is not trusted" in done.lines[1]
    failed = gate.shop.model()
    gate.shop.judged(failed, sample("fail"))
    done = gate(failed, *TO)
    assert done.code == 1
    assert "result: FAILED" in done.lines[1]


@pytest.mark.parametrize(
    ("arguments", "key", "said"),
    [
        ((), "key.pub", "--alias is missing"),
        (TO, None, "--key is missing"),
        (TO, "absent.pub", "absent.pub"),
        (TO, "private.pem", "not a public key"),
        ((*TO, "--policy", "absent.yaml"), "key.pub", "absent.yaml"),
        ((*TO, "--policy", "p.yaml", "--profile", "strict"), "key.pub", "exclude each other"),
        ((*TO, "--attestation", "absent.json"), "key.pub", "absent.json"),
        ((*TO, "--report", "absent.json"), "key.pub", "absent.json"),
        ((*TO, "--config", "absent.yaml"), "key.pub", "absent.yaml"),
        (("--alias", "v3"), "key.pub", "the registry refuses it"),
    ],
)
def test_a_wrong_request_ends_with_2(real, approved, tmp_path, arguments, key, said):
    (tmp_path / "private.pem").write_bytes(PRIVATE_PEM)
    done = real(approved, *arguments, key=key)
    assert (done.code, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split())
    assert real.alias(approved) is None


@pytest.mark.parametrize(
    "uri", ["models:/nobody/1", "models:/nobody@candidate", "models:/x", "folder", "runs:/a/model"]
)
def test_what_is_no_version_ends_with_2(real, uri):
    done = real(uri, *TO)
    assert (done.code, done.stdout) == (2, "")


def test_nobody_there_ends_with_3(real, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    done = real("models:/churn/1", *TO)
    assert (done.code, done.stdout) == (3, "")
    assert "hint" in done.stderr


def test_today_is_what_counts(gate, monkeypatch):
    uri = gate.shop.model()
    gate.shop.judged(uri)  # until 2026-11-30
    monkeypatch.setattr(time, "time", lambda: 1_796_083_199.0)  # 2026-11-30T23:59:59Z
    assert gate(uri, *TO, "--dry-run").code == 0
    monkeypatch.setattr(time, "time", lambda: 1_796_083_200.0)
    assert gate(uri, *TO, "--dry-run").code == 1
