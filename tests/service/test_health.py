"""Health of the service: each thing that would silence it is found, and told with its mend."""

from __future__ import annotations

import dataclasses
import email.utils
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from privacy_gate.cli import run
from privacy_gate.errors import RegistryUnreachable, UsageError
from privacy_gate.registry import Probe, RegisteredVersion, Webhook
from privacy_gate.service import Delivery, Event, health
from privacy_gate.service.health import Finding, clock, examine, look, of_queue, of_state, ours, rules, try_delivery
from privacy_gate.service.health import webhook as look_at_webhooks
from privacy_gate.service.queue import Queue, open_queue
from privacy_gate.service.subscriptions import Subscribed, Subscriptions, events, load
from privacy_gate.service.sweep import FAILED, SWEPT

NOW = 1_800_000_000.0
URL = "https://8.8.8.8/webhook"
HOOK = Webhook("w1", "gate", URL, ("model_version.created",), True)
CONFIG = {"apiVersion": "privacy-gate/v1", "data": {"members": "in.csv", "nonmembers": "out.csv"}}


class Server:
    """A registry, as far as health asks it."""

    def __init__(self, *hooks: Webhook, error: Exception | None = None, well: bool = True) -> None:
        self.hooks, self.error, self.well = list(hooks), error, well

    def ping(self) -> list[Probe]:
        return [Probe("registry", self.well, "answers" if self.well else "does not answer", "is it up?")]

    def versions(self) -> Iterator[RegisteredVersion]:
        return iter([RegisteredVersion("churn", "1")])

    def webhooks(self) -> list[Webhook]:
        if self.error is not None:
            raise self.error
        return self.hooks


def settings(url: str | None = "https://8.8.8.8", **versions) -> Subscriptions:
    content = {
        "apiVersion": "privacy-gate/subscriptions/v1",
        "service": {} if url is None else {"url": url},
        "subscriptions": [{"name": "churn*", "config": "privacy-gate.yaml", "versions": versions}],
    }
    return Subscriptions.model_validate(content)


@pytest.fixture
def subscribed(tmp_path, monkeypatch) -> Subscribed:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("PRIVACY_GATE_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    for name in ("in.csv", "out.csv"):
        (tmp_path / name).touch()
    (tmp_path / "privacy-gate.yaml").write_text(yaml.safe_dump(CONFIG))
    content = settings().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    content |= {"apiVersion": "privacy-gate/subscriptions/v1"}
    (tmp_path / "subscriptions.yaml").write_text(yaml.safe_dump(content))
    return load(tmp_path / "subscriptions.yaml")


@pytest.fixture
def queue(tmp_path) -> Iterator[Queue]:
    opened = open_queue(f"sqlite:///{tmp_path}/queue.db")
    yield opened
    opened.close()


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.level for finding in findings}


def examined(subscribed, queue, server, **options) -> dict[str, Finding]:
    found = examine(subscribed, queue, {}, NOW, registry=lambda: server, **options)
    return {finding.name: finding for finding in found}


# --- the webhook ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions", "needed"),
    [
        ({}, {"model_version.created"}),
        ({"alias": "candidate"}, {"model_version_alias.created"}),
        ({"tag": {"stage": "release"}}, {"model_version.created", "model_version_tag.set"}),
        ({"tag": {"a": "b"}, "alias": "c"}, {"model_version_alias.created", "model_version_tag.set"}),
    ],
)
def test_which_events_are_needed(versions, needed):
    assert events(settings(**versions)) == needed


CASES = [
    ("well", [HOOK], {}, "ok", "calls https://8.8.8.8/webhook"),
    ("none", [], {}, "warn", "none calls https://8.8.8.8/webhook"),
    ("another's", [dataclasses.replace(HOOK, url="https://8.8.4.4/webhook")], {}, "warn", "none calls"),
    ("another path", [dataclasses.replace(HOOK, url="https://8.8.8.8/x/webhook")], {}, "warn", "none calls"),
    ("same port", [dataclasses.replace(HOOK, url="https://8.8.8.8:443/webhook/")], {}, "ok", "calls"),
    ("a port that is none", [dataclasses.replace(HOOK, url="https://8.8.8.8:x/webhook")], {}, "warn", "none calls"),
    ("switched off", [dataclasses.replace(HOOK, active=False)], {}, "fail", "switched off"),
    ("too few events", [HOOK], {"alias": "c"}, "fail", "does not tell of model_version_alias.created"),
    ("two of them", [HOOK, dataclasses.replace(HOOK, id="w2")], {}, "warn", "2 call this service"),
    (
        "two, each with its events",
        [HOOK, dataclasses.replace(HOOK, id="w2", events=("model_version_tag.set",))],
        {"tag": {"a": "b"}},
        "warn",
        "2 call this service",
    ),
]


@pytest.mark.parametrize(("hooks", "versions", "level", "said"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_webhook(hooks, versions, level, said):
    found = next(f for f in look_at_webhooks(hooks, settings(**versions)) if f.name == "webhook")
    assert found.level == level
    assert said in found.detail
    assert bool(found.mend) is (level != "ok")


@pytest.mark.parametrize("by_file", [False, True])
def test_the_mend_makes_a_webhook_of_the_right_kind(monkeypatch, tmp_path, by_file):
    """As Python, with the client that it names, and with the secret where the service has it from."""
    made = []
    name = "PRIVACY_GATE_WEBHOOK_SECRET"
    for each in (name, f"{name}_FILE"):
        monkeypatch.delenv(each, raising=False)
    (tmp_path / "secret").write_text("s\n")
    monkeypatch.setenv(f"{name}_FILE" if by_file else name, str(tmp_path / "secret") if by_file else "s")

    class MlflowClient:
        def create_webhook(self, name, url, events, *, secret):
            made.append((name, url, events, secret))

    (found,) = look_at_webhooks([], settings(alias="candidate"))
    eval(found.mend.partition(": ")[2], {"MlflowClient": MlflowClient, "os": os})
    assert made == [("privacy-gate", URL, ["model_version_alias.created"], "s")]


def test_without_an_address_any_receiver_of_this_kind_is_taken_for_ours():
    other = dataclasses.replace(HOOK, url="https://8.8.4.4/gate/webhook")
    assert ours([HOOK, other, dataclasses.replace(HOOK, url="https://8.8.8.8/slack")], settings(None).service) == [
        HOOK,
        other,
    ]
    assert levels(look_at_webhooks([HOOK], settings(None)))["webhook"] == "ok"
    assert any("url: below service:" in f.mend for f in look_at_webhooks([HOOK], settings(None)))


def addresses(*found: str):
    return lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, 0)) for place in found]


@pytest.mark.parametrize(
    ("url", "found", "level", "asked"),
    [
        ("https://gate.example.org/webhook", ("8.8.8.8",), "ok", set()),
        ("http://gate.example.org/webhook", ("8.8.8.8",), "warn", {"SCHEMES"}),
        ("https://gate.example.org/webhook", ("10.0.0.7",), "warn", {"PRIVATE"}),
        ("https://gate.example.org/webhook", ("8.8.8.8", "192.168.0.1"), "warn", {"PRIVATE"}),
        ("https://gate.example.org/webhook", ("::ffff:10.0.0.7",), "warn", {"PRIVATE"}),
        ("https://gate.example.org/webhook", ("fe80::1%eth0",), "warn", {"PRIVATE"}),
        ("http://127.0.0.1:8484/webhook", ("127.0.0.1",), "warn", {"SCHEMES", "PRIVATE"}),
    ],
)
def test_what_the_servers_rules_ask_for(monkeypatch, url, found, level, asked):
    monkeypatch.setattr(health.socket, "getaddrinfo", addresses(*found))
    (finding,) = rules(url)
    assert finding.level == level
    assert ("MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https" in finding.mend) is ("SCHEMES" in asked)
    assert ("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true" in finding.mend) is ("PRIVATE" in asked)


def test_the_rules_are_those_of_mlflow(monkeypatch):
    """The real check of the server, with the settings that are asked for, and with one of them missing."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_webhook_url

    for url in ("https://8.8.8.8/webhook", "http://8.8.8.8/webhook", "https://10.0.0.7/w", "http://[::1]:8484/webhook"):
        (finding,) = rules(url)
        needed = [word.split("=", 1) for word in finding.mend.replace(";", " ").split() if word.startswith("MLFLOW_")]
        for left_out in [None, *needed]:
            with monkeypatch.context() as patch:
                for setting in needed:
                    if setting is not left_out:
                        patch.setenv(*setting)
                if left_out is None:
                    _validate_webhook_url(url)
                else:
                    with pytest.raises(MlflowException):
                        _validate_webhook_url(url)


def test_what_was_delivered_was_allowed(subscribed, queue):
    inside = dataclasses.replace(HOOK, url="http://10.0.0.7:8484/webhook")
    settings = subscribed.value.model_copy(
        update={"service": subscribed.value.service.model_copy(update={"url": "http://10.0.0.7:8484"})}
    )
    within = dataclasses.replace(subscribed, value=settings)
    assert examined(within, queue, Server(inside))["url"].level == "warn"
    queue.deliver(Delivery("d1", Event("model_version", "created", "churn", "1"), NOW - 60, "ignored"), None)
    assert examined(within, queue, Server(inside))["url"].level == "ok"


def test_a_host_that_nobody_knows(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(health.socket, "getaddrinfo", unknown)
    (finding,) = rules("https://gate.invalid/webhook")
    assert (finding.name, finding.level) == ("url", "warn")


# --- all of it ------------------------------------------------------------------------------------------------------


def test_a_service_that_is_well(subscribed, queue):
    queue.remember(health.WORKERS, {}, NOW - 5)
    queue.remember(SWEPT, {"failures": 0}, NOW - 100)
    queue.deliver(Delivery("d1", Event("model_version", "created", "churn", "1"), NOW - 7200, "ignored"), None)
    found = examined(subscribed, queue, Server(HOOK))
    assert levels(list(found.values())) == {
        **dict.fromkeys(
            ("files", "queue", "workers", "sweep", "registry", "webhook", "url", "deliveries", "state"), "ok"
        ),
        "signing key": "warn",
    }
    assert found["deliveries"].detail == "the last one 2 h ago"
    assert found["queue"].detail == "0 queued, 0 running, 0 done, 0 parked"


def test_a_new_service_has_seen_nobody_yet(subscribed, queue):
    found = examined(subscribed, queue, Server(HOOK))
    assert [found[name].level for name in ("workers", "sweep", "deliveries")] == ["warn"] * 3
    assert "--test-delivery" in found["deliveries"].mend


def test_broken_files(subscribed, queue):
    found = examined(subscribed, queue, Server(HOOK), broken="privacy-gate.yaml:2:7: error[int]: seed: \x1b[31mno")
    assert found["files"].level == "fail"
    assert "\x1b" not in found["files"].probe.detail
    assert not found["files"].probe.ok


@pytest.mark.parametrize(
    ("worker", "swept", "failed", "expected"),
    [
        (NOW - 181, NOW, None, {"workers": "fail", "sweep": "ok"}),
        (NOW, NOW - 901, None, {"workers": "ok", "sweep": "fail"}),
        (NOW, NOW - 100, NOW - 50, {"workers": "ok", "sweep": "fail"}),
        (NOW, NOW - 50, NOW - 100, {"workers": "ok", "sweep": "ok"}),
        (NOW, None, NOW - 100, {"workers": "ok", "sweep": "fail"}),
        (NOW + 61, NOW, None, {"clocks": "fail", "workers": "ok"}),
        (NOW, NOW + 3600, None, {"clocks": "fail", "sweep": "fail"}),
        (NOW + 3600, NOW, None, {"clocks": "fail", "workers": "fail"}),
    ],
)
def test_who_fell_silent(subscribed, queue, worker, swept, failed, expected):
    queue.remember(health.WORKERS, {}, worker)
    if swept is not None:
        queue.remember(SWEPT, {"failures": 0}, swept)
    if failed is not None:
        queue.remember(FAILED, "no answer", failed)
    found = levels(of_queue(queue, subscribed.value.service, NOW))
    assert {name: found[name] for name in expected} == expected


def test_a_sweep_with_failures_is_worth_a_word(subscribed, queue):
    queue.remember(SWEPT, {"failures": 3}, NOW)
    found = {f.name: f for f in of_queue(queue, subscribed.value.service, NOW)}
    assert found["sweep"].level == "warn"
    assert "3 versions" in found["sweep"].detail


def test_a_queue_that_is_gone(subscribed, queue, tmp_path):
    queue.close()
    for file in tmp_path.glob("queue.db*"):
        file.unlink()
    (tmp_path / "queue.db").mkdir()
    assert levels(of_queue(queue, subscribed.value.service, NOW)) == {"queue": "fail"}


def test_a_server_that_lost_its_key_is_a_failure_and_one_without_webhooks_is_not(subscribed, queue):
    lost = RegistryUnreachable("fails to list its webhooks: MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "set it")
    assert examined(subscribed, queue, Server(error=lost))["webhook"].level == "fail"
    without = examined(subscribed, queue, Server(error=UsageError("a database calls no webhooks", "")))["webhook"]
    assert (without.level, "sweep alone" in without.detail) == ("ok", True)


def test_a_registry_that_does_not_answer_is_not_asked_for_more(subscribed, queue):
    found = examined(subscribed, queue, Server(HOOK, well=False))
    assert found["registry"].level == "fail"
    assert "webhook" not in found


def test_the_state_folder(tmp_path, monkeypatch):
    state = tmp_path / "state"
    assert levels(of_state(state)) == {"state": "ok"}
    state.mkdir(mode=0o755)
    state.chmod(0o755)
    assert levels(of_state(state)) == {"state": "ok", "state mode": "warn"}
    for free, level in ((1 << 27, "fail"), (1 << 30, "warn"), (1 << 40, "ok")):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(health.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert levels(of_state(tmp_path / "new"))["state"] == level
    (tmp_path / "file").touch()
    assert levels(of_state(tmp_path / "file" / "state"))["state"] == "fail"


# --- clocks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def dated():
    """A server whose clock is `ahead` seconds off; None: it says no time."""

    class Handler(BaseHTTPRequestHandler):
        ahead: float | None = 0.0
        code = 200

        def do_GET(self) -> None:
            self.send_response_only(self.code)
            if self.ahead is not None:
                self.send_header("Date", email.utils.formatdate(time.time() + self.ahead, usegmt=True))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("ahead", "code", "level"),
    [
        (0.0, 200, "ok"),
        (50, 200, "ok"),
        (-50, 401, "ok"),
        (90, 200, "warn"),
        (-90, 404, "warn"),
        (400, 200, "fail"),
        (-400, 500, "fail"),
        (None, 200, "warn"),
    ],
)
def test_two_clocks(dated, ahead, code, level):
    handler, server = dated
    handler.ahead, handler.code = ahead, code
    found = clock(server, 300.0)
    assert (found.name, found.level) == ("clock", level)


def test_a_server_that_does_not_answer_has_no_clock():
    assert clock("http://127.0.0.1:1", 300.0).level == "warn"


# --- a test delivery ------------------------------------------------------------------------------------------------


def arrives(queue: Queue, outcome: str = f"ignored: {health.TRIED}"):
    def ring(id: str) -> None:
        assert id == "w1"
        queue.deliver(Delivery("d2", Event("model_version", "created", "example_model", "1"), NOW, outcome), None)

    return ring


def test_a_test_delivery_that_arrives(subscribed, queue):
    assert try_delivery(subscribed, queue, Server(HOOK), ring=arrives(queue)).level == "ok"


def test_one_that_arrived_before_does_not_count(subscribed, queue):
    arrives(queue)("w1")
    found = try_delivery(subscribed, queue, Server(HOOK), ring=lambda _: None, patience=0.0)
    assert found.level == "fail"
    assert "nothing arrived in this queue" in found.detail


def test_another_delivery_does_not_count(subscribed, queue):
    found = try_delivery(subscribed, queue, Server(HOOK), ring=arrives(queue, "queued"), patience=0.0)
    assert found.level == "fail"


@pytest.mark.parametrize(
    ("refused", "mend"),
    [
        ("Webhook URL must not resolve to a non-public IP address.", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true"),
        ("Invalid webhook URL scheme: 'http'.", "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https"),
        ("it was answered with 401", "PRIVACY_GATE_WEBHOOK_SECRET"),
        ("Connection refused", "privacy-gate serve"),
        ("SSLError: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed", "public authorities alone"),
    ],
)
def test_a_test_delivery_that_was_refused(subscribed, queue, refused, mend):
    found = try_delivery(subscribed, queue, Server(HOOK), ring=lambda _: refused)
    assert found.level == "fail"
    assert mend in found.mend


def test_a_test_delivery_without_a_webhook(subscribed, queue):
    for server in (
        Server(),
        Server(dataclasses.replace(HOOK, active=False)),
        Server(error=UsageError("none", "sweep")),
    ):
        assert try_delivery(subscribed, queue, server, ring=lambda _: None).level == "fail"


# --- doctor ---------------------------------------------------------------------------------------------------------


def doctor(capsys, *arguments) -> tuple[int, dict[str, dict]]:
    code = run(["doctor", "--subscriptions", "subscriptions.yaml", "--json", *arguments])
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == code
    return code, {finding["name"]: finding for finding in told["findings"]}


@pytest.fixture
def hooked(subscribed, monkeypatch):
    monkeypatch.setattr(health, "open_registry", lambda *_: Server(HOOK))
    return subscribed


def test_doctor_of_a_service_that_is_not_made_yet_makes_nothing(hooked, capsys):
    before = sorted(Path.cwd().rglob("*"))
    code, found = doctor(capsys)
    assert code == 0
    assert found["subscriptions"]["status"] == "ok"
    assert found["churn*: data"]["status"] == "ok"
    assert found["queue"]["detail"] == "there is none yet"
    assert found["webhook"]["status"] == "ok"
    assert found["webhook secret"]["status"] == "warn"
    assert sorted(Path.cwd().rglob("*")) == before


def test_doctor_finds_what_is_wrong(hooked, capsys, monkeypatch):
    monkeypatch.setattr(health, "open_registry", lambda *_: Server(dataclasses.replace(HOOK, active=False)))
    Path("in.csv").unlink()
    monkeypatch.setenv("PRIVACY_GATE_WEBHOOK_SECRET", "")
    monkeypatch.setenv("PRIVACY_GATE_QUEUE_URL", "nonsense")
    code, found = doctor(capsys)
    assert code == 2  # a file that a config names is missing
    failed = {name for name, finding in found.items() if finding["status"] == "fail"}
    assert failed == {"churn*: data.members", "webhook", "webhook secret", "queue"}
    assert all(found[name]["mend"] for name in failed)


def test_doctor_of_a_file_that_is_wrong(subscribed, capsys):
    Path("subscriptions.yaml").write_text("apiVersion: nothing\n")
    code, found = doctor(capsys)
    assert code == 2
    assert "subscriptions.yaml:1:13" in found["subscriptions"]["detail"]


def test_what_goes_with_subscriptions_and_what_does_not(subscribed, capsys):
    assert run(["doctor", "--test-delivery"]) == 2
    assert run(["doctor", "--subscriptions", "subscriptions.yaml", "--config", "privacy-gate.yaml"]) == 2
    assert "--config" in capsys.readouterr().err


def test_doctor_tries_a_delivery(hooked, capsys, monkeypatch, queue, tmp_path):
    monkeypatch.setenv("PRIVACY_GATE_QUEUE_URL", f"sqlite:///{tmp_path}/queue.db")
    monkeypatch.setattr("privacy_gate.registry.open_registry", lambda *_: Server(HOOK))
    monkeypatch.setattr(health, "_ring", lambda _: arrives(queue))
    code, found = doctor(capsys, "--test-delivery")
    assert (code, found["test delivery"]["status"]) == (0, "ok")
    monkeypatch.setattr(health, "_ring", lambda _: lambda _: "Connection refused")
    code, found = doctor(capsys, "--test-delivery")
    assert (code, found["test delivery"]["status"]) == (3, "fail")


def test_looking_from_outside_is_for_people(subscribed, tmp_path):
    """Also where the registry is not there at all."""
    found = look(subscribed, f"sqlite:///{tmp_path}/none.db", {}, NOW)
    assert levels(found)["registry"] == "fail"
    assert not (tmp_path / "none.db").exists()
