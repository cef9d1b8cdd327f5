"""A neural network on Location30, trained for as long as it likes (100 epochs) or stopped early (8).

Needs the reference data (PRIVACY_GATE_REFERENCE_DATA). Registers models:/NAME@candidate in the registry that
MLFLOW_TRACKING_URI names and writes the records, the model factory and privacy-gate.yaml to a folder.

    python examples/location30/train.py --out FOLDER [--epochs 100] [--seed 0] [--shadows 16] [--name location30]
                                        [--network small]
"""

import argparse
import os
import shutil
from pathlib import Path

import mlflow
import model
import numpy as np
import torch
import yaml

LEARNING_RATE, BATCH = 3e-3, 64


def records(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Members and non-members as the paper's authors shuffled them; rows 1000-1999 belong to their defender."""
    with np.load(folder / "location30" / "records.npz") as data:
        x, y, order = data["x"].astype(np.float32), data["y"].astype(np.int64), data["order"]
    return {name: (x[rows], y[rows]) for name, rows in (("members", order[:1000]), ("nonmembers", order[2000:3000]))}


def fit(network: str, features: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    module, x, y = getattr(model, network)(), torch.from_numpy(features), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE, fused=True)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
    return module.eval()


def register(name: str, module: torch.nn.Module, example: np.ndarray, params: dict[str, int | str]) -> None:
    with mlflow.start_run(run_name=name):
        mlflow.log_params(params)
        # Several rows: from an example of one row the exported graph would learn that a batch has one row.
        logged = mlflow.pytorch.log_model(
            module,
            name="model",
            registered_model_name=name,
            input_example=example,
            pip_requirements=[f"torch=={torch.__version__}"],
        )
    mlflow.MlflowClient().set_registered_model_alias(name, "candidate", str(logged.registered_model_version))


def config(name: str, network: str, epochs: int, shadows: int) -> dict[str, object]:
    training = {"optimizer": "adam", "learning_rate": LEARNING_RATE, "epochs": epochs, "batch_size": BATCH}
    return {
        "apiVersion": "privacy-gate/v1",
        "model": f"models:/{name}@candidate",
        "data": {"members": "members.npz", "nonmembers": "nonmembers.npz", "label": "y", "classes": list(range(30))},
        "output": "logits",
        "shadows": {"count": shadows, "recipe": {"model": f"model.py:{network}", "training": training}},
        "frontier": "retraining",
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--epochs", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--shadows", type=int, default=16)
    options.add_argument("--name", default="location30")
    options.add_argument("--network", choices=("classifier", "small"), default="classifier")
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)

    data = records(Path(os.environ["PRIVACY_GATE_REFERENCE_DATA"]))
    for role, (x, y) in data.items():
        np.savez_compressed(chosen.out / f"{role}.npz", x=x, y=y)
    shutil.copy(Path(__file__).with_name("model.py"), chosen.out)
    text = yaml.safe_dump(config(chosen.name, chosen.network, chosen.epochs, chosen.shadows), sort_keys=False)
    (chosen.out / "privacy-gate.yaml").write_text(text, encoding="utf-8")

    x, y = data["members"]
    module = fit(chosen.network, x, y, chosen.epochs, chosen.seed)
    params = {"network": chosen.network, "epochs": chosen.epochs, "seed": chosen.seed}
    register(chosen.name, module, x[:8], params)


if __name__ == "__main__":
    main()
