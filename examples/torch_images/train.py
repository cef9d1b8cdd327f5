"""The team's training script. It knows nothing of the gate.

Registers models:/digits@candidate in the registry that MLFLOW_TRACKING_URI names.

    python train.py FOLDER [--epochs 40] [--weight-decay 0] [--augment]    the folder that records.py wrote
"""

import argparse
from pathlib import Path

import mlflow
import numpy as np
import torch
from network import make, shift
from PIL import Image
from torch import Tensor
from torch.nn import functional

NAME = "digits"
LEARNING_RATE, BATCH = 3e-3, 64


def load(folder: Path) -> tuple[Tensor, Tensor]:
    files = sorted(folder.glob("*/*.png"))
    pixels = np.stack([np.asarray(Image.open(file), dtype=np.float32) for file in files])
    labels = [int(file.parent.name) for file in files]
    return torch.from_numpy((pixels[:, None] / 255 - 0.3) / 0.38), torch.tensor(labels)


def fit(x: Tensor, y: Tensor, epochs: int, weight_decay: float, augment: bool, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    draws = torch.Generator().manual_seed(seed)
    module = make()
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=weight_decay)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            inputs = shift(x[batch], draws) if augment else x[batch]
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs), y[batch]).backward()
            optimizer.step()
    return module.eval()


@torch.no_grad()
def accuracy(module: torch.nn.Module, x: Tensor, y: Tensor) -> float:
    return float((module(x).argmax(dim=1) == y).float().mean())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--epochs", type=int, default=40)
    options.add_argument("--weight-decay", type=float, default=0.0)
    options.add_argument("--augment", action="store_true")
    chosen = options.parse_args()

    members, validation = load(chosen.folder / "members"), load(chosen.folder / "validation")
    module = fit(*members, chosen.epochs, chosen.weight_decay, chosen.augment)
    found = {"train_accuracy": accuracy(module, *members), "validation_accuracy": accuracy(module, *validation)}
    with mlflow.start_run(run_name=NAME):
        mlflow.log_params(
            {
                "epochs": chosen.epochs,
                "lr": LEARNING_RATE,
                "batch_size": BATCH,
                "optimizer": "AdamW",
                "weight_decay": chosen.weight_decay,
                "augment": chosen.augment,
            }
        )
        mlflow.log_metrics(found)
        # Several rows: from an example of one row the exported graph would learn that a batch has one row.
        logged = mlflow.pytorch.log_model(
            module,
            name="model",
            registered_model_name=NAME,
            input_example=members[0][:8].numpy(),
            pip_requirements=[f"torch=={torch.__version__}"],
        )
    mlflow.MlflowClient().set_registered_model_alias(NAME, "candidate", str(logged.registered_model_version))
    print(f"version {logged.registered_model_version}:", ", ".join(f"{k} {v:.3f}" for k, v in found.items()))


if __name__ == "__main__":
    main()
