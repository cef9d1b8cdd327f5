"""Who will see a doctor three times or more this year? A team's training script, which knows nothing of the gate.

    python train.py data [--folds rows|persons]

A pipeline over the columns of data/train.parquet by name, its settings found by a grid search. --folds says what the
search splits: rows, as GridSearchCV does by itself, or persons. Logs to MLflow (MLFLOW_TRACKING_URI says where) and
registers the model as models:/visits@candidate.
"""

import argparse
import warnings
from pathlib import Path

import mlflow
import pandas as pd
import sklearn
from mlflow.models import infer_signature
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

NAME = "visits"
LABEL = "many_visits"
PERSON = "patient_id"
WORDS = ["site", "health"]
NUMBERS = [
    *("year", "coinsurance", "family_size", "income", "age"),
    *("education", "health_index", "mental_health", "diseases"),
]
FLAGS = ["female", "child", "examined"]
GRID = [
    {"trees__max_leaf_nodes": [leaves], "trees__min_samples_leaf": [rows]}
    for leaves, rows in ((127, 5), (31, 20), (8, 100))
]

warnings.filterwarnings("ignore", module="mlflow")  # integers without gaps in the sample


def pipeline() -> Pipeline:
    columns = ColumnTransformer(
        [
            ("words", OneHotEncoder(sparse_output=False), WORDS),
            ("numbers", SimpleImputer(strategy="median"), NUMBERS),
            ("flags", "passthrough", FLAGS),
        ]
    )
    trees = HistGradientBoostingClassifier(max_iter=50, early_stopping=False, random_state=0)
    return Pipeline([("columns", columns), ("trees", trees)])


def train(folder: Path, by_person: bool) -> None:
    table = pd.read_parquet(folder / "train.parquet")
    features, labels, persons = table.drop(columns=[PERSON, LABEL]), table[LABEL], table[PERSON]
    folds = GroupKFold(3) if by_person else KFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(pipeline(), GRID, cv=list(folds.split(features, labels, persons if by_person else None)))
    search.fit(features, labels)
    with mlflow.start_run(run_name=NAME):
        mlflow.log_params({"folds": "persons" if by_person else "rows", **search.best_params_})
        mlflow.log_metrics({"train_accuracy": search.score(features, labels), "search_accuracy": search.best_score_})
        logged = mlflow.sklearn.log_model(
            search,
            name="model",
            registered_model_name=NAME,
            signature=infer_signature(features, search.predict(features)),
            pip_requirements=[f"scikit-learn=={sklearn.__version__}"],
            serialization_format="cloudpickle",  # the default, skops, wants a list of trusted types
        )
    version = str(logged.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(NAME, "candidate", version)
    best = ", ".join(f"{name.partition('__')[2]} {value}" for name, value in search.best_params_.items())
    print(f"{NAME} version {version}: the search says {search.best_score_:.3f} for {best}")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--folds", choices=["rows", "persons"], default="rows")
    chosen = options.parse_args()
    train(chosen.folder, chosen.folds == "persons")
