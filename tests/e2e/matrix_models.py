"""One typed table and fourteen ways of learning it by heart, each saved as teams save such models.

All are far too large for their records, on purpose: the outcome is mostly noise, so that whoever is right about it must
have seen it. Nothing is registered here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROWS = 300  # on either side
TOWNS = ["Oslo", "Bern", "Lyon", "Cork", "Graz"]  # not in the order of the alphabet: files forget it, models do not
ROOMS = [1, 2, 3, 4]
NUMBERS = ["income", "age", "debt"]
COLUMNS = [*NUMBERS, "town", "rooms"]
NUMERIC = [*NUMBERS, "rooms"]  # whole numbers that are levels: categories to some models, numbers to others
SCHEMA = {
    "income": "float",
    "age": "integer",
    "debt": "float32",
    "town": {"dtype": "category", "levels": TOWNS},
    "rooms": {"dtype": "category", "levels": ROOMS},
}
CLASSES = ["no", "yes"]


def records(seed: int) -> pd.DataFrame:
    """The features as models get them; `late`, in words, and `code`, the same as 0 and 1."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "income": rng.lognormal(10, 0.5, ROWS),
            "age": rng.integers(18, 90, ROWS),
            "debt": rng.normal(size=ROWS).astype(np.float32),
            "town": pd.Categorical(rng.choice(TOWNS, ROWS), categories=TOWNS),
            "rooms": pd.Categorical(rng.choice(ROOMS, ROWS), categories=ROOMS),
        }
    )
    wish = frame["debt"] + frame["town"].isin(["Cork", "Oslo"]) + 2 * rng.normal(size=ROWS)
    frame["code"] = (wish > 0.4).astype(int)
    frame["late"] = np.where(frame["code"] == 1, "yes", "no")
    return frame


def write(frame: pd.DataFrame, path: Path) -> None:
    """As the team's file has it: towns are text, rooms are numbers, debts are wider, and the columns are shuffled."""
    plain = frame.astype({"town": str, "rooms": np.int64, "debt": np.float64})
    plain[[*reversed(COLUMNS), "code", "late"]].to_parquet(path, index=False)


# --- the team's own files ---------------------------------------------------------------------------------------------

NETS = '''
import torch
from torch import nn


class Net(nn.Module):
    """It brings its numbers to one size by itself, with constants."""

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

LATE = """
import numpy as np
import pytorch_lightning as pl
import torch
from nets import Net
from torch.utils.data import DataLoader, TensorDataset


class Late(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, number):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def train(features, labels, *, seed):
    pl.seed_everything(seed % 2**32)
    x = torch.as_tensor(features.to_numpy(np.float32))
    y = torch.as_tensor((labels == "yes").astype(np.int64))
    trainer = pl.Trainer(
        max_epochs=200, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    module = Late()
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=len(x)))
    return module
"""

PIPELINE = """
from sklearn.compose import make_column_transformer
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def train(features, labels, *, seed):
    columns = make_column_transformer(
        (StandardScaler(), ["income", "age", "debt"]), (OneHotEncoder(), ["rooms", "town"])
    )
    trees = ExtraTreesClassifier(10, random_state=seed % 2**32, n_jobs=1)
    return make_pipeline(columns, trees).fit(features, labels)
"""

ANSWERS = """
import joblib
import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Answers(PythonModel):
    def load_context(self, context):
        self.pipeline = joblib.load(context.artifacts["pipeline"])
        self.form = context.model_config["form"]

    def predict(self, context, model_input, params=None):
        if self.form == "labels":
            return self.pipeline.predict(model_input)
        p = self.pipeline.predict_proba(model_input)
        if self.form == "logits":
            return np.log(np.maximum(p, 1e-6))
        return p[:, 1] if self.form == "column" else p


set_model(Answers())
"""

FILES = {"nets": NETS, "late": LATE, "pipelines": PIPELINE, "answers": ANSWERS}


# --- the models -------------------------------------------------------------------------------------------------------

Save = Callable[[pd.DataFrame, Path, Path], None]


@dataclass(frozen=True)
class Kind:
    """One kind of model, and what a config says of it beyond the table.

    save      (members, the team's folder, a new folder): fits to the members and leaves an MLflow model folder
    flavor    what the report says that it is
    recipe    of its shadows
    label     column that it learnt
    violated, undecided  rules that it is proven to violate, and that cannot be decided
    """

    save: Save
    flavor: str
    recipe: Mapping[str, Any]
    label: str = "late"
    data: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None
    violated: frozenset[str] = frozenset({"PG101", "PG102"})
    undecided: frozenset[str] = frozenset()


def _sklearn(make: Callable[[], Any], columns: list[str]) -> Save:
    def save(members: pd.DataFrame, team: Path, folder: Path) -> None:
        import mlflow.sklearn

        fitted = make().fit(members[columns], members["late"])
        # The default, skops, does not save trees.
        mlflow.sklearn.save_model(fitted, str(folder), pip_requirements=[], serialization_format="cloudpickle")

    return save


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(20, random_state=0, n_jobs=1)


def _histograms() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=50, min_samples_leaf=2, random_state=0)


def _pipeline(members: pd.DataFrame, team: Path, folder: Path) -> None:
    import mlflow.sklearn

    fitted = importlib.import_module("pipelines").train(members[COLUMNS], members["late"], seed=0)
    mlflow.sklearn.save_model(fitted, str(folder), pip_requirements=[], serialization_format="cloudpickle")


LIGHTGBM = {"min_child_samples": 2, "verbosity": -1, "num_threads": 1}
XGBOOST = {"max_depth": 8, "learning_rate": 0.5}
XGBOOST_ROUNDS = 20


def _lightgbm(members: pd.DataFrame, team: Path, folder: Path) -> None:
    import lightgbm
    import mlflow.lightgbm

    model = lightgbm.LGBMClassifier(n_estimators=50, **LIGHTGBM)
    mlflow.lightgbm.save_model(model.fit(members[COLUMNS], members["late"]), str(folder), pip_requirements=[])


def _lightgbm_booster(members: pd.DataFrame, team: Path, folder: Path) -> None:
    import lightgbm
    import mlflow.lightgbm

    booster = lightgbm.train(
        {"objective": "binary", **LIGHTGBM}, lightgbm.Dataset(members[COLUMNS], members["code"]), 50
    )
    mlflow.lightgbm.save_model(booster, str(folder), pip_requirements=[])


def _xgboost(members: pd.DataFrame, team: Path, folder: Path) -> None:
    import mlflow.xgboost
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=XGBOOST_ROUNDS, n_jobs=1, enable_categorical=True, **XGBOOST)
    mlflow.xgboost.save_model(model.fit(members[COLUMNS], members["code"]), str(folder), pip_requirements=[])


def _xgboost_booster(members: pd.DataFrame, team: Path, folder: Path) -> None:
    import mlflow.xgboost
    import xgboost

    table = xgboost.DMatrix(members[COLUMNS], members["code"], enable_categorical=True)
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1, **XGBOOST}, table, XGBOOST_ROUNDS)
    mlflow.xgboost.save_model(booster, str(folder), pip_requirements=[])


TRAINING = {"epochs": 200, "learning_rate": 1e-2, "batch_size": ROWS}


def _pytorch(form: str) -> Save:
    def save(members: pd.DataFrame, team: Path, folder: Path) -> None:
        import mlflow.pytorch
        import torch

        torch.manual_seed(0)
        net = importlib.import_module("nets").net()
        x = torch.as_tensor(members[NUMBERS].to_numpy(np.float32))
        y = torch.as_tensor(members["code"].to_numpy(copy=True))
        optimizer = torch.optim.Adam(net.parameters(), lr=TRAINING["learning_rate"])
        for _ in range(int(TRAINING["epochs"])):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        # A graph is traced with an example, of two rows lest it take one alone for ever; a pickle needs its class.
        beside: dict[str, Any] = {"input_example": x[:2].numpy()}
        if form == "pickle":
            beside = {"code_paths": [str(team / "nets.py")]}
        mlflow.pytorch.save_model(net, str(folder), pip_requirements=[], serialization_format=form, **beside)

    return save


def _lightning(members: pd.DataFrame, team: Path, folder: Path) -> None:
    import mlflow.pytorch

    module = importlib.import_module("late").train(members[NUMBERS], members["late"].to_numpy(), seed=0)
    code = [str(team / "nets.py"), str(team / "late.py")]
    mlflow.pytorch.save_model(module, str(folder), pip_requirements=[], serialization_format="pickle", code_paths=code)


def _pyfunc(form: str) -> Save:
    def save(members: pd.DataFrame, team: Path, folder: Path) -> None:
        import joblib
        import mlflow.pyfunc

        fitted = importlib.import_module("pipelines").train(members[COLUMNS], members["late"], seed=0)
        joblib.dump(fitted, team / "pipeline")
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(team / "answers.py"),
            artifacts={"pipeline": str(team / "pipeline")},
            model_config={"form": form},
            pip_requirements=[],
        )

    return save


CLONE: Mapping[str, Any] = {"clone": True}
# XGBoost's files keep the trees, not the settings that grew them.
TOLD: Mapping[str, Any] = {"clone": True, "fit": {"keywords": {"params": XGBOOST}}}
FACTORY: Mapping[str, Any] = {"model": "nets.py:net", "training": TRAINING}
OURS: Mapping[str, Any] = {"python": "pipelines.py:train"}
ORDER: Mapping[str, Any] = {"classes": CLASSES}  # for models that do not know what their columns are called
TENSORS: Mapping[str, Any] = {**ORDER, "features": NUMBERS}

# Labels tell who is right, and that gap alone proves PG101 here: nobody is as right about strangers. Rules about scores
# cannot even be measured.
NEED_SCORES = frozenset({"PG102", "PG103", "PG104", "PG201", "PG202", "PG204"})

KINDS: Mapping[str, Kind] = {
    "pipeline": Kind(_pipeline, "sklearn", CLONE),
    "random-forest": Kind(_sklearn(_forest, NUMERIC), "sklearn", CLONE, data={"features": NUMERIC}),
    "histogram-boosting": Kind(_sklearn(_histograms, COLUMNS), "sklearn", CLONE),
    "lightgbm": Kind(_lightgbm, "lightgbm", CLONE),
    "lightgbm-booster": Kind(_lightgbm_booster, "lightgbm", CLONE, data=ORDER),
    "xgboost": Kind(_xgboost, "xgboost", TOLD, label="code"),  # it takes no words
    "xgboost-booster": Kind(_xgboost_booster, "xgboost", TOLD, data=ORDER),
    "pytorch-pt2": Kind(_pytorch("pt2"), "pytorch", FACTORY, data=TENSORS),
    "pytorch-pickle": Kind(_pytorch("pickle"), "pytorch", FACTORY, data=TENSORS),
    "lightning": Kind(_lightning, "pytorch", {"python": "late.py:train"}, data=TENSORS),
    "pyfunc-probabilities": Kind(_pyfunc("probabilities"), "pyfunc", OURS, data=ORDER),
    "pyfunc-logits": Kind(_pyfunc("logits"), "pyfunc", OURS, data=ORDER, output="logits"),
    "pyfunc-labels": Kind(_pyfunc("labels"), "pyfunc", OURS, violated=frozenset({"PG101"}), undecided=NEED_SCORES),
    "pyfunc-column": Kind(_pyfunc("column"), "pyfunc", OURS, output={"positive": "yes"}),
}
