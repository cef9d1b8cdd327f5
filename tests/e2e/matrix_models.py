"""One typed table and fourteen ways of learning it by heart, each saved as teams save such models.

What is trained here is far too large for its records, on purpose: the outcome is mostly noise, so that whoever is right
about it must have seen it.
"""

from __future__ import annotations

from pathlib import Path

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
