"""A candidate as teams really train them: a random forest with the library's defaults. It remembers its patients.

Registers models:/health-leaky@candidate in the registry that MLFLOW_TRACKING_URI names.

    python examples/leaky/train.py FOLDER    the folder that health_records.py wrote
"""

import sys
from pathlib import Path

import mlflow
import pandas as pd
import sklearn
from sklearn.ensemble import RandomForestClassifier

NAME = "health-leaky"
NOT_FEATURES = ["person", "many_visits"]


def estimator() -> RandomForestClassifier:
    # Full depth: every tree is grown until its leaves are pure, so that most leaves hold one single person.
    return RandomForestClassifier(n_estimators=100, random_state=0)


def main(folder: Path) -> None:
    members, others = (pd.read_csv(folder / f"{name}.csv") for name in ("members", "nonmembers"))
    with mlflow.start_run(run_name=NAME):
        model = estimator().fit(members.drop(columns=NOT_FEATURES), members["many_visits"])
        for name, rows in (("train_accuracy", members), ("test_accuracy", others)):
            mlflow.log_metric(name, model.score(rows.drop(columns=NOT_FEATURES), rows["many_visits"]))
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            registered_model_name=NAME,
            pip_requirements=[f"scikit-learn=={sklearn.__version__}"],
            serialization_format="cloudpickle",  # the default, skops, takes five seconds to load a forest
        )
    mlflow.MlflowClient().set_registered_model_alias(NAME, "candidate", str(logged.registered_model_version))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
