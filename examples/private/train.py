"""The same task without the memory: few, shallow, heavily regularised trees, as accurate on new patients as the forest.

Registers models:/health-private@candidate in the registry that MLFLOW_TRACKING_URI names.

    python examples/private/train.py FOLDER    the folder that health_records.py wrote
"""

import sys
from pathlib import Path

import mlflow
import pandas as pd
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier

NAME = "health-private"
NOT_FEATURES = ["person", "many_visits"]


def estimator() -> HistGradientBoostingClassifier:
    # Every leaf speaks for 200 records or more: no leaf can speak for one person.
    return HistGradientBoostingClassifier(
        max_iter=50,
        max_depth=2,
        min_samples_leaf=200,
        l2_regularization=10.0,
        early_stopping=False,  # the default depends on the number of records: a shadow might train differently
        random_state=0,
    )


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
            serialization_format="cloudpickle",
        )
    mlflow.MlflowClient().set_registered_model_alias(NAME, "candidate", str(logged.registered_model_version))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
