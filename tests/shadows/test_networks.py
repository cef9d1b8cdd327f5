"""Networks through the real pool: Lightning modules, and exported candidates whose shadows come from elsewhere."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from privacy_gate.datamodel import Candidate, ShadowPlan
from privacy_gate.request import Head, Recipe, TorchTraining
from privacy_gate.sandbox import examine, models
from privacy_gate.shadows.recipes import CATALOG
from privacy_gate.shadows.store import Store
from privacy_gate.shadows.train import prepare, train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)
HALF = np.arange(60) % 2 == 0


def plan(*shadows):
    """Shadows by their records and seeds."""
    masks, seeds = zip(*shadows, strict=True)
    return ShadowPlan("balanced", np.array(masks), np.ones(60, bool), np.array(seeds, dtype=np.int64), 30)


def task(folder, settings, candidate=None, description=None, **more):
    return prepare(
        settings, folder=folder, candidate=candidate, description=description, features=X, labels=Y,
        class_values=(0, 1, 2), **more,
    )  # fmt: skip


# --- Lightning ------------------------------------------------------------------------------------------------------

LIGHTNING = """
import torch
import pytorch_lightning as lightning

class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(16, 3)
        )
    def forward(self, x):
        return self.layers(x)
    def training_step(self, batch, index):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self(x), y)
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.03)

def train(features, labels, *, seed):
    lightning.seed_everything(seed % 2**32)
    data = torch.utils.data.TensorDataset(torch.as_tensor(features), torch.as_tensor(labels))
    trainer = lightning.Trainer(max_epochs=25, accelerator="cpu", devices=1)
    net = Net()
    trainer.fit(net, torch.utils.data.DataLoader(data, batch_size=10, shuffle=True))
    return net
"""


@pytest.mark.slow
def test_a_lightning_module_is_a_shadow(tmp_path, monkeypatch, capfd):
    """With all that its trainer prints and writes by default: progress bars, logs, checkpoints."""
    pytest.importorskip("pytorch_lightning", reason="Lightning is an extra of the tests")
    team = tmp_path / "team"
    team.mkdir()
    (team / "recipe.py").write_text(LIGHTNING)
    monkeypatch.chdir(team)
    store = Store(tmp_path / "store")
    told = task(team, Recipe(python="recipe.py:train"))
    shadows = train(plan((HALF, 5), (HALF, 5), (~HALF, 5), (HALF, 6)), told, store, jobs=1)
    one, again, others, seed = (outputs.values for outputs in shadows.outputs)
    assert {outputs.kind for outputs in shadows.outputs} == {"logits"}
    assert one.shape == (60, 3)
    np.testing.assert_array_equal(one, again)  # by the second time the worker's generators have moved on
    assert not np.array_equal(one, others)
    assert not np.array_equal(one, seed)
    assert min(found for found in shadows.accuracy_in if found is not None) > 0.9  # two straight borders
    assert "".join(capfd.readouterr()) == ""
    left = {path.name for path in team.iterdir()} - {"__pycache__"}
    assert left == {"recipe.py"}
    assert list((store.root / "logs").iterdir()) == []
    assert list((store.root / "work").iterdir()) == []


# --- exported candidates --------------------------------------------------------------------------------------------

FACTORY = """
import torch
def factory():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
"""
TRAINING = TorchTraining(epochs=40, learning_rate=0.02)


@pytest.fixture(scope="module", params=[3, 1], ids=["any batch", "batches of one"])
def exported(request, tmp_path_factory):
    """A network trained on half of the records, logged as an exported graph, and the network itself."""
    import mlflow.pytorch

    folder = tmp_path_factory.mktemp("exported")
    (folder / "net.py").write_text(FACTORY)
    told = task(folder, Recipe(model="net.py:factory", training=TRAINING))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        net = CATALOG["model"].train(X[HALF], Y[HALF], 1, told.context)
    # One row in the example freezes the batch size for ever.
    mlflow.pytorch.save_model(net, str(folder / "model"), pip_requirements=[], input_example=X[: request.param])
    assert list((folder / "model").rglob("*.pt2"))
    return folder, Candidate("m", "m", folder / "model", "0" * 64, "pytorch", executes_code=True), net, request.param


def asked(net):
    with torch.inference_mode():
        return net(torch.as_tensor(X)).numpy()


@pytest.mark.slow
def test_an_exported_candidate_is_scored_as_it_is_and_its_shadows_come_from_elsewhere(exported, tmp_path):
    folder, candidate, net, rows = exported
    description, scored = examine(candidate, X, tmp_path / "work")
    assert (description.kind, scored.outputs.kind, scored.deterministic) == ("module", "logits", True)
    # float32 sums of 8 terms around 1, in batches of another size: within 100 units in the last place.
    np.testing.assert_allclose(scored.outputs.values, asked(net), rtol=0, atol=1e-5)
    if rows == 1:
        # Its own graph with another last layer: what the worker loads and cuts is the logged file.
        heads = task(folder, Recipe(head=Head(epochs=30)), candidate, description)
        refitted = train(plan((HALF, 1), (HALF, 1), (~HALF, 2)), heads, Store(tmp_path / "store"), jobs=1)
        one, again, other = (outputs.values for outputs in refitted.outputs)
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(one, other)
        own = CATALOG["head"].train(X[HALF], Y[HALF], 1, replace(heads.context, records=X))
        np.testing.assert_allclose(one, models.query(own, X).values, rtol=0, atol=1e-4)  # 30 steps in float32
    else:
        # The factory and the settings that made it make shadows of its own kind: with its seed and records, itself.
        whole = task(folder, Recipe(model="net.py:factory", training=TRAINING), candidate, description)
        shadows = train(plan((HALF, 1), (~HALF, 2)), whole, Store(tmp_path / "store"), jobs=1)
        np.testing.assert_allclose(shadows.outputs[0].values, scored.outputs.values, rtol=0, atol=1e-3)
        assert np.abs(shadows.outputs[1].values - scored.outputs.values).max() > 0.1
