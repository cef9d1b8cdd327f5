"""The worked examples of `command:` recipes run as they are, and the same model by `clone` gives the same figures."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import AttackResult, Audit, Candidate, Outputs, ShadowPlan
from privacy_gate.measure import measure
from privacy_gate.observe import from_shadows, observe
from privacy_gate.registry import open_registry
from privacy_gate.request import Config, Recipe
from privacy_gate.sandbox import models
from privacy_gate.shadows.plan import balanced
from privacy_gate.shadows.store import Store
from privacy_gate.shadows.train import Columns, Shadows, prepare, train

ROOT = Path(__file__).resolve().parents[2]


def copied(name: str, folder: Path) -> tuple[Path, Config]:
    """The example as a user has it, in a checkout of its own."""
    home = folder / "examples" / name
    shutil.copytree(ROOT / "examples" / name, home)
    return home, Config.model_validate(yaml.safe_load((home / "privacy-gate.yaml").read_text(encoding="utf-8")))


def python(*words: str | Path, folder: Path, **environment: str) -> str:
    """What a script prints."""
    done = subprocess.run(  # the example's own script
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


# --- the notebook -----------------------------------------------------------------------------------------------------


def test_the_notebook_answers_for_its_shadows(tmp_path: Path) -> None:
    home, config = copied("notebook", tmp_path)
    python(home / "records.py", ".demo/segments", folder=tmp_path)
    sets = []
    for source in (config.data.members, config.data.nonmembers):
        assert source.path is not None
        with np.load(home / source.path) as arrays:
            sets.append((arrays["x"], arrays[config.data.label]))
    features, labels = (np.concatenate(parts) for parts in zip(*sets, strict=True))
    rows = np.arange(len(labels))
    plan = balanced(rows, rows < 150, rows >= 150, rows < 0, 2, 150, 0)
    task = prepare(
        config.shadows.recipe,
        folder=home,
        candidate=None,
        description=None,
        features=features,
        labels=labels,
        class_values=(0, 1, 2),
        columns=Columns(config.data.label),
    )
    assert set(task.identity["files"]) == {"run_notebook.py", "train.ipynb"}
    shadows = train(plan, task, Store(tmp_path / "store"), jobs=1)
    for s, outputs in enumerate(shadows.outputs):
        # Each record is its own nearest neighbour, up to the noise: what was trained on is known, the rest is not.
        assert shadows.accuracy_in[s] == 1.0
        assert (outputs.values[plan.member[s]].max(axis=1) > 0.5).all()
        assert 0.4 < (shadows.accuracy_out[s] or 0) < 0.9
    assert not np.array_equal(shadows.outputs[0].values, shadows.outputs[1].values)


def test_the_notebook_keeps_no_output() -> None:
    cells = json.loads((ROOT / "examples" / "notebook" / "train.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")


# --- the script -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A registered candidate, and its shadows by its own script and by cloning it."""

    folder: Path
    home: Path
    registry: str
    before: dict[str, bytes]
    audit: Audit
    target: Outputs
    plan: ShadowPlan
    shadows: dict[str, Shadows]


def kept(folder: Path) -> dict[str, bytes]:
    """The team's database and artifacts."""
    files = [folder / "team.db", *(p for p in sorted((folder / "mlruns").rglob("*")) if p.is_file())]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("script")
    home, config = copied("command_script", folder)
    registry = f"sqlite:///{folder / 'team.db'}"
    python(home / "records.py", ".demo/tumour", folder=folder)
    table = folder / ".demo" / "tumour"
    python(
        home / "train.py",
        *("--train", table / "members.parquet", "--validation", table / "seen.parquet", "--report", table / "report"),
        folder=folder,
        MLFLOW_TRACKING_URI=registry,
    )
    before = kept(folder)
    parts = [pd.read_parquet(home / str(source.path)) for source in (config.data.members, config.data.nonmembers)]
    assert config.data.seen is not None
    parts.append(pd.read_parquet(home / str(config.data.seen.path)))
    sizes = [len(part) for part in parts]
    frame = pd.concat(parts, ignore_index=True)
    features, labels = frame.drop(columns=config.data.label), frame[config.data.label].to_numpy(np.int64)
    rows, audited = np.arange(len(labels)), sizes[0] + sizes[1]
    member = rows < sizes[0]
    assert config.model is not None
    candidate = open_registry(registry, registry, config.model).resolve(config.model, folder / "candidate")
    model = models.load(candidate.snapshot, candidate.flavor)
    count = config.shadows.count
    plan = balanced(rows, member, ~member & (rows < audited), rows < 0, count, sizes[0], 0)

    def shadows(recipe: Recipe, of: Candidate | None) -> Shadows:
        task = prepare(
            recipe,
            folder=home,
            candidate=of,
            description=models.describe(model, candidate.flavor),
            features=features,
            labels=labels,
            class_values=(0, 1),
            reference=rows >= audited,
            columns=Columns(config.data.label),
        )
        return train(plan, task, Store(folder / "store"), jobs=2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", registry)
        patch.setenv("MLFLOW_REGISTRY_URI", registry)
        made = {
            "command": shadows(config.shadows.recipe, candidate),
            "clone": shadows(Recipe(clone=True), candidate),
        }
    return World(
        folder,
        home,
        registry,
        before,
        Audit(member[:audited], labels[:audited], rows[:audited], ("0", "1")),
        models.query(model, features[:audited]),
        plan,
        made,
    )


@pytest.mark.slow
def test_no_shadow_reaches_the_teams_registry(world: World) -> None:
    from mlflow import MlflowClient

    assert world.shadows["command"].trained == 4
    client = MlflowClient(world.registry, world.registry)
    assert [version.version for version in client.search_model_versions("name = 'tumour'")] in ([1], ["1"])
    assert kept(world.folder) == world.before  # byte for byte
    assert not (world.home / "mlruns").exists()
    assert not (world.home / "mlflow.db").exists()
    assert list((world.folder / "store" / "work").iterdir()) == []  # models of shadows tell of their records


@pytest.mark.slow
def test_the_same_model_by_command_and_by_clone_gives_the_same_figures(world: World) -> None:
    """Forests of other seeds on the same draws: each figure lies in the other's interval of 95 %."""
    names = ["confidence", "modified_entropy", "lira"]
    found = {}
    for how, made in world.shadows.items():
        answers = from_shadows(world.target, made.outputs, world.plan, np.concatenate([world.audit.labels, [0] * 89]))
        view = observe(answers, world.audit, names).views[0]
        results = [result for name in names for result in measure(ATTACKS[name], view, world.audit, 0)]
        found[how] = {(r.id, r.threat_model, r.threshold): r for r in results if isinstance(r, AttackResult)}
    assert set(found["command"]) == set(found["clone"])
    assert {id for id, _, _ in found["clone"]} == set(names)
    for key, ours in found["command"].items():
        theirs = found["clone"][key]
        assert ours.auc is not None
        assert theirs.auc is not None
        for one, other in ((ours.accuracy, theirs.accuracy), (ours.auc, theirs.auc)):
            assert other.lower(0.025) <= one.value <= other.upper(0.025), key
            assert one.lower(0.025) <= other.value <= one.upper(0.025), key
    # The forest remembers: there is something to agree on.
    assert max(r.accuracy.lower(0.025) for r in found["clone"].values()) > 0.55
