"""`privacy-gate doctor`: finds what would stop a check, changes nothing, and tells the mend."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from privacy_gate import registry
from privacy_gate.cli import doctor as verb
from privacy_gate.cli import run
from privacy_gate.errors import RegistryUnreachable
from privacy_gate.registry import Probe
from privacy_gate.resources import templates

CONFIG = """apiVersion: privacy-gate/v1
tracking_uri: https://mlflow.example.org
data: {members: in.csv, nonmembers: out.csv}
"""

Usage = namedtuple("Usage", "total used free")


class FakeRegistry:
    """Answers a ping."""

    def __init__(self, *probes: Probe) -> None:
        self.probes = probes

    def ping(self) -> list[Probe]:
        return list(self.probes)


WELL = (Probe("registry", True, "answers"), Probe("read", True, "seen"), Probe("write", True, "takes writes"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a config whose files are there, a store of its own, and a registry that is well."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PRIVACY_GATE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**12))
    monkeypatch.setattr(registry, "open_registry", lambda *a: FakeRegistry(*WELL))
    Path("privacy-gate.yaml").write_text(CONFIG)
    Path("in.csv").touch()
    Path("out.csv").touch()
    return tmp_path


def examined(capsys, *arguments):
    """(exit code, name -> finding)."""
    code = run(["doctor", "--json", *arguments])
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == code
    return code, {finding["name"]: finding for finding in told["findings"]}


def test_all_well(here, capsys):
    before = sorted(here.iterdir())
    code, found = examined(capsys)
    assert code == 0
    assert {finding["status"] for finding in found.values()} == {"ok"}
    assert {"python", "mlflow", "torch", "scikit-learn", "cores", "telemetry", "config", "policy", "data"} <= set(found)
    assert {"registry", "read", "write", "store", "report"} <= set(found)
    assert sorted(here.iterdir()) == before  # nothing was made


def test_text_shows_the_mend(here, capsys, monkeypatch):
    monkeypatch.setattr(
        registry, "open_registry", lambda *a: FakeRegistry(Probe("registry", False, "gone\x1b[2J", "wake it"))
    )
    assert run(["doctor"]) == 3
    out = capsys.readouterr().out
    assert "✖ registry" in out
    assert "→ wake it" in out
    assert "\x1b" not in out


# --- configuration: 2 -------------------------------------------------------------------------------------------------


def test_a_wrong_config_is_2(here, capsys):
    Path("privacy-gate.yaml").write_text(CONFIG + "shadowz: {}\n")
    code, found = examined(capsys)
    assert code == 2
    assert "privacy-gate.yaml:4:" in found["config"]["detail"]


def test_no_config_is_a_warning_unless_it_was_named(here, capsys):
    Path("privacy-gate.yaml").unlink()
    code, found = examined(capsys)
    assert (code, found["config"]["status"]) == (0, "warn")
    code, found = examined(capsys, "--config", "nowhere.yaml")
    assert (code, found["config"]["status"]) == (2, "fail")


def test_a_missing_file_is_2(here, capsys):
    Path("out.csv").unlink()
    code, found = examined(capsys)
    assert code == 2
    assert "out.csv" in found["data.nonmembers"]["detail"]
    assert "data.members" not in found


def test_a_wrong_policy_is_2(here, capsys):
    Path("privacy-gate.yaml").write_text(CONFIG + "policy: p.yaml\n")
    assert examined(capsys)[0] == 2
    Path("p.yaml").write_text("apiVersion: privacy-gate/v1\nextends: standard\nrules: {PG101: {max: 7}}\n")
    code, found = examined(capsys)
    assert code == 2
    assert "p.yaml:3:" in found["policy"]["detail"]


def test_recipe_files_are_looked_for(here, capsys):
    Path("privacy-gate.yaml").write_text(CONFIG + "shadows: {recipe: {python: 'train.py:train'}}\n")
    code, found = examined(capsys)
    assert (code, found["shadows.recipe.python"]["status"]) == (2, "fail")
    Path("train.py").touch()
    assert examined(capsys)[0] == 0


def test_a_recipe_that_is_still_the_draft_is_2(here, capsys):
    draft = templates() / "scaffolds" / "shadow_recipe.py.jinja"
    text = re.sub("<%.*?%>", "", draft.read_text())
    Path("shadow_recipe.py").write_text(text)
    for recipe in ("{python: 'shadow_recipe.py:train'}", "{model: 'shadow_recipe.py:build', training: {epochs: 1}}"):
        Path("privacy-gate.yaml").write_text(CONFIG + f"shadows: {{recipe: {recipe}}}\n")
        Path("shadow_recipe.py").write_text(text)
        code, found = examined(capsys)
        name = "shadows.recipe.python" if "python" in recipe else "shadows.recipe.model"
        assert (code, found[name]["status"]) == (2, "fail")
        assert "still the draft" in found[name]["detail"]
        Path("shadow_recipe.py").write_text(text.replace("raise NotImplementedError", "return print"))
        assert examined(capsys)[0] == 0
        Path("shadow_recipe.py").write_text("def train(:\n")  # not the doctor's to judge
        assert examined(capsys)[0] == 0


def test_every_kind_of_source_is_looked_for(here, capsys):
    """Folders, URLs, which are not opened, and functions, which are not run."""
    (here / "shots" / "cats").mkdir(parents=True)
    (here / "shots" / "cats" / "1.png").touch()
    Path("make.py").write_text("open('ran', 'w')\ndef records():\n    return 1\n")
    sources = """apiVersion: privacy-gate/v1
tracking_uri: https://mlflow.example.org
data:
  members: shots
  nonmembers: https://nowhere.invalid/out.csv?signature=abc
  population: {dataset: "make.py:records"}
  seen: runs:/0123/seen.csv
  images: {}
"""
    Path("privacy-gate.yaml").write_text(sources)
    code, found = examined(capsys)
    assert code == 0
    assert found["data.nonmembers"]["detail"] == "https://nowhere.invalid/out.csv, looked at when used"
    assert found["data.population"]["detail"] == "make.py:records, run when used"
    assert not Path("ran").exists()
    assert "data" in found
    Path("privacy-gate.yaml").write_text(sources.replace("  images: {}\n", ""))
    code, found = examined(capsys)
    assert (code, found["data.members"]["status"]) == (2, "fail")
    assert "data.images does not say" in found["data.members"]["detail"]


@pytest.mark.parametrize(
    ("members", "detail"),
    [
        ("https://me:hidden@example.org/in.csv", "user or password"),
        ("{dataset: 'make.py:record'}", "defines no 'record'"),
        ("{dataset: 'makes.py:records'}", "there is no file"),
        ("{path: in.csv, format: excel}", "no data format is called 'excel'"),
        ("in.xlsx", "no such file"),
        ("plain", "unknown kind of folder; in it: nothing"),
        ("nowhere://bucket/in.csv", "nothing here knows nowhere://"),
    ],
)
def test_a_source_that_cannot_be_used_is_2(here, capsys, members, detail):
    Path("make.py").write_text("def records():\n    return 1\n")
    Path("plain").mkdir()
    Path("privacy-gate.yaml").write_text(CONFIG.replace("members: in.csv", f"members: {members}", 1))
    code, found = examined(capsys)
    assert (code, found["data.members"]["status"]) == (2, "fail")
    assert detail in found["data.members"]["detail"]
    assert "hidden" not in str(found)
    assert "data" not in found


def test_models_of_other_records_and_files_of_training_are_looked_for(here, capsys):
    recipe = "[{model: 'models:/m/1', members: in.csv}, {model: 'models:/m/2', members: fold2.csv}]"
    Path("privacy-gate.yaml").write_text(CONFIG + f"shadows: {{recipe: {{load: {recipe}}}}}\n")
    code, found = examined(capsys)
    assert (code, found["shadows.recipe.load[1].members"]["status"]) == (2, "fail")
    assert "shadows.recipe.load[0].members" not in found
    Path("net.py").touch()
    training = "{epochs: 1, initial: start.pt, augment: 'flip.py:flip'}"
    Path("privacy-gate.yaml").write_text(CONFIG + f"shadows: {{recipe: {{model: 'net.py:n', training: {training}}}}}\n")
    code, found = examined(capsys)
    failed = {name for name, finding in found.items() if finding["status"] == "fail"}
    assert (code, failed) == (2, {"shadows.recipe.training.initial", "shadows.recipe.training.augment"})


def test_no_registry_configured_is_2_with_a_config(here, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    Path("privacy-gate.yaml").write_text(CONFIG.replace("tracking_uri: https://mlflow.example.org\n", ""))
    code, found = examined(capsys, "--store", "store")
    assert (code, found["registry"]["status"]) == (2, "fail")
    Path("privacy-gate.yaml").unlink()
    code, found = examined(capsys, "--store", "store")
    assert found["registry"]["status"] == "warn"  # predictions can be judged without one
    assert not Path("mlflow.db").exists()


# --- registry and disks: 3 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("broken", "code"), [("registry", 3), ("read", 3), ("write", 0)])
def test_probes(here, capsys, monkeypatch, broken, code):
    probes = [Probe(p.name, p.name != broken, p.detail, "ask") for p in WELL]
    monkeypatch.setattr(registry, "open_registry", lambda *a: FakeRegistry(*probes))
    ended, found = examined(capsys)
    assert (ended, found[broken]["status"]) == (code, "fail" if code else "warn")


def test_a_registry_that_raises_is_3_and_a_wrong_config_beats_it(here, capsys, monkeypatch):
    def gone(*arguments):
        raise RegistryUnreachable("no answer", "is the VPN up?")

    monkeypatch.setattr(registry, "open_registry", gone)
    code, found = examined(capsys)
    assert (code, found["registry"]["mend"]) == (3, "is the VPN up?")
    Path("in.csv").unlink()
    assert examined(capsys)[0] == 2


@pytest.mark.parametrize(("free", "status", "code"), [(10**8, "fail", 3), (10**9, "warn", 0)])
def test_a_full_disk(here, capsys, monkeypatch, free, status, code):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, free))
    ended, found = examined(capsys)
    assert (ended, found["store"]["status"], found["report"]["status"]) == (code, status, status)


def test_a_store_that_others_can_look_into(here, capsys):
    store = here / "store"
    store.mkdir(mode=0o700)
    assert "store mode" not in examined(capsys)[1]
    store.chmod(0o750)
    code, found = examined(capsys)
    assert (code, found["store mode"]["status"]) == (0, "warn")
    assert found["store mode"]["mend"].startswith("chmod 700")


def test_places_that_cannot_be_written_to(here, capsys, monkeypatch):
    assert examined(capsys, "--store", "in.csv/below")[0] == 3
    denied = lambda path, mode: mode & os.W_OK == 0  # noqa: E731  (root may write anywhere)
    monkeypatch.setattr(verb.os, "access", denied)
    code, found = examined(capsys)
    assert (code, found["report"]["status"]) == (3, "fail")


# --- the installation -------------------------------------------------------------------------------------------------


def test_versions_out_of_range(here, capsys, monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.22.0" if name == "mlflow" else real(name))
    code, found = examined(capsys)
    assert (code, found["mlflow"]["status"]) == (3, "fail")
    assert "pip install" in found["mlflow"]["mend"]
    assert found["rest"]["status"] == "warn"  # what would import it is not looked at
    assert "registry" not in found


def test_a_library_that_is_missing(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "scipy":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {finding.name: finding for finding in verb.installation()}
    assert (found["scipy"].status, found["scipy"].detail) == ("fail", "not installed")
    assert "hypothesis" not in found  # an extra


def test_a_checkout_that_is_not_installed():
    (finding,) = verb.installation("no-such-distribution")
    assert finding.status == "warn"


def test_telemetry_that_was_switched_on(here, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "False")
    code, found = examined(capsys)
    assert (code, found["telemetry"]["status"]) == (0, "warn")


def test_as_a_program(tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PRIVACY_GATE_"))}
    command = [sys.executable, "-m", "privacy_gate", "doctor", "--config", "nowhere.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "✖ config" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_lines_that_init_left_to_a_person_are_told(here, capsys):
    code, found = examined(capsys)
    assert (code, "TODO" in found) == (0, False)
    header = "# Drafted by `privacy-gate init` 1.0. Lines marked TODO need a person.\n"
    left = "# TODO: right?\n# a: b  # TODO: which?\n# of ours: no TODO\n"
    Path("privacy-gate.yaml").write_text(header + CONFIG + left)
    code, found = examined(capsys)
    assert (code, found["TODO"]["status"]) == (0, "warn")
    assert found["TODO"]["detail"] == "2 lines of privacy-gate.yaml still need a person"
    assert found["TODO"]["mend"].startswith("look at lines 5, 6")
    Path("privacy-gate.yaml").write_text(f"{CONFIG}# TODO: of ours\n")  # not from a draft
    assert "TODO" not in examined(capsys)[1]


def test_doctor_does_not_advise_itself(here, capsys, monkeypatch):
    def unreachable(*a):
        raise RegistryUnreachable("http://r: is down", "is the server up and the address right? `privacy-gate doctor`")

    monkeypatch.setattr(registry, "open_registry", unreachable)
    code, found = examined(capsys)
    assert (code, found["registry"]["mend"]) == (3, "is the server up and the address right?")
