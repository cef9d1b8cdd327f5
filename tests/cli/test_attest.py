"""`privacy-gate attest`: keys, what it says, and the evidence run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import privacy_gate.cli.attest  # noqa: F401  (enters its verb)
from privacy_gate import cli
from privacy_gate.attestation import new_key, opened, public_keys
from privacy_gate.registry import RecordedReport, open_registry
from privacy_gate.reports import document, write
from privacy_gate.reports.document import MlflowLog
from tests.cli.test_init import model_folder
from tests.mlflow_server import embedded_registry
from tests.test_attestation import ID, KEYS, PEM, PRIVATE_PEM, excused, sample, without_model, written


@pytest.fixture
def gate(tmp_path, monkeypatch, capsys):
    """A folder with a passing report and a key, and the verb."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "PRIVACY_GATE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    keep(tmp_path / "key.pem", PRIVATE_PEM)
    written(logged(None), tmp_path / "privacy-gate-report")

    def run(*arguments):
        capsys.readouterr()
        code = cli.run(["attest", *map(str, arguments)])
        said = capsys.readouterr()
        return SimpleNamespace(code=code, stdout=said.out, stderr=said.err)

    run.folder = tmp_path / "privacy-gate-report"
    run.file = run.folder / "attestation.json"
    return run


def keep(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def logged(run_id: str | None) -> document.Report:
    """The passing report, as it is when its evidence run is that one."""
    report = sample("pass")
    return report.model_copy(update={"run": report.run.model_copy(update={"mlflow": MlflowLog(run_id=run_id)})})


def test_it_signs_the_report_and_says_so(gate):
    done = gate("--key", "key.pem")
    said = "signed models:/adult-regression/12 (sha256 9f2c1e7ab0d3): PASSED, pass, valid until 2026-11-30"
    assert (done.code, done.stdout) == (0, f"{said}; key {ID[:12]}\n")
    assert done.stderr.splitlines() == [
        "privacy-gate-report/attestation.json",
        "not attached: the report names no evidence run",
    ]
    assert opened(gate.file.read_bytes(), KEYS).subject == "models:/adult-regression/12"
    assert gate.file.stat().st_mode & 0o777 == 0o600


def test_a_violation_behind_exit_zero_is_signed_as_one(gate):
    written(excused(), gate.folder)
    done = gate("--key", "key.pem", "--no-mlflow-log")
    assert done.code == 0
    assert ": FAILED, fail; key" in done.stdout
    assert done.stderr == "privacy-gate-report/attestation.json\n"


@pytest.mark.parametrize("given", ["privacy-gate-report", "privacy-gate-report/", "privacy-gate-report/report.json"])
def test_the_folder_or_its_report(gate, given):
    assert gate(given, "--key", "key.pem").code == 0
    assert gate.file.exists()


def test_another_place(gate):
    assert gate("--key", "key.pem", "--out", "signed.json").code == 0
    assert opened(Path("signed.json").read_bytes(), KEYS)
    assert not gate.file.exists()


def test_the_key_comes_from_the_environment(gate, monkeypatch):
    monkeypatch.setenv("PRIVACY_GATE_SIGNING_KEY", PRIVATE_PEM.decode())
    assert gate().code == 0
    monkeypatch.delenv("PRIVACY_GATE_SIGNING_KEY")
    monkeypatch.setenv("PRIVACY_GATE_SIGNING_KEY_FILE", "key.pem")
    assert gate().code == 0
    Path("key.pem").chmod(0o644)
    done = gate()
    assert done.code == 2
    assert "key.pem: a signing key that others can read or change (mode 0644)" in done.stderr
    monkeypatch.setenv("PRIVACY_GATE_SIGNING_KEY", PRIVATE_PEM.decode())
    assert "are both set" in gate().stderr
    assert gate("--key", keep(Path("other.pem"), new_key()[0])).code == 0  # what was given here comes first


def test_an_encrypted_key_needs_its_password(gate, monkeypatch):
    private, public = new_key("correct horse")
    keep(Path("key.pem"), private)
    done = gate("--key", "key.pem")
    assert (done.code, "set PRIVACY_GATE_SIGNING_PASSWORD" in done.stderr) == (2, True)
    monkeypatch.setenv("PRIVACY_GATE_SIGNING_PASSWORD", "battery staple")
    done = gate("--key", "key.pem")
    assert (done.code, "cannot be decrypted" in done.stderr, "staple" in done.stderr) == (2, True, False)
    assert not gate.file.exists()
    monkeypatch.setenv("PRIVACY_GATE_SIGNING_PASSWORD", "correct horse")
    assert gate("--key", "key.pem").code == 0
    assert opened(gate.file.read_bytes(), public_keys(public))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "there is no key to sign with"),
        (("--key", "none.pem"), "none.pem: No such file"),
        (("--key", "open.pem"), "others can read or change (mode 0604)"),
        (("--key", "public.pem"), "is a public key"),
        (("elsewhere", "--key", "key.pem"), "elsewhere: no folder of a report"),
        ((".", "--key", "key.pem"), "report.json: no such report"),
        (("--new-key", "new.pem", "--key", "key.pem"), "--key has no meaning with it"),
        (("privacy-gate-report", "--new-key", "new.pem", "--no-mlflow-log"), "REPORT, --no-mlflow-log has no meaning"),
        (("--new-key", "key.pem"), "key.pem: is there already"),
    ],
)
def test_wrong_usage_ends_with_2_and_writes_nothing(gate, arguments, said):
    keep(Path("public.pem"), PEM)
    keep(Path("open.pem"), PRIVATE_PEM, 0o604)
    before = sorted(Path().rglob("*"))
    done = gate(*arguments)
    assert (done.code, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split())
    assert "hint" in done.stderr
    assert sorted(Path().rglob("*")) == before
    assert Path("key.pem").read_bytes() == PRIVATE_PEM


def test_a_changed_report_is_not_signed(gate):
    path = gate.folder / "report.json"
    path.write_text(path.read_text().replace("adult-regression", "adult-regressioN", 1))
    done = gate("--key", "key.pem")
    assert (done.code, "was changed after it was written" in done.stderr) == (2, True)
    assert not gate.file.exists()


def test_names_of_strangers_move_no_cursor(gate):
    # The document was sealed by somebody who can write JSON.
    written(without_model(resolved_uri="models:/a\x1b[2Jb\n::error::/1"), gate.folder)
    done = gate("--key", "key.pem")
    assert done.code == 0
    assert "\x1b" not in done.stdout
    assert "\n::error" not in done.stdout


# --- new keys ---


def test_a_new_key_is_the_owner_s_alone(gate):
    before = os.umask(0)
    try:
        done = gate("--new-key", "new.pem")
    finally:
        os.umask(before)
    assert done.code == 0
    private, public = Path("new.pem"), Path("new.pem.pub")
    assert [path.stat().st_mode & 0o777 for path in (private, public)] == [0o600, 0o644]
    (id,) = public_keys(public.read_bytes())
    assert done.stdout == f"key {id}\n"
    assert b"PRIVATE" not in public.read_bytes()
    assert gate("--key", "new.pem").code == 0
    assert opened(gate.file.read_bytes(), public_keys(public.read_bytes())).key_id == id


def test_an_old_public_key_is_not_overwritten_either(gate):
    Path("new.pem.pub").write_text("mine")
    done = gate("--new-key", "new.pem")
    assert (done.code, "new.pem.pub: is there already" in done.stderr) == (2, True)
    assert not Path("new.pem").exists()
    assert Path("new.pem.pub").read_text() == "mine"
    Path("link.pem").symlink_to("elsewhere.pem")
    assert gate("--new-key", "link.pem").code == 2
    assert gate("--new-key", "none/new.pem").code == 3
    assert not Path("elsewhere.pem").exists()


def test_a_new_key_is_encrypted_where_there_is_a_password(gate, monkeypatch):
    monkeypatch.setenv("PRIVACY_GATE_SIGNING_PASSWORD", "correct horse")
    assert gate("--new-key", "new.pem").code == 0
    assert b"ENCRYPTED" in Path("new.pem").read_bytes()
    assert gate("--key", "new.pem").code == 0


# --- the evidence run ---


@pytest.fixture
def judged(gate, tmp_path, monkeypatch):
    """A version of `churn` in an embedded registry, and the evidence run of its passing report."""
    from mlflow import MlflowClient

    uri = embedded_registry(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = model_folder(tmp_path / "model")
    client = MlflowClient(uri)
    client.create_registered_model("churn")
    client.create_model_version("churn", str(model))
    registry = open_registry(uri, None)
    candidate = registry.resolve("models:/churn/1", tmp_path / "snapshot")
    report = without_model(resolved_uri="models:/churn/1", digest=candidate.digest)
    paths = write(report, gate.folder, ["html"])
    files = [paths["json"], paths["html"]]
    run = registry.record(candidate, RecordedReport("pass", candidate.digest, "77" * 32, files=files)).run_id
    mlflow = MlflowLog(run_id=run)
    write(report.model_copy(update={"run": report.run.model_copy(update={"mlflow": mlflow})}), gate.folder, ["html"])
    return SimpleNamespace(client=client, run=run, registry=registry, model=model)


def test_what_was_signed_goes_into_the_evidence_run(judged, gate, tmp_path):
    def there(name: str) -> bytes:
        return judged.registry.fetch(f"runs:/{judged.run}/privacy-gate/{name}", tmp_path / "fetched").read_bytes()

    signed = (gate.folder / "report.json").read_bytes()
    assert there("report.json") != signed  # when it was put there it could not name the run
    done = gate("--key", "key.pem", "--no-mlflow-log")
    assert (done.code, "attached" in done.stderr) == (0, False)
    assert there("report.json") != signed
    done = gate("--key", "key.pem", "--out", "signed.json")
    assert done.code == 0
    assert f"attached to run {judged.run}: report.json, report.html, attestation.json" in done.stderr
    away = tmp_path / "away"  # from there it can be verified, without anything of this folder but the key
    away.mkdir()
    for name in ("report.json", "report.html", "attestation.json"):
        (away / name).write_bytes(there(name))
    assert (away / "report.json").read_bytes() == signed
    assert (away / "attestation.json").read_bytes() == Path("signed.json").read_bytes()
    keep(Path("key.pub"), PEM, 0o644)
    verify = ["verify", str(away), "--key", "key.pub", "--at", "2026-09-02", "--model", "models:/churn/1"]
    assert cli.run(verify) == 0
    (judged.model / "model.skops").write_bytes(b"y")
    assert cli.run(verify) == 1


def test_a_run_of_somebody_else_is_left_alone(judged, gate):
    client = judged.client
    other = client.create_run(client.get_experiment_by_name("training").experiment_id).info.run_id
    written(logged(other), gate.folder)
    done = gate("--key", "key.pem")
    assert (done.code, f"run {other} is no evaluation" in done.stderr) == (2, True)
    assert client.list_artifacts(other) == []
    assert "signed models:/adult-regression/12" in done.stdout  # that is done, and said
    assert gate.file.exists()


def test_a_registry_that_does_not_answer_ends_with_3(gate, monkeypatch):
    """Of `verify`, too: whether the model is the one that was signed is not known then."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    written(logged("0" * 32), gate.folder)
    done = gate("--key", "key.pem")
    assert (done.code, "signed models:/adult-regression/12" in done.stdout) == (3, True)
    keep(Path("key.pub"), PEM, 0o644)
    assert cli.run(["verify", str(gate.folder), "--key", "key.pub", "--model", "models:/churn/1"]) == 3


def test_without_a_server_it_says_that_nothing_was_attached(gate):
    written(logged("0" * 32), gate.folder)
    done = gate("--key", "key.pem")
    assert done.code == 0
    said = " ".join(done.stderr.split())
    assert f"not attached to run {'0' * 32}, so that promote does not find it there: no registry is named" in said


def test_the_config_names_the_registry(gate, monkeypatch):
    """As for `check`: the one of this folder, or --config; the environment is asked for what neither says."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    written(logged("0" * 32), gate.folder)
    keep(Path("key.pub"), PEM, 0o644)
    verify = ["verify", str(gate.folder), "--key", "key.pub", "--model", "models:/churn/1"]
    assert gate("--key", "key.pem").code == 0
    assert cli.run(verify) == 2  # no registry is named
    config = (
        'apiVersion: privacy-gate/v1\ntracking_uri: "http://127.0.0.1:9"\n'
        "data: {members: m.csv, nonmembers: n.csv, label: y}\n"
        "attacks: [a-plug-in-of-somebody]\n"  # looked up by whoever runs it, and not beside the key
    )
    Path("other.yaml").write_text(config)
    for option in (["--config", "other.yaml"], []):
        assert gate("--key", "key.pem", *option).code == 3
        assert cli.run([*verify, *option]) == 3
        Path("privacy-gate.yaml").write_text(config)
    assert gate("--key", "key.pem", "--no-mlflow-log").code == 0
    done = gate("--key", "key.pem", "--no-mlflow-log", "--config", "other.yaml")
    assert (done.code, "leave one out" in done.stderr) == (2, True)


def test_the_program_itself(gate):
    """As people run it; neither torch nor mlflow is needed to sign."""
    code = (
        "import sys, privacy_gate.cli as c; code = c.run(sys.argv[1:]);"
        "print(sorted({'torch', 'mlflow'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "attest", "--key", "key.pem"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["[]"]
    assert json.loads(gate.file.read_bytes())["payloadType"] == "application/vnd.in-toto+json"
