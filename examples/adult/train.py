"""A random forest or a logistic regression on UCI Adult: 32,561 members, 16,281 non-members.

Needs the reference data (PRIVACY_GATE_REFERENCE_DATA). Registers models:/NAME@candidate in the registry that
MLFLOW_TRACKING_URI names and writes the records and privacy-gate.yaml to a folder.

    python examples/adult/train.py --out FOLDER [--model forest|logistic] [--shadows 8] [--name adult-MODEL]
        [--sample 5000] [--trees 20] [--leaves 20 100]

--sample takes that many records of either side, --leaves lists what `privacy-gate defences compare` tries.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import mlflow
import pandas as pd
import sklearn
import yaml
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

LABEL = "income"


REQUIRED = ["correctness", "confidence", "entropy", "modified_entropy", "lira"]  # by the profile `standard`


def records(folder: Path, sample: int | None = None) -> dict[str, pd.DataFrame]:
    """The two splits as published, or so many records of each; `?` stays a category of its own."""
    table = pd.read_csv(folder / "adult" / "adult.csv.gz")
    roles = {"members": "train", "nonmembers": "test"}
    found = {role: table[table["split"] == split].drop(columns="split") for role, split in roles.items()}
    if sample is not None:
        found = {role: part.sample(sample, random_state=0) for role, part in found.items()}
    return {role: part.reset_index(drop=True) for role, part in found.items()}


def estimator(kind: str, table: pd.DataFrame, trees: int) -> Pipeline:
    features = table.drop(columns=LABEL)
    numbers = list(features.select_dtypes("number"))
    words = [column for column in features if column not in numbers]
    if kind == "forest":  # full depth, as is the library's default: it remembers
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        columns = make_column_transformer((encoder, words), remainder="passthrough")
        return make_pipeline(columns, RandomForestClassifier(n_estimators=trees, random_state=0))
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), words), (StandardScaler(), numbers))
    return make_pipeline(columns, LogisticRegression(C=0.1, max_iter=300))


def register(name: str, model: Pipeline) -> None:
    with mlflow.start_run(run_name=name):
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            registered_model_name=name,
            pip_requirements=[f"scikit-learn=={sklearn.__version__}"],
            serialization_format="cloudpickle",
        )
    mlflow.MlflowClient().set_registered_model_alias(name, "candidate", str(logged.registered_model_version))


def config(name: str, features: list[str], shadows: int, leaves: Sequence[int] = ()) -> dict[str, object]:
    compared = {"compare": [{"tree_limits": {"min_samples_leaf": n}} for n in leaves]}
    return {
        "apiVersion": "privacy-gate/v1",
        "model": f"models:/{name}@candidate",
        "data": {
            "members": "members.parquet",
            "nonmembers": "nonmembers.parquet",
            "label": LABEL,
            "groups": ["sex", "race"],
            "features": features,
        },
        "shadows": {"count": shadows, "recipe": {"clone": True}},
        "attacks": REQUIRED,
        **(compared if leaves else {}),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--model", choices=["forest", "logistic"], default="forest")
    options.add_argument("--shadows", type=int, default=8)
    options.add_argument("--name")
    options.add_argument("--sample", type=int)
    options.add_argument("--trees", type=int, default=100)
    options.add_argument("--leaves", type=int, nargs="+", default=[])
    chosen = options.parse_args()
    name = chosen.name or f"adult-{chosen.model}"
    chosen.out.mkdir(parents=True, exist_ok=True)

    data = records(Path(os.environ["PRIVACY_GATE_REFERENCE_DATA"]), chosen.sample)
    for role, table in data.items():
        table.to_parquet(chosen.out / f"{role}.parquet")
    members = data["members"]
    features = [column for column in members if column != LABEL]
    text = yaml.safe_dump(config(name, features, chosen.shadows, chosen.leaves), sort_keys=False)
    (chosen.out / "privacy-gate.yaml").write_text(text, encoding="utf-8")
    register(name, estimator(chosen.model, members, chosen.trees).fit(members[features], members[LABEL]))


if __name__ == "__main__":
    main()
