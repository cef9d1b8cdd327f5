"""From a registered version to verdict, alias, report and signature without a hand on it: real server, real webhook."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.conftest import people
from tests.service_world import FEATURES, SECRET, TOKEN, World, signed, until

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("service"), service={"sweep_every": "1h"})
    made.write(people, {"name": "churn-*"})
    try:
        made.mlflow.start()
        made.serve()
        made.mlflow.wait()
        made.wait()
        made.webhook()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def models(world: World) -> dict[str, str]:
    """Sources of one that passes and one that must not."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    members = pd.read_csv(world.folder / "members.csv")
    x, y = members[FEATURES], members["sick"]
    return {
        "plain": world.log(LogisticRegression(C=1e-3).fit(x, y)),
        "leaky": world.log(RandomForestClassifier(10, random_state=0).fit(x, y)),
    }


@pytest.fixture(scope="module")
def judged(world: World, models: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Both registered, one after the other; name -> (version, verdict) as the registry says them by itself."""
    found = {}
    with world.client() as client:
        client.create_registered_model("churn-eu")
    for name, source in models.items():
        began = time.time()
        version = world.register("churn-eu", source)
        rows = until(
            "the delivery",
            lambda version=version: [
                d for d in world.deliveries() if d["version"] == version and d["entity"] == "model_version"
            ],
        )
        verdict = until("the verdict", lambda version=version: world.verdict("churn-eu", version))
        print(
            f"{name}: registered to 202 {1000 * (rows[0]['received'] - began):.0f} ms,"
            f" to the verdict's tag {time.time() - began:.1f} s"
        )
        found[name] = version, verdict
        until("the end of the job", lambda: all(j["state"] == "done" for j in world.jobs()))
    return found


def test_verdicts_arrive_without_a_hand(world: World, judged: dict[str, tuple[str, str]]) -> None:
    assert judged["plain"][1] in ("pass", "pass_with_warnings")
    assert judged["leaky"][1] == "fail"
    assert world.approved("churn-eu") == judged["plain"][0]


def test_report_and_signature_are_in_the_registry(
    world: World, judged: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    version, verdict = judged["plain"]
    with world.client() as client:
        tags = client.get_model_version("churn-eu", version).tags
        folder = Path(client.download_artifacts(tags["privacy_gate.run_id"], "privacy-gate", str(tmp_path)))
    assert {path.name for path in folder.iterdir()} >= {"report.json", "report.html", "attestation.json"}
    assert json.loads((folder / "report.json").read_text())["verdict"]["status"] == verdict
    line = ["verify", folder / "attestation.json", "--key", f"{world.key}.pub", "--policy", "policy.yaml"]
    assert world.gate(*line) == 0
    report = (folder / "report.json").read_bytes()
    (folder / "report.json").write_bytes(report.replace(b'"host"', b'"hosT"', 1))
    assert world.gate(*line) == 1


def test_the_status_page_leads_to_the_report(world: World, judged: dict[str, tuple[str, str]]) -> None:
    status, page = world.get("/")
    assert status == 200
    assert b"churn-eu" in page
    links = re.findall(rb'href="(reports/[0-9a-f]{16}/report\.html)"', page)
    assert len(set(links)) == 2
    status, report = world.get("/" + links[0].decode())
    assert status == 200
    assert b"</html>" in report


def test_ready(world: World, judged: dict[str, tuple[str, str]]) -> None:
    until("ready", lambda: world.get("/readyz")[0] == 200)


def test_its_own_tags_and_aliases_start_nothing(world: World, judged: dict[str, tuple[str, str]]) -> None:
    jobs = world.jobs()
    assert sorted((j["version"], j["requests"]) for j in jobs) == [("1", 1), ("2", 1)]


def test_promotion_asks_for_the_signature_of_these_bytes(world: World, judged: dict[str, tuple[str, str]]) -> None:
    """The tags of the good version on the bad one, and the whole of the bad one under another name."""
    good, bad = judged["plain"][0], judged["leaky"][0]
    line = ["--alias", "champion", "--key", f"{world.key}.pub", "--policy", "policy.yaml"]
    with world.client() as client:
        for key, value in client.get_model_version("churn-eu", good).tags.items():
            client.set_model_version_tag("churn-eu", bad, key, value)
        client.copy_model_version(f"models:/churn-eu/{bad}", "churn-copy")
    environment = ["--config", "registry.yaml"]
    (world.folder / "registry.yaml").write_text(
        (world.folder / "privacy-gate.yaml").read_text() + f"tracking_uri: {world.mlflow.uri}\n"
    )
    for forged in (f"models:/churn-eu/{bad}", "models:/churn-copy/1"):
        assert world.gate("promote", forged, *line, *environment) == 1
    with world.client() as client:
        assert "champion" not in client.get_registered_model("churn-eu").aliases
    assert world.gate("promote", f"models:/churn-eu/{good}", *line, *environment) == 0
    with world.client() as client:
        assert str(client.get_registered_model("churn-eu").aliases["champion"]) == good


def test_forged_and_replayed_deliveries_start_nothing(world: World, judged: dict[str, tuple[str, str]]) -> None:
    import httpx

    event = {"entity": "model_version", "action": "created", "timestamp": "2026-01-01T00:00:00+00:00"}
    body = json.dumps(event | {"data": {"name": "churn-forged", "version": "1"}}).encode()
    wrong = [
        {},
        signed(body, secret="another"),
        signed(body + b" "),
        signed(body, at=time.time() - 310),
        signed(body, at=time.time() + 310),
        {**signed(body), "X-MLflow-Delivery-Id": "another"},
    ]
    assert {httpx.post(f"{world.url}/webhook", content=body, headers=h).status_code for h in wrong} <= {401, 415}
    assert httpx.post(f"{world.url}/webhook", content=b" " * (1 << 21), headers=signed(b"")).status_code == 413
    assert httpx.post(f"{world.url}/webhook", content=b"{", headers=signed(b"{")).status_code == 400
    headers = signed(body)
    assert [httpx.post(f"{world.url}/webhook", content=body, headers=headers).status_code for _ in range(3)] == [
        202,
        200,
        200,
    ]
    (forged,) = world.jobs("churn-forged")
    assert forged["requests"] == 1  # the one that was believed; there is no such model, and it ends so
    until(
        "its end",
        lambda: [j["state"] for j in world.jobs("churn-forged")] in ([], ["done"]),
    )


def test_secrets_are_nowhere(world: World, judged: dict[str, tuple[str, str]]) -> None:
    private = world.key.read_text().splitlines()[1]
    for path in [world.folder / "serve.log", *(world.folder / "state").rglob("*")]:
        if path.is_file():
            content = path.read_bytes()
            assert not any(word.encode() in content for word in (SECRET, TOKEN, private)), path
