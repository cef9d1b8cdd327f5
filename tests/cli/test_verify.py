"""`privacy-gate verify`: one line per check, and an exit code that never says more than what was checked."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import privacy_gate.cli.verify  # noqa: F401  (enters its verb)
from privacy_gate import cli
from privacy_gate.attestation import attest
from privacy_gate.cli.verify import MENDS
from privacy_gate.policy import resolve
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.reports import document
from privacy_gate.reports.document import seal
from tests.cli.test_init import model_folder
from tests.test_attestation import ID, KEY, NOW, PEM, PRIVATE_PEM, excused, public_pem, sample, waived, warned, written

DAY = ("--at", "2026-09-02")


def signed(report, model: Path, out: Path) -> None:
    """The report, as if it were of that model by `standard`, and its attestation."""
    digest = InMemoryRegistry(keeps=False).resolve(str(model), model.parent / "work").digest
    standard = resolve("standard")
    subject = report.subject.model_copy(update={"digest": digest})
    policy = report.policy.model_copy(update={"name": standard.name, "digest": standard.digest})
    written(seal(report.model_copy(update={"subject": subject, "policy": policy})), out)
    attest(out, KEY, NOW)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A model folder, its passing report, the attestation and the public key; nobody writes to it."""
    folder = tmp_path_factory.mktemp("signed")
    model = model_folder(folder / "model")
    (model / "code").mkdir()
    (model / "code" / "loader.py").write_text("answer = 42\n")
    signed(sample("pass"), model, folder / "out")
    (folder / "key.pub").write_bytes(PEM)
    return folder


@pytest.fixture
def gate(original, tmp_path, monkeypatch, capsys):
    """A copy of it, and the verb."""
    folder = tmp_path / "here"
    shutil.copytree(original, folder)
    monkeypatch.chdir(folder)
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "PRIVACY_GATE_"))]:
        monkeypatch.delenv(name)

    def run(*arguments, key="key.pub", day=DAY):
        capsys.readouterr()
        code = cli.run(["verify", *map(str, arguments), *([] if key is None else ["--key", str(key)]), *day])
        said = capsys.readouterr()
        lines = {line[2:].split()[0]: line for line in said.out.splitlines() if line[:1] in {"✔", "✖", "–"}}
        return SimpleNamespace(
            code=code, stdout=said.out, stderr=said.err, lines=lines, closing=said.out.splitlines()[-1:]
        )

    run.model, run.out = folder / "model", folder / "out"
    run.sign = lambda report: signed(report, run.model, run.out)
    return run


EVERYTHING = ("out", "--model", "model", "--profile", "standard")


def marks(done) -> str:
    return " ".join(f"{line[0]}{name}" for name, line in done.lines.items())


def test_everything_holds(gate):
    done = gate(*EVERYTHING)
    assert marks(done) == "✔signature ✔subject ✔report ✔report.html ✔policy ✔freshness ✔result"
    assert (done.code, done.closing, done.stderr) == (0, ["holds"], "")
    assert done.lines["signature"].endswith(f"by key {ID}")
    assert done.lines["result"].endswith("PASSED: pass")
    assert "models:/adult-regression/12, sha256 " in done.lines["subject"]


def test_what_was_not_checked_is_said(gate):
    done = gate("out/attestation.json")
    assert marks(done) == "✔signature –subject ✔report ✔report.html –policy ✔freshness ✔result"
    assert (done.code, done.closing) == (0, ["holds; not checked: subject, policy"])
    assert done.lines["subject"].startswith("– subject     not checked; models:/adult-regression/12, sha256 ")
    assert done.lines["subject"].endswith("; the model was not given; --model hashes its files")
    (gate.out / "report.html").unlink()
    assert gate("out").closing == ["holds; not checked: subject, report.html, policy"]
    (gate.out / "report.json").unlink()
    done = gate("out")
    assert (done.code, done.closing) == (0, ["holds; not checked: subject, report, report.html, policy"])
    (gate.out / "report.html").write_text("<p>pass</p>")  # alone it is still looked at
    done = gate("out")
    assert (done.code, done.closing) == (1, ["does not hold: report.html; not checked: subject, report, policy"])


def broken(done, *names):
    assert (done.code, [name for name, line in done.lines.items() if line.startswith("✖")]) == (1, list(names))
    (closing,) = done.closing
    assert closing == f"does not hold: {', '.join(names)}"
    assert done.stderr == f"  hint: {MENDS[names[0]]}\n"  # of the first one, beside the answer


def test_another_model_or_policy(gate, tmp_path):
    other = model_folder(tmp_path / "other")
    broken(gate("out", "--model", other, "--profile", "standard"), "subject")
    broken(gate("out", "--model", "model", "--profile", "strict"), "policy")
    Path("policy.yaml").write_text(yaml.safe_dump({"apiVersion": "privacy-gate/v1", "extends": "internal"}))
    broken(gate("out", "--model", other, "--policy", "policy.yaml"), "subject", "policy")


def test_a_flipped_byte_in_any_file_of_the_model(gate):
    files = sorted(path for path in gate.model.rglob("*") if path.is_file())
    assert len(files) == 3
    for path in files:
        content = path.read_bytes()
        for place in sorted({0, len(content) // 2, len(content) - 1}):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            done = gate(*EVERYTHING)
            # An MLmodel that can no longer be read is no model: nothing is compared then.
            assert done.code == 2 if path.name == "MLmodel" and not done.stdout else done.code == 1
            assert "holds" not in done.closing
        path.write_bytes(content)
        assert gate(*EVERYTHING).code == 0
    (gate.model / "more").write_bytes(b"")
    broken(gate(*EVERYTHING), "subject")
    (gate.model / "more").unlink()
    (gate.model / "code" / "loader.py").rename(gate.model / "code" / "Loader.py")
    broken(gate(*EVERYTHING), "subject")


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_a_flipped_byte_in_a_report(gate, name):
    path = gate.out / name
    content = path.read_bytes()
    for place in (0, len(content) // 3, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        broken(gate(*EVERYTHING), "report" if name == "report.json" else "report.html")


def test_a_flipped_byte_in_the_attestation(gate):
    path = gate.out / "attestation.json"
    content = path.read_bytes()
    for place in (0, 20, content.index(b"keyid") + 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        done = gate(*EVERYTHING)
        assert done.code == 1
        assert marks(done) == "✖signature –subject –report –policy –freshness –result"
        assert done.closing == ["does not hold: nothing in this file is believed"]
        assert "adult" not in done.stdout


def test_a_replaced_key(gate, monkeypatch):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    thief = Ed25519PrivateKey.generate()
    attest(gate.out, thief, NOW)
    done = gate(*EVERYTHING)
    assert done.code == 1
    assert "signed by a key that is not trusted" in done.lines["signature"]
    Path("both.pub").write_bytes(PEM + public_pem(thief))
    assert gate(*EVERYTHING, key="both.pub").code == 0


def test_an_expired_verdict(gate):
    assert gate(*EVERYTHING, day=("--at", "2026-11-30")).code == 0
    broken(gate(*EVERYTHING, day=("--at", "2026-12-01")), "freshness")
    broken(gate(*EVERYTHING, day=("--at", "2026-08-31")), "freshness")


def test_today_is_the_default(gate, monkeypatch):
    report = sample("pass")
    verdict = report.verdict.model_copy(update={"valid_until": "9999-12-31"})
    gate.sign(report.model_copy(update={"verdict": verdict, "run": document.Run()}))
    assert gate(*EVERYTHING, day=()).code == 0
    gate.sign(report.model_copy(update={"verdict": verdict.model_copy(update={"valid_until": "2000-01-01"})}))
    assert "✖freshness" in marks(gate(*EVERYTHING, day=()))


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        (lambda: sample("fail"), 1, "FAILED: fail"),
        (lambda: sample("inconclusive"), 1, "FAILED: inconclusive"),
        (excused, 1, "FAILED: fail"),
        (waived, 0, "WARNED: pass with waivers"),
        (warned, 0, "PASSED: pass with warnings"),
    ],
)
def test_a_genuine_verdict_that_is_no_pass_ends_with_1(gate, report, code, said):
    gate.sign(report())
    done = gate(*EVERYTHING)
    assert done.lines["result"].endswith(said)
    assert done.code == code
    if code:
        assert done.closing == ["does not hold: result; not checked: freshness"]


def test_a_report_elsewhere(gate):
    (gate.out / "report.json").rename("moved.json")
    assert "report" in gate("out").closing[0]
    done = gate("out", "--report", "moved.json")
    assert done.lines["report"][0] == "✔"
    Path("moved.json").write_text("{}")
    assert gate("out", "--report", "moved.json").lines["report"][0] == "✖"


def test_json(gate):
    done = gate(*EVERYTHING, "--json")
    found = json.loads(done.stdout)
    assert (done.code, found["holds"], done.stderr) == (0, True, "")
    assert [c["name"] for c in found["checks"] if c["ok"]] == [
        "signature",
        "subject",
        "report",
        "report.html",
        "policy",
        "freshness",
        "result",
    ]
    assert found["signed"]["key_id"] == ID
    assert found["signed"]["status"] == json.loads((gate.out / "report.json").read_bytes())["verdict"]["status"]
    (gate.out / "attestation.json").write_text("{}")
    done = gate(*EVERYTHING, "--json")
    found = json.loads(done.stdout)
    assert (done.code, found["holds"], found["signed"]) == (1, False, None)


@pytest.mark.parametrize(
    ("arguments", "key", "said"),
    [
        (("out",), None, "--key is missing"),
        (("out",), "none.pub", "none.pub: No such file"),
        (("out",), "key.pem", "block 1 is a private key"),
        (("none",), "key.pub", "none: No such file"),
        (("model",), "key.pub", "model/attestation.json: No such file"),
        (("out", "--report", "none.json"), "key.pub", "none.json: No such file"),
        (("out", "--profile", "strict", "--policy", "x.yaml"), "key.pub", "exclude each other"),
        (("out", "--profile", "lax"), "key.pub", "lax"),
        (("out", "--model", "nowhere"), "key.pub", "nowhere"),
        (("out", "--model", "models:/churn/1"), "key.pub", "no MLflow registry is configured"),
        (("out", "--at", "tomorrow"), "key.pub", "write it as 2026-12-01"),
    ],
)
def test_wrong_usage_ends_with_2(gate, arguments, key, said):
    Path("key.pem").write_bytes(PRIVATE_PEM)
    done = gate(*arguments, key=key, day=() if "--at" in arguments else DAY)
    assert (done.code, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split())
