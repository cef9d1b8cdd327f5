"""One typed table and fourteen ways of learning it by heart, each saved as teams save such models.

What is trained here is far too large for its records, on purpose: the outcome is mostly noise, so that whoever is right
about it must have seen it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROWS = 300  # on either side
TOWNS = ["Bern", "Cork", "Graz", "Lyon", "Oslo"]
ROOMS = [1, 2, 3, 4]
NUMBERS = ["income", "age", "debt"]
COLUMNS = [*NUMBERS, "town", "rooms"]
# `rooms` are numbers that are levels. No set has all towns in the order in which the models know them.
SCHEMA = {
    "income": "float",
    "age": "integer",
    "debt": "float32",
    "town": {"dtype": "category", "levels": TOWNS},
    "rooms": {"dtype": "category", "levels": ROOMS},
}
CLASSES = ["no", "yes"]


def records(seed: int) -> pd.DataFrame:
    """Features with their types, `late` in words, and `code`, the same as 0 and 1."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "income": rng.lognormal(10, 0.5, ROWS),
        "age": rng.integers(18, 90, ROWS),
        "debt": rng.normal(size=ROWS).astype(np.float32),
        "town": pd.Categorical(rng.choice(TOWNS, ROWS), categories=TOWNS),
        "rooms": pd.Categorical(rng.choice(ROOMS, ROWS), categories=ROOMS),
    })  # fmt: skip
    wish = frame["debt"] + frame["town"].isin(["Cork", "Oslo"]) + 2 * rng.normal(size=ROWS)
    frame["code"] = (wish > 0.4).astype(int)
    frame["late"] = np.where(frame["code"] == 1, "yes", "no")
    return frame


def written(frame: pd.DataFrame, path: Path) -> None:
    """As a team's file has it: towns are text, rooms are numbers, debts are wider than they were."""
    frame.astype({"town": str, "rooms": np.int64, "debt": np.float64}).to_parquet(path, index=False)


# --- what the team's files say ----------------------------------------------------------------------------------------

# Networks, and how shadows are trained that nobody can clone. The file is logged with the models as their code.
TEAM = '''
import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    """Numbers of very different size, so it scales them by constants of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.tensor([25000.0, 54.0, 0.0]))
        self.register_buffer("width", torch.tensor([13000.0, 21.0, 1.0]))
        self.layers = nn.Sequential(nn.Linear(3, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))

    def forward(self, x):
        return self.layers((x - self.centre) / self.width)


def net():
    return Net()
'''

LIGHTNING = '''
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import nets


class Late(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nets.net()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        x, y = batch
        return torch.nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def train(features, labels, *, seed):
    pl.seed_everything(seed % 2**32)
    x = torch.as_tensor(np.asarray(features, dtype=np.float32))
    y = torch.as_tensor((np.asarray(labels) == "yes").astype(np.int64))
    trainer = pl.Trainer(
        max_epochs=150, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    module = Late()
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True))
    return module
'''

PIPELINE = '''
from sklearn.compose import make_column_transformer
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def train(features, labels, *, seed):
    columns = make_column_transformer(
        (StandardScaler(), ["income", "age", "debt"]), (OneHotEncoder(), ["rooms", "town"])
    )
    return make_pipeline(columns, ExtraTreesClassifier(10, random_state=seed % 2**32)).fit(features, labels)
'''

PYFUNC = '''
import joblib
import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Late(PythonModel):
    def load_context(self, context):
        self.model = joblib.load(context.artifacts["model"])
        self.form = context.model_config["form"]

    def predict(self, context, model_input, params=None):
        if self.form == "labels":
            return self.model.predict(model_input)
        p = self.model.predict_proba(model_input)
        if self.form == "logits":
            return np.log(np.maximum(p, 1e-6))
        return p[:, 1] if self.form == "column" else p


set_model(Late())
'''


# --- the models -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """How one kind of model is trained and saved, and what its config says beyond the table.

    save   (members, the team's folder, a new folder) -> None; leaves an MLflow model folder
    label  column that it was trained on
    """

    save: Callable[[pd.DataFrame, Path, Path], None]
    recipe: Mapping[str, Any]
    label: str = "late"
    data: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None
    columns: list[str] = field(default_factory=lambda: COLUMNS)


def _sklearn(make: Callable[[], Any], columns: list[str] = COLUMNS) -> Callable[[pd.DataFrame, Path, Path], None]:
    def save(members: pd.DataFrame, team: Path, folder: Path) -> None:
        import mlflow.sklearn

        fitted = make().fit(members[columns], members["late"])
        mlflow.sklearn.save_model(fitted, str(folder), pip_requirements=[], serialization_format="cloudpickle")

    return save


def _pipeline() -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = make_column_transformer((StandardScaler(), NUMBERS), (OneHotEncoder(), ["rooms", "town"]))
    return make_pipeline(columns, ExtraTreesClassifier(10, random_state=0))


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(20, random_state=0)


def _histograms() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=50, min_samples_leaf=2, random_state=0)


def _lightgbm(members: pd.DataFrame, team: Path, folder: Path) -> None:
    import lightgbm
    import mlflow.lightgbm

    model = lightgbm.LGBMClassifier(n_estimators=50, min_child_samples=2, verbose=-1, n_jobs=1)
    mlflow.lightgbm.save_model(model.fit(members[COLUMNS], members["late"]), str(folder), pip_requirements=[])


def _lightgbm_booster(members: pd.DataFrame, team: Path, folder: Path) -> None:
    import lightgbm
    import mlflow.lightgbm

    params = {"objective": "binary", "min_data_in_leaf": 2, "verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(params, lightgbm.Dataset(members[COLUMNS], members["code"]), 50)
    mlflow.lightgbm.save_model(booster, str(folder), pip_requirements=[])


XGBOOST = {"max_depth": 8, "learning_rate": 0.5}
ROUNDS = 20


def _xgboost(members: pd.DataFrame, team: Path, folder: Path) -> None:
    import mlflow.xgboost
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=ROUNDS, n_jobs=1, enable_categorical=True, **XGBOOST)
    mlflow.xgboost.save_model(model.fit(members[COLUMNS], members["code"]), str(folder), pip_requirements=[])


def _xgboost_booster(members: pd.DataFrame, team: Path, folder: Path) -> None:
    import mlflow.xgboost
    import xgboost

    matrix = xgboost.DMatrix(members[COLUMNS], members["code"], enable_categorical=True)
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1, **XGBOOST}, matrix, ROUNDS)
    mlflow.xgboost.save_model(booster, str(folder), pip_requirements=[])


def _pytorch(form: str) -> Callable[[pd.DataFrame, Path, Path], None]:
    def save(members: pd.DataFrame, team: Path, folder: Path) -> None:
        import mlflow.pytorch
        import torch

        nets = team_module(team, "nets")
        torch.manual_seed(0)
        net = nets.net()
        x = torch.as_tensor(members[NUMBERS].to_numpy(np.float32))
        y = torch.as_tensor(members["code"].to_numpy())
        optimizer = torch.optim.Adam(net.parameters(), lr=TRAINING["learning_rate"])
        for _ in range(TRAINING["epochs"]):
            for rows in torch.randperm(len(x)).split(TRAINING["batch_size"]):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
        beside = {"input_example": x[:2].numpy()} if form == "pt2" else {"code_paths": [str(team / "nets.py")]}
        mlflow.pytorch.save_model(net, str(folder), pip_requirements=[], serialization_format=form, **beside)

    return save


def _lightning(members: pd.DataFrame, team: Path, folder: Path) -> None:
    import mlflow.pytorch

    sys.path.insert(0, str(team))
    module = team_module(team, "lightning").train(members[NUMBERS], members["late"].to_numpy(), seed=0)
    code = [str(team / f"{name}.py") for name in ("nets", "lightning")]
    mlflow.pytorch.save_model(module, str(folder), pip_requirements=[], serialization_format="pickle", code_paths=code)


def _pyfunc(form: str) -> Callable[[pd.DataFrame, Path, Path], None]:
    def save(members: pd.DataFrame, team: Path, folder: Path) -> None:
        import joblib
        import mlflow.pyfunc

        joblib.dump(_pipeline().fit(members[COLUMNS], members["late"]), team / "pipeline.joblib")
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(team / "late.py"),
            artifacts={"model": str(team / "pipeline.joblib")},
            model_config={"form": form},
            pip_requirements=[],
        )

    return save


def team_module(team: Path, name: str) -> Any:
    return importlib.import_module(name)


TRAINING = {"epochs": 150, "learning_rate": 3e-3, "batch_size": 64}

CLONE = {"clone": True}
NET = {"model": "nets.py:net", "training": TRAINING}
OURS = {"python": "pipeline.py:train"}
ORDER = {"classes": CLASSES}

KINDS: dict[str, Kind] = {
    "pipeline": Kind(_sklearn(_pipeline), CLONE),
    "random-forest": Kind(_sklearn(_forest, [*NUMBERS, "rooms"]), CLONE, data={"features": [*NUMBERS, "rooms"]}),
    "histogram-boosting": Kind(_sklearn(_histograms), CLONE),
    "lightgbm": Kind(_lightgbm, CLONE),
    "lightgbm-booster": Kind(_lightgbm_booster, CLONE, data=ORDER),
    "xgboost": Kind(_xgboost, CLONE | {"fit": {"keywords": {"params": XGBOOST}}}, label="code"),
    "xgboost-booster": Kind(_xgboost_booster, CLONE | {"fit": {"keywords": {"params": XGBOOST}}}, data=ORDER),
    "pt2": Kind(_pytorch("pt2"), NET, data=ORDER | {"features": NUMBERS}),
    "torch-pickle": Kind(_pytorch("pickle"), NET, data=ORDER | {"features": NUMBERS}),
    "lightning": Kind(_lightning, {"python": "lightning.py:train"}, data=ORDER | {"features": NUMBERS}),
    "pyfunc-probabilities": Kind(_pyfunc("probabilities"), OURS, data=ORDER),
    "pyfunc-logits": Kind(_pyfunc("logits"), OURS, data=ORDER, output="logits"),
    "pyfunc-labels": Kind(_pyfunc("labels"), OURS),
    "pyfunc-column": Kind(_pyfunc("column"), OURS, output={"positive": "yes"}),
}
