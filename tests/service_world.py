"""A team with a real MLflow server, a webhook and the service beside it: what can be killed, and what is left then."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tests.mlflow_server import Server, free_port, tracking

SECRET, TOKEN = "a shared secret of many letters", "a token of the service, too"
FEATURES = ["trait", "age", "bmi"]
POLICY = {
    "apiVersion": "privacy-gate/v1",
    "release_context": "internal",
    "rules": {
        # A few hundred records decide this one; the attack needs no shadow.
        "PG101": {"max": 0.65, "action": "block", "severity": "high"},
        "PG501": {"attacks": ["correctness"], "action": "block", "severity": "high"},
    },
}
WEBHOOKS = {
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_CACHE_TTL": "1",
}


def signed(body: bytes, secret: str = SECRET, at: float | None = None, id: str | None = None) -> dict[str, str]:
    """Headers as the registry signs them."""
    id, stamp = id or str(uuid.uuid4()), str(int(time.time() if at is None else at))
    mac = hmac.new(secret.encode(), f"{id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "Content-Type": "application/json",
        "X-MLflow-Delivery-Id": id,
        "X-MLflow-Timestamp": stamp,
        "X-MLflow-Signature": "v1," + base64.b64encode(mac).decode(),
    }


def until(what: str, question: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first answer that is true; what the registry and the service refuse meanwhile is no answer."""
    deadline = time.monotonic() + seconds
    error: BaseException | None = None
    while time.monotonic() < deadline:
        try:
            if answer := question():
                return answer
        except Exception as caught:
            error = caught
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s; last error: {error!r}")


@dataclass
class World:
    """One folder: data, config, policy, subscriptions; an MLflow server and the service over it."""

    folder: Path
    service: dict[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    mlflow: Server = field(init=False)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        from cryptography.fernet import Fernet

        key = {"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode()}
        (self.folder / "mlflow").mkdir()
        self.mlflow = Server(self.folder / "mlflow", WEBHOOKS | key)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def subscriptions(self) -> Path:
        return self.folder / "subscriptions.yaml"

    @property
    def key(self) -> Path:
        return self.folder / "signing.pem"

    def write(self, people: Callable[[int, int], pd.DataFrame], *subscriptions: dict[str, Any]) -> None:
        people(0, 1).to_csv(self.folder / "members.csv", index=False)
        people(10_000, 2).to_csv(self.folder / "nonmembers.csv", index=False)
        data = {"members": "members.csv", "nonmembers": "nonmembers.csv", "label": "sick", "person": "person"}
        config = {"apiVersion": "privacy-gate/v1", "data": data, "shadows": {"count": 0}, "attacks": ["correctness"]}
        (self.folder / "privacy-gate.yaml").write_text(yaml.safe_dump(config))
        (self.folder / "policy.yaml").write_text(yaml.safe_dump(POLICY))
        common = {"config": "privacy-gate.yaml", "policy": "policy.yaml", "trust": "code"}
        document = {
            "apiVersion": "privacy-gate/subscriptions/v1",
            "tracking_uri": self.mlflow.uri,
            # The tests beside this one would come first.
            "service": {"state": "state", "url": self.url, "nice": 0, **self.service},
            "subscriptions": [common | s for s in subscriptions],
        }
        self.subscriptions.write_text(yaml.safe_dump(document))
        assert self.gate("attest", "--new-key", self.key) == 0

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PRIVACY_GATE_"))}
        secrets = {"WEBHOOK_SECRET": SECRET, "SERVICE_TOKEN": TOKEN, "SIGNING_KEY_FILE": str(self.key)}
        return {
            **kept,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            **{f"PRIVACY_GATE_{name}": value for name, value in secrets.items()},
        }

    def gate(self, *arguments: object) -> int:
        """Run a verb in the folder, in this process: seconds faster than the program, and the same code."""
        from privacy_gate.cli import run

        before = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith(("MLFLOW_", "PRIVACY_GATE_"))}
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        try:
            with contextlib.chdir(self.folder):
                return run(list(map(str, arguments)))
        finally:
            for name in [k for k in os.environ if k.startswith(("MLFLOW_", "PRIVACY_GATE_"))]:
                del os.environ[name]
            os.environ.update(before)

    # --- the service ---

    def serve(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "privacy_gate", "serve", "--subscriptions", str(self.subscriptions)]
        command += ["--port", str(self.port), *map(str, arguments)]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment(), stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        until(f"the service answers; see {self.folder / 'serve.log'}", lambda: self.get("/healthz")[0] == 200)

    def kill(self) -> None:
        """kill -9 of the receiver alone: its workers have to notice."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def workers(self) -> list[int]:
        """Process ids of the workers, whoever started them."""
        import psutil

        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if str(self.subscriptions) in line and "worker" in line:
                found.append(process.pid)
        return found

    def get(self, path: str) -> tuple[int, bytes]:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, path: str) -> Any:
        status, body = self.get(path)
        assert status == 200, (status, body)
        return json.loads(body)

    def jobs(self, name: str | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json("/api/jobs?limit=1000")["jobs"]
        return [job for job in found if name in (None, job["name"])]

    def deliveries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json("/api/deliveries?limit=1000")["deliveries"]
        return found

    # --- the registry ---

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        from mlflow import MlflowClient

        with tracking(self.mlflow.uri):
            yield MlflowClient()

    def webhook(self) -> None:
        with self.client() as client:
            client.create_webhook(
                "privacy-gate", f"{self.url}/webhook", ["model_version.created", "model_version_alias.created"],
                secret=SECRET,
            )  # fmt: skip

    def log(self, model: Any) -> str:
        """A logged model, registered or not; its source."""
        import mlflow

        with tracking(self.mlflow.uri):
            mlflow.set_experiment("training")
            with mlflow.start_run():
                logged = mlflow.sklearn.log_model(
                    model, name="model", pip_requirements=[], serialization_format="cloudpickle"
                )
        return f"models:/{logged.model_id}"

    def register(self, name: str, source: str) -> str:
        """One more version of a registered model; its number."""
        with self.client() as client:
            made = client.create_model_version(name, source, model_id=source.removeprefix("models:/"))
        return str(made.version)

    def verdict(self, name: str, version: str) -> str | None:
        with self.client() as client:
            found: str | None = client.get_model_version(name, version).tags.get("privacy_gate.verdict")
        return found

    def approved(self, name: str) -> str | None:
        with self.client() as client:
            alias = client.get_registered_model(name).aliases.get("privacy-approved")
        return None if alias is None else str(alias)

    def end(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        self.kill()
        for pid in self.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.mlflow.kill()
