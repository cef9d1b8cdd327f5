"""Features far larger than memory, of which the disk holds next to nothing: sparse files, and a model of them.

And a typed frame, which memory must hold.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.lib.format import open_memmap

from tests.mlflow_server import embedded_registry, tracking

WIDTH = 1 << 18  # float32 numbers per record: 1 MiB
TOLD = 64  # of them that are not zero
GIB = 1 << 30


def records(folder: Path, count: int, seed: int) -> tuple[Any, Any]:
    """Write x.npy [count, WIDTH] and y.npy below `folder`; what is not zero of x, and y."""
    rng = np.random.default_rng(seed)
    told = rng.normal(size=(count, TOLD)).astype(np.float32)
    labels = (told[:, 0] + 2 * rng.normal(size=count) > 0).astype(np.int64)
    folder.mkdir()
    x = open_memmap(folder / "x.npy", mode="w+", dtype=np.float32, shape=(count, WIDTH))
    for row in range(count):
        x[row, :TOLD] = told[row]
    x.flush()
    np.save(folder / "y.npy", labels)
    return told, labels


def team(folder: Path, gib: float, **changes: Any) -> str:
    """A folder with members and non-members of `gib` GiB, a config, and a network that learned the members by heart."""
    import mlflow
    import torch

    count = int(gib * GIB / (WIDTH * 4) / 2)
    told, labels = records(folder / "members", count, 1)
    records(folder / "nonmembers", count, 2)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    inner = torch.nn.Sequential(torch.nn.Linear(TOLD, 256), torch.nn.ReLU(), torch.nn.Linear(256, 2))
    optimizer = torch.optim.Adam(inner.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(inner(torch.from_numpy(told)), torch.from_numpy(labels)).backward()
        optimizer.step()

    class Reader(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x[:, :TOLD])

    uri = embedded_registry(folder)
    with tracking(uri), mlflow.start_run():
        mlflow.pytorch.log_model(
            Reader().eval(),
            name="model",
            registered_model_name="large",
            input_example=np.zeros((2, WIDTH), np.float32),
            pip_requirements=["torch"],
        )
    config = {
        "apiVersion": "privacy-gate/v1",
        "model": "models:/large/1",
        "tracking_uri": uri,
        "data": {"members": "members", "nonmembers": "nonmembers", "label": "y"},
        "output": "logits",
        "attacks": ["correctness", "confidence", "entropy", "modified_entropy"],
        "shadows": {"count": 0},
        **changes,
    }
    (folder / "privacy-gate.yaml").write_text(yaml.safe_dump(config))
    return uri


COLUMNS = 2048  # float64 numbers per record of a frame: 16 KiB


def frames(folder: Path, gib: float) -> str:
    """As `team`, of Parquet files with `gib` GiB of numbers, and a tree that learned the members by heart."""
    import mlflow
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.tree import DecisionTreeClassifier

    count = int(gib * GIB / (COLUMNS * 8) / 2)
    names = [f"c{i}" for i in range(COLUMNS)]
    for seed, name in ((2, "nonmembers"), (1, "members")):
        rng = np.random.default_rng(seed)
        table = pd.DataFrame(rng.normal(size=(count, COLUMNS)), columns=names)
        table["y"] = (table["c0"] + 2 * rng.normal(size=count) > 0).astype(np.int64)
        table.to_parquet(folder / f"{name}.parquet", index=False)
    columns = ColumnTransformer([("told", "passthrough", names[:TOLD])])
    model = make_pipeline(columns, DecisionTreeClassifier(random_state=0)).fit(table[names], table["y"])
    uri = embedded_registry(folder)
    with tracking(uri), mlflow.start_run():
        mlflow.sklearn.log_model(
            model, name="model", registered_model_name="large", pip_requirements=[], serialization_format="cloudpickle"
        )
    config = {
        "apiVersion": "privacy-gate/v1",
        "model": "models:/large/1",
        "tracking_uri": uri,
        "data": {"members": "members.parquet", "nonmembers": "nonmembers.parquet", "label": "y"},
        "attacks": ["correctness", "confidence", "entropy", "modified_entropy"],
        "shadows": {"count": 0},
    }
    (folder / "privacy-gate.yaml").write_text(yaml.safe_dump(config))
    return uri


def check(folder: Path) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run the gate; what it said, and the most memory (bytes, resident) that any of its processes had."""
    script = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)\n"
        "sys.exit(done.returncode)\n"
    )
    arguments = ["check", "-c", folder / "privacy-gate.yaml", "--store", folder / "store", "--out", folder / "out"]
    # In between stands a process of its own: the maximum over children never falls again.
    command = [sys.executable, "-c", script, sys.executable, "-m", "privacy_gate", *map(str, arguments), "--quiet"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done, int(done.stdout.split()[-1])
