"""What a stranger may name as records, and what not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from privacy_gate.documents import parse
from privacy_gate.errors import ConfigError, DataError
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.request import DataManifest
from privacy_gate.service import run_config
from privacy_gate.sources import CATALOG

RUN = "0123456789abcdef0123456789abcdef"
GOOD = {"members": "members.csv", "nonmembers": "nonmembers.parquet"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root beside which there are things that are nobody's business."""
    made = tmp_path / "team-a"
    made.mkdir()
    (made / "records.csv").write_text("y\n1\n")
    (tmp_path / "team-abc").mkdir()
    (tmp_path / "team-abc" / "records.csv").write_text("y\n1\n")
    (tmp_path / "secret.csv").write_text("y\n1\n")
    (made / "out.csv").symlink_to(tmp_path / "secret.csv")
    (made / "up").symlink_to(tmp_path)
    images = made / "images"
    images.mkdir()
    (images / "a.png").symlink_to(tmp_path / "secret.csv")
    os.mkfifo(made / "pipe.csv")
    state = made / "state"
    state.mkdir()
    (state / "queue.csv").write_text("y\n1\n")
    return made


def read(tmp_path: Path, content: Any, *roots: object, closed: tuple[Path, ...] = ()) -> DataManifest:
    file = tmp_path / "data.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return run_config.manifest(parse(file, "data.yaml"), RUN, [str(root) for root in roots], closed)


def refused(tmp_path: Path, content: Any, *roots: object, closed: tuple[Path, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content, *roots, closed=closed)
    assert all(finding.line >= 1 and finding.file == "data.yaml" for finding in caught.value.diagnostics)
    return caught.value.what


def test_relative_paths_are_artifacts_beside_the_file_and_every_place_has_its_reader(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD | {"population": {"path": f"runs:/{RUN}/all/photos", "format": "images"}})
    assert found.members.path == f"runs:/{RUN}/privacy_gate/members.csv"
    assert (found.members.format, found.nonmembers.format) == ("csv", "parquet")
    assert found.population is not None
    assert found.population.path == f"runs:/{RUN}/all/photos"


def test_all_that_describes_records_is_taken_as_the_config_would_take_it(tmp_path: Path) -> None:
    described = {
        "label": "sick",
        "classes": ["no", "yes"],
        "id": "row",
        "person": "who",
        "groups": ["ward"],
        "weight": "w",
        "features": ["a", "b"],
        "schema": {"a": "integer", "b": {"dtype": "category", "levels": ["x", "y"]}},
        "images": {"size": [8, 8], "mode": "L"},
        "drop": ["c"],
        "missing": "allow",
        "train_size": 12,
    }
    found = read(tmp_path, GOOD | described)
    sources = {
        "members": {"path": f"runs:/{RUN}/privacy_gate/members.csv", "format": "csv"},
        "nonmembers": {"path": f"runs:/{RUN}/privacy_gate/nonmembers.parquet", "format": "parquet"},
    }
    assert found == DataManifest.model_validate(described | sources)


def test_there_is_a_key_for_all_that_describes_records_and_for_no_code() -> None:
    assert set(run_config.RunData.model_fields) == set(DataManifest.model_fields) - {"env"}
    assert set(run_config.RunSource.model_fields) == {"path", "format", "sha256"}


def test_every_reader_was_thought_about() -> None:
    assert set(run_config.FORMATS) | {"huggingface"} == set(CATALOG.names())


KEYS: dict[str, tuple[Any, str]] = {
    "a function makes the members": (
        {**GOOD, "members": {"dataset": "evil.py:load"}},
        "members.dataset: would run code",
    ),
    "a function beside a path": (
        {**GOOD, "members": {"path": "m.csv", "dataset": "evil.py:load"}},
        "members.dataset: would run code",
    ),
    "variables of the service": ({**GOOD, "env": ["AWS_SECRET_ACCESS_KEY"]}, "env: no function is called"),
    "variables within a source": ({**GOOD, "seen": {"path": "m.csv", "env": ["A"]}}, "seen.env: no function"),
    "a policy": ({**GOOD, "policy": "mine.yaml"}, "policy: is the service's to say"),
    "a profile": ({**GOOD, "profile": "internal"}, "profile: is the service's to say"),
    "a recipe": ({**GOOD, "recipe": {"python": "evil.py:train"}}, "recipe: is the service's to say"),
    "shadows": ({**GOOD, "shadows": {"recipe": {"command": ["sh"]}}}, "shadows: is the service's to say"),
    "a command": ({**GOOD, "command": ["curl", "evil"]}, "command: is the service's to say"),
    "an interpreter": ({**GOOD, "environment": "/tmp/evil"}, "environment: is the service's to say"),
    "attacks": ({**GOOD, "attacks": ["correctness"]}, "attacks: is the service's to say"),
    "a defence": ({**GOOD, "defence": {"memguard": {}}}, "defence: is the service's to say"),
    "waivers": ({**GOOD, "waivers": "w.yaml"}, "waivers: is the service's to say"),
    "another registry": ({**GOOD, "tracking_uri": "http://evil"}, "tracking_uri: is the service's to say"),
    "another model": ({**GOOD, "model": "models:/other/1"}, "model: is the service's to say"),
    "a seed": ({**GOOD, "seed": 5}, "seed: is the service's to say"),
    "a sample": ({**GOOD, "audit": {"members": 5}}, "audit: is the service's to say"),
    "trust": ({**GOOD, "trust": "code"}, "trust: is the service's to say"),
    "a whole config": ({"apiVersion": "privacy-gate/v1", "data": GOOD}, "apiVersion: is the service's to say"),
    "a section": ({"data": GOOD}, "data: this file is that section"),
    "a key that nobody knows": ({**GOOD, "hook": "x"}, "hook: Extra inputs are not permitted"),
    "a key of a source that nobody knows": ({**GOOD, "members": {"path": "m.csv", "hook": "x"}}, "members.hook"),
    "a folder that a package reads": (
        {**GOOD, "members": {"path": "m", "format": "huggingface"}},
        "members.format: huggingface is read by a package",
    ),
    "pickles": ({**GOOD, "members": {"path": "m.pkl", "format": "pickle"}}, "members.format: Input should be"),
    "a name that says nothing": ({**GOOD, "members": "m.pkl"}, "'m.pkl': its name does not say what it is"),
    "a folder left to be guessed": ({**GOOD, "members": "folder"}, "'folder': its name does not say what it is"),
    "a key twice": ("members: a.csv\nmembers: b.csv\nnonmembers: c.csv\n", "members: the key is already given"),
    "a tag of Python": ("members: !!python/object/apply:os.system [id]\nnonmembers: c.csv\n", "is not supported"),
    "a merge key": ("a: &a {members: x.csv}\n<<: *a\nnonmembers: c.csv\n", "merge keys are not supported"),
    "nested aliases": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(6)),
        "stands for more than",
    ),
    "a type of columns that there is none of": ({**GOOD, "schema": {"a": "os.system"}}, "there is no type"),
    "pixels beyond memory": ({**GOOD, "images": {"size": [10**9, 10**9]}}, "images.size: from 1 to"),
}


@pytest.mark.parametrize("case", KEYS)
def test_what_a_run_may_not_say(case: str, tmp_path: Path) -> None:
    content, message = KEYS[case]
    assert message in refused(tmp_path, content)


PLACES = {
    "a file of the machine": "/etc/shadow",
    "a file of the machine by its URL": "file:///etc/shadow.csv",
    "the same with one slash": "file:/etc/shadow.csv",
    "the same of fsspec": "local:///etc/shadow.csv",
    "up from the artifacts": "../../../../etc/passwd.csv",
    "up from the middle": "a/../../b.csv",
    "up, as URLs write it": "%2e%2e/%2e%2e/other/members.csv",
    "up, as Windows writes it": "..\\..\\members.csv",
    "another run": "runs:/ffffffffffffffffffffffffffffffff/privacy_gate/members.csv",
    "the same run, and up": f"runs:/{RUN}/../ffffffffffffffffffffffffffffffff/members.csv",
    "the same run twice": f"runs:/{RUN}//etc/members.csv",
    "a run in capitals": f"RUNS:/{RUN}/members.csv",
    "two slashes": f"runs://{RUN}/members.csv",
    "a run with a host": f"runs://evil@{RUN}/members.csv",
    "another model's files": "models:/secret/1/data.csv",
    "the artifact store itself": "mlflow-artifacts:/0/ffff/artifacts/members.csv",
    "the cloud's metadata": "http://169.254.169.254/latest/meta-data/iam/security-credentials/x.csv",
    "the service itself": "http://127.0.0.1:8000/members.csv",
    "a bucket that is not a root": "s3://other/records.csv",
    "a bucket with the root as its beginning": "s3://bucket/team-abc/records.csv",
    "a host with the root as its beginning": "https://data.example.evil.org/a/records.csv",
    "a user named like the root": "https://data.example@evil.org/a/records.csv",
    "the root with a user": "https://me:secret@data.example/a/records.csv",
    "another port": "https://data.example:8443/a/records.csv",
    "without encryption": "http://data.example/a/records.csv",
    "the root in capitals": "HTTPS://DATA.EXAMPLE/a/records.csv",
    "up from a root": "https://data.example/a/../b/records.csv",
    "up from a root in percents": "https://data.example/a/%2e%2e/b/records.csv",
    "up from a root in percents twice": "https://data.example/a/%252e%252e/b/records.csv",
    "up from a root backwards": "https://data.example/a/..\\b/records.csv",
    "a question that may redirect": "https://data.example/a/go?to=http://169.254.169.254/x.csv",
    "a fragment": "https://data.example/a/x#.csv",
    "nothing in between": "https://data.example/a//b/records.csv",
    "a chain": "simplecache::https://data.example/a/records.csv",
    "a chain behind the root": "https://data.example/a/x.zip::file:///etc/shadow.csv",
    "an archive": "zip://x.csv::https://data.example/a/records.zip",
    "a pattern": "s3://bucket/team-a/*.csv",
    "text as data": "data:text/csv,y",
    "a drive": "C:\\records.csv",
    "a control character": "members\x00.csv",
    "a line": "members\n.csv",
    "two slashes at the start": "//etc/shadow",
    "the root's neighbour": "{root}bc/records.csv",
    "up from the root": "{root}/../secret.csv",
    "a link out of the root": "{root}/out.csv",
    "a folder that leads out": "{root}/up/secret.csv",
    "a link within a folder": {"path": "{root}/images", "format": "images"},
    "a pipe": "{root}/pipe.csv",
    "what is not there": "{root}/missing.csv",
    "the service's own folder": "{root}/state/queue.csv",
    "a folder that holds it": {"path": "{root}", "format": "parquet"},
    "nothing": "",
}


@pytest.mark.parametrize("case", PLACES)
def test_places_that_are_not_the_runs(case: str, tmp_path: Path, root: Path) -> None:
    named = json.loads(json.dumps(PLACES[case]).replace("{root}", str(root)))
    roots = (root, "https://data.example/a", "s3://bucket/team-a")
    said = refused(tmp_path, {**GOOD, "members": named}, *roots, closed=(root / "state",))
    assert said.startswith("data.yaml:1:")
    assert "members" in said


def test_places_below_a_root(tmp_path: Path, root: Path) -> None:
    (root / "link.csv").symlink_to(root / "records.csv")
    content = {
        "members": str(root / "link.csv"),
        "nonmembers": "https://data.example/a/b/records.csv",
        "population": "memory://bucket/team-a/year=2026/records.parquet",
    }
    found = read(tmp_path, content, root, "https://data.example/a/", "memory://bucket/team-a")
    assert found.members.path == str((root / "records.csv").resolve()), "links are followed once, now"
    assert found.nonmembers.path == content["nonmembers"]
    assert found.population is not None
    assert found.population.path == content["population"]


def test_outside_of_the_roots_nobody_learns_what_there_is(tmp_path: Path, root: Path) -> None:
    there = refused(tmp_path, {**GOOD, "members": str(tmp_path / "secret.csv")}, root)
    missing = refused(tmp_path, {**GOOD, "members": str(tmp_path / "absent.csv")}, root)
    assert there.replace("secret", "absent") == missing


def test_all_findings_at_once_each_at_its_line(tmp_path: Path) -> None:
    said = refused(tmp_path, "members:\n  dataset: evil.py:f\nnonmembers: /etc/shadow\nenv: [A]\npolicy: x\n")
    lines = [line.split(": ")[0] for line in said.splitlines()]
    assert lines == ["data.yaml:1:1", "data.yaml:2:3", "data.yaml:4:1", "data.yaml:5:1"]


def test_the_file_comes_from_the_run_and_must_be_there(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    (artifacts / "privacy_gate").mkdir(parents=True)
    registry = InMemoryRegistry(runs={RUN: artifacts})
    with pytest.raises(DataError, match="no such artifact") as caught:
        run_config.records(registry, RUN, [], [], tmp_path / "work")
    assert "log privacy_gate/data.yaml to the run" in caught.value.hint
    (artifacts / "privacy_gate" / "data.yaml").write_text(yaml.safe_dump(GOOD))
    found = run_config.records(registry, RUN, [], [], tmp_path / "work")
    assert found.members.path == f"runs:/{RUN}/privacy_gate/members.csv"
    with pytest.raises(DataError, match="names no run"):
        run_config.records(registry, "", [], [], tmp_path / "work")
