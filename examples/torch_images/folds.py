"""A cross-validation as teams run it to choose settings: five models, each without a fifth of the training images.

Keeps what others throw away, each model and the list of the images that it was trained on.

    python folds.py DATA OUT [--folds 5] [--epochs 40]    writes OUT/0, OUT/0.csv, OUT/1, ...
"""

import argparse
import csv
from pathlib import Path

import mlflow
import torch
from train import accuracy, fit, load


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", type=Path)
    options.add_argument("out", type=Path)
    options.add_argument("--folds", type=int, default=5)
    options.add_argument("--epochs", type=int, default=40)
    chosen = options.parse_args()

    folder = chosen.data / "members"
    names = [file.relative_to(folder).as_posix() for file in sorted(folder.glob("*/*.png"))]
    x, y = load(folder)
    fold = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)) % chosen.folds
    chosen.out.mkdir(parents=True, exist_ok=True)
    for k in range(chosen.folds):
        module = fit(x[fold != k], y[fold != k], chosen.epochs, weight_decay=0.0, augment=False, seed=k)
        mlflow.pytorch.save_model(
            module,
            chosen.out / str(k),
            input_example=x[:8].numpy(),
            pip_requirements=[f"torch=={torch.__version__}"],
        )
        with (chosen.out / f"{k}.csv").open("w", encoding="utf-8", newline="") as stream:
            rows = [[name] for name, of in zip(names, fold, strict=True) if of != k]
            csv.writer(stream).writerows([["file"], *rows])
        print(f"fold {k}: accuracy {accuracy(module, x[fold == k], y[fold == k]):.3f} on the images it did not see")


if __name__ == "__main__":
    main()
