"""Tells MLflow to tell the gate: create_webhook.py URL. Done before, it changes nothing.

MLFLOW_TRACKING_URI says which server; PRIVACY_GATE_WEBHOOK_SECRET_FILE names the file of the secret that both know.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

NAME = "privacy-gate"
EVENTS = ["model_version.created", "model_version_alias.created", "model_version_tag.set"]


def main() -> str:
    """Create the webhook, unless there is one with its URL; what was done, for people."""
    from mlflow import MlflowClient

    (url,) = sys.argv[1:]
    secret = Path(os.environ["PRIVACY_GATE_WEBHOOK_SECRET_FILE"]).read_text(encoding="utf-8").strip()
    client = MlflowClient()
    token = None
    while True:
        page = client.list_webhooks(page_token=token)
        if any(webhook.url == url for webhook in page):
            return (
                f"there is a webhook for {url} already; MLflow tells nobody its secret: delete it, if that has changed"
            )
        if not (token := page.token):
            break
    client.create_webhook(NAME, url, EVENTS, description="versions that a privacy gate judges", secret=secret)
    return f"created for {url}; MLflow's workers see it within a minute"


if __name__ == "__main__":
    print(main())
