"""Who earns more than 50,000 dollars a year? A team's training script, which knows nothing of the gate.

    python train.py data [--leaves 255] [--min-rows 2]

Reads data/train.parquet, stops early on data/validation.parquet, logs to MLflow (MLFLOW_TRACKING_URI says where) and
registers the model as models:/income@candidate.
"""

import argparse
import warnings
from pathlib import Path

import lightgbm
import mlflow
import pandas as pd
from mlflow.models import infer_signature

NAME = "income"
LABEL = "income"
NO_FEATURES = ["person", LABEL]
SETTINGS = {"n_estimators": 2000, "learning_rate": 0.1, "early_stopping_round": 20, "n_jobs": 1}

warnings.filterwarnings(
    "ignore", category=lightgbm.basic.LGBMDeprecationWarning
)  # eval_set has a second name since 4.7


def read(folder: Path, name: str) -> tuple[pd.DataFrame, pd.Series]:
    table = pd.read_parquet(folder / f"{name}.parquet")
    return table.drop(columns=NO_FEATURES), table[LABEL]


def train(folder: Path, settings: dict[str, object]) -> None:
    features, labels = read(folder, "train")
    watched = read(folder, "validation")
    with mlflow.start_run(run_name=NAME):
        mlflow.log_params(settings)
        model = lightgbm.LGBMClassifier(**settings, random_state=0, verbose=-1)
        model.fit(features, labels, eval_set=[watched])
        scores = {"train_accuracy": model.score(features, labels), "validation_accuracy": model.score(*watched)}
        mlflow.log_metrics({**scores, "rounds": model.best_iteration_})
        logged = mlflow.lightgbm.log_model(
            model,
            name="model",
            registered_model_name=NAME,
            signature=infer_signature(features, model.predict(features)),
            pip_requirements=[f"lightgbm=={lightgbm.__version__}"],
        )
    version = str(logged.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(NAME, "candidate", version)
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores.items())
    print(f"{NAME} version {version}: stopped after {model.best_iteration_} rounds, {shown}")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--leaves", type=int, default=255)
    options.add_argument("--min-rows", type=int, default=2, help="least number of rows in a leaf")
    chosen = options.parse_args()
    train(chosen.folder, {**SETTINGS, "num_leaves": chosen.leaves, "min_child_samples": chosen.min_rows})
