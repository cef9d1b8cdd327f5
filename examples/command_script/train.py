"""A team's training script: files in, a registered model out. It knows nothing of the gate.

    python examples/command_script/train.py --train FILE --validation FILE --report FOLDER [--seed N]

The registry is the one that MLFLOW_TRACKING_URI names.
"""

import argparse
import json
from pathlib import Path

import mlflow
import pandas as pd
import sklearn
from sklearn.ensemble import RandomForestClassifier

LABEL = "malignant"
NAME = "tumour"


def main(train: Path, validation: Path, report: Path, seed: int) -> None:
    rows, held_out = pd.read_parquet(train), pd.read_parquet(validation)
    mlflow.set_experiment("tumours")
    with mlflow.start_run(run_name=NAME):
        model = RandomForestClassifier(n_estimators=25, random_state=seed)
        model.fit(rows.drop(columns=LABEL), rows[LABEL])
        accuracy = model.score(held_out.drop(columns=LABEL), held_out[LABEL])
        mlflow.log_metric("validation_accuracy", accuracy)
        mlflow.sklearn.log_model(
            model,
            name="model",
            registered_model_name=NAME,
            pip_requirements=[f"scikit-learn=={sklearn.__version__}"],
            serialization_format="cloudpickle",  # the default, skops, takes five seconds to load a forest
        )
    report.mkdir(parents=True, exist_ok=True)
    (report / "report.json").write_text(json.dumps({"rows": len(rows), "validation_accuracy": accuracy}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option in ("train", "validation", "report"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.train, given.validation, given.report, given.seed)
