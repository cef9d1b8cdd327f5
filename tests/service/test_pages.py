"""The status page and the reports: true, inert, bounded, and the same on every screen."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
import select
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from privacy_gate.datamodel import VerdictStatus
from privacy_gate.release import VERSION
from privacy_gate.reports.html import render as render_report
from privacy_gate.reports.wording import VERDICTS
from privacy_gate.service import Delivery, Event, Judged, Key, State, Terms, Wanted, pages
from privacy_gate.service.queue import Queue, open_queue
from privacy_gate.service.subscriptions import Subscriptions
from tests.reports.hostile import PAYLOAD
from tests.reports.samples import SAMPLES

NOW = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC
TERMS = Terms("b" * 64, "c" * 64)
GOLDEN = Path(__file__).parent / "golden" / "status.html"
EVIL = [PAYLOAD, "\u202e\u2066\x1b]0;t\x07<b>", "x" * 10_000, '"><script>alert(1)</script>' * 400]


def settings(**service: Any) -> Subscriptions:
    return Subscriptions.model_validate(
        {
            "apiVersion": "privacy-gate/subscriptions/v1",
            "service": {"url": "https://gate.example/", **service},
            "subscriptions": [{"name": "*", "config": "privacy-gate.yaml"}],
        }
    )


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    made = open_queue(tmp_path / "queue.sqlite")
    yield made
    made.close()


def judge(queue: Queue, name: str, version: str, status: str, at: float, **more: Any) -> Key:
    """A version that was judged."""
    key = Key(hashlib.sha256(f"{name}/{version}".encode()).hexdigest(), TERMS)
    passed = status.startswith("pass")
    codes = {"fail": 1, "error": 3, "inconclusive": 4}
    fields: dict[str, Any] = {
        "status": status,
        "exit_code": codes.get(status, 0),
        "headline": f"what was found about {name}",
        "run_id": "3f2a" * 8,
        "report": f"reports/{key.model_sha256[:16]}",
        "valid_until": "2026-12-20" if passed else None,
        "at": at,
    }
    queue.record(Judged(key, **(fields | more)))
    queue.request(Wanted(name, version, "*"), at - 60)
    job = queue.claim("w", {"*": 99}, 60.0, at - 50)
    assert job is not None
    assert (job.name, job.version) == (name, version)
    assert queue.finish(job, fields["headline"], key, TERMS, at)
    return key


PROBES = [
    {"name": "queue", "ok": True, "detail": "sqlite, 14 jobs", "mend": ""},
    {
        "name": "webhook",
        "ok": False,
        "detail": "the registry cannot read its webhooks: HTTP 500",
        "mend": "set MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY on the MLflow server and create the webhook again",
    },
]


def busy(queue: Queue) -> None:
    """A service at work: something in every state."""
    for number, status in enumerate(VerdictStatus):
        judge(queue, f"model-{number}", "3", status.value, NOW - 9000 + 600 * number)
    judge(queue, "churn", "11", "pass", NOW - 8 * 86400, valid_until="2026-09-20")
    judge(queue, "churn", "12", "pass", NOW - 3600, attestation="d" * 64)
    judge(queue, "fraud", "7", "pass_with_warnings", NOW - 7200, report=None, run_id=None)
    queue.request(Wanted("moved", "1", "*"), NOW - 400)
    job = queue.claim("w", {"*": 9}, 60.0, NOW - 400)
    assert job is not None
    assert queue.finish(job, "no subscription covers it any more", None, None, NOW - 390)
    queue.request(Wanted("credit-risk", "4", "*"), NOW - 500)
    job = queue.claim("w", {"*": 9}, 60.0, NOW - 450)
    assert job is not None
    assert queue.park(job, "config: privacy-gate.yaml:7:3: data.members: members.csv: no such file", TERMS, NOW - 440)
    queue.request(Wanted("credit-risk", "5", "*"), NOW - 430)
    job = queue.claim("w", {"*": 9}, 60.0, NOW - 430)
    assert job is not None
    assert queue.fail(job, "the registry did not answer", TERMS, 3, 600.0, NOW - 420) is State.QUEUED
    for version, why in (("13", "model_version.created"), ("14", "the policy changed")):
        queue.request(Wanted("churn", version, "*", 5, why, "d-1"), NOW - 300)
        assert queue.claim("host-1", {"*": 9}, 60.0 if version == "13" else 400.0, NOW - 250) is not None
    for number in range(3):
        queue.request(Wanted(f"late-{number}", "1", "*", -1, "it was never judged"), NOW - 200 + number)
    queue.deliver(Delivery("d-1", Event("model_version", "created", "churn", "13"), NOW - 300, "queued"), None)
    queue.remember(
        "sweep", {"covered": 17, "judged": 13, "queued": 3, "parked": 1, "gone": 0, "failures": 2}, NOW - 100
    )
    queue.remember("aliases", {"churn": "11", "model-0": "3", "model-3": "3"}, NOW - 100)
    queue.remember("health", PROBES, NOW - 100)
    queue.remember("worker", {}, NOW - 5)


def page_of(queue: Queue, model: str | None = None, now: float = NOW, refresh: bool = True, **service: Any) -> str:
    return pages.render(pages.view(queue, settings(**service), now, model), refresh)


VOID = {"meta", "link", "br", "input"}
STRUCTURE = {"html", "head", "title", "style", "body", "header", "main", "nav", "footer", "section", "form", "label"}
TABLES = {"table", "thead", "tbody", "tr", "th", "td"}
TEXTS = {"button", "a", "p", "h1", "h2", "b", "span", "code", "pre", "ul", "li", "dl", "dt", "dd", "div", "time"}
TAGS = VOID | STRUCTURE | TABLES | TEXTS | {"svg", "g", "path", "circle"}


class Page(HTMLParser):
    """Tags, attributes and texts; complains about tags that are not closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        return " ".join(" ".join(text for where, text in self.texts if where not in ("style", "title")).split())

    def section(self, id: str) -> str:
        """What stands below one heading."""
        names = ["Last verdicts", "Running", "Queued", "Parked", "Who holds ", "Health", "Deliveries"]
        ids = ["verdicts", "running", "queued", "parked", "alias", "health", "deliveries"]
        heading = names[ids.index(id)]
        parts = [" ".join(t for w, t in run) for _, run in itertools.groupby(self.texts, lambda x: x[0] == "h2")]
        at = next(i for i, part in enumerate(parts) if part.startswith(heading))
        return " ".join(parts[at + 1].split())


# --- what it says ---------------------------------------------------------------------------------------------------


def test_golden_page(queue: Queue) -> None:
    busy(queue)
    text = re.sub(r"<style>.*?</style>", "<style></style>", page_of(queue), flags=re.DOTALL)
    text = re.sub(r"sha256-[\w+/=]{44}", "sha256-", text).replace(f"privacy-gate {VERSION}", "privacy-gate VERSION")
    if os.environ.get("PRIVACY_GATE_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "run with PRIVACY_GATE_UPDATE_GOLDEN=1 and read the difference"


def test_every_state_is_where_it_belongs(queue: Queue) -> None:
    busy(queue)
    page = Page(page_of(queue))
    verdicts, running, queued, parked = map(page.section, ("verdicts", "running", "queued", "parked"))
    for status in VerdictStatus:
        assert VERDICTS[status] in verdicts
    assert "no subscription covers it any more" in verdicts
    assert "churn version 11" in verdicts
    assert verdicts.count("run out") == 1
    assert "churn version 13" in running
    assert "silent since 2026-09-21 14:09 UTC" in running  # begun at 14:09:10, and never heard of again
    assert re.search(r"churn version 14 4 min ago 1 of 3 host-1 heard of 0 s ago the policy changed", running)
    assert queued.index("credit-risk version 5") < queued.index("late-0 version 1") < queued.index("late-2 version 1")
    assert "in 3 min" in queued
    assert "attempt 1 of 3 came to nothing: the registry did not answer" in queued
    assert "members.csv: no such file" in parked
    assert "credit-risk version 4" in parked
    assert "churn" not in parked + queued


def test_counts_and_what_needs_a_person(queue: Queue) -> None:
    busy(queue)
    page = Page(page_of(queue))
    assert "Running 2 Queued 4 Parked 1 Done 10" in page.text
    assert "Needs attention" in page.text
    for sentence in (
        "1 check of the service and its webhook: there is something to mend",
        "1 version waits for a person",
        "1 worker fell silent",
    ):
        assert sentence in page.text
    assert "Sweeps have stopped" not in page.text
    assert "Sweeps have stopped" in Page(page_of(queue, now=NOW + 3601)).text


def test_all_is_well(queue: Queue) -> None:
    queue.remember("sweep", {"covered": 0}, NOW - 10)
    queue.remember("worker", {}, NOW - 10)
    queue.remember("health", PROBES[:1], NOW - 10)
    judge(queue, "churn", "1", "pass", NOW - 100)
    page = Page(page_of(queue))
    assert "In order" in page.text
    assert "Nothing waits." in page.text
    queue.request(Wanted("churn", "2", "*"), NOW)
    assert "1 version is on the way to a verdict." in Page(page_of(queue)).text


@pytest.mark.parametrize(
    ("fact", "value", "age", "said"),
    [
        ("worker", {}, 181.0, "No worker looks for work"),
        ("sweep failed", "the registry did not answer", -1.0, "The last sweep failed"),
        ("worker", {}, -301.0, "No worker looks for work"),
        ("sweep", {"covered": 0}, 901.0, "Sweeps have stopped"),
        ("sweep", {"covered": 0}, -301.0, "Sweeps have stopped"),
        ("health", PROBES, 0.0, "1 check of the service and its webhook: there is something to mend"),
        ("health", {"not": "a list"}, 0.0, "1 check of the service and its webhook: there is something to mend"),
        ("health", [1], 0.0, "1 check of the service and its webhook: there is something to mend"),
        (
            "health",
            [{"name": "x", "ok": "yes"}],
            0.0,
            "1 check of the service and its webhook: there is something to mend",
        ),
    ],
)
def test_each_thing_that_is_wrong(queue: Queue, fact: str, value: Any, age: float, said: str) -> None:
    facts = {"sweep": {"covered": 0}, "worker": {}, "health": PROBES[:1]}
    for name, good in facts.items():
        queue.remember(name, good, NOW)
    assert "Needs attention" not in page_of(queue)
    queue.remember(fact, value, NOW - age)
    page = Page(page_of(queue))
    assert "Needs attention" in page.text
    assert said in page.text


def test_a_failure_before_the_last_sweep_is_forgotten(queue: Queue) -> None:
    queue.remember("sweep failed", "the registry did not answer", NOW - 20)
    queue.remember("sweep", {"covered": 0}, NOW - 10)
    assert "failed" not in Page(page_of(queue)).text


def test_a_worker_that_judges_need_not_look_for_work(queue: Queue) -> None:
    queue.request(Wanted("churn", "1", "*"), NOW - 5000)
    queue.claim("w", {"*": 1}, 6000.0, NOW - 5000)
    queue.remember("worker", {}, NOW - 5000)
    assert "No worker looks" not in page_of(queue)


@pytest.mark.parametrize(
    ("aliases", "model", "said"),
    [
        ({"churn": "12"}, "churn", "churn version 12 ✓ in order"),
        ({"churn": "11"}, "churn", "churn version 11 ! version 12 is due"),
        ({"churn": None}, "churn", "churn nothing ! version 12 is due"),
        ({"churn": "99"}, "churn", "churn version 99 ? its verdict is not among those above"),
        ({"model-3": "3"}, "model-3", "model-3 version 3 ! will be taken away"),
        ({"model-3": None}, "model-3", "model-3 nothing – no version passes"),
        ({}, "churn", "churn not known; version 12 is the newest above that passes ? not looked up yet"),
        ({}, "model-3", "No version of this model has a pass"),
    ],
)
def test_who_holds_the_alias(queue: Queue, aliases: dict[str, str | None], model: str, said: str) -> None:
    busy(queue)
    queue.remember("aliases", aliases, NOW)
    assert said in Page(page_of(queue, model)).section("alias")


def test_what_a_sweep_of_another_release_told_is_not_read(queue: Queue) -> None:
    queue.remember("sweep", {"covered": "many"}, NOW)
    assert "what it found cannot be read" in Page(page_of(queue)).section("health")


def test_an_empty_service_says_what_to_do(queue: Queue) -> None:
    page = Page(page_of(queue))
    for section in ("verdicts", "running", "queued", "parked", "alias", "health"):
        assert re.search(r"yet|Nothing", page.section(section)), section
    said = page.section("deliveries")
    assert "No delivery has arrived yet" in said
    code = next(text for where, text in page.texts if where == "code" and "create_webhook" in text)
    call: dict[str, Any] = {}

    class Client:
        def create_webhook(self, **given: Any) -> None:
            call.update(given)

    lines = [line for line in code.splitlines() if not line.startswith(("import", "from"))]
    environment = type("os", (), {"environ": {"PRIVACY_GATE_WEBHOOK_SECRET": "s"}})
    exec("\n".join(lines), {"MlflowClient": Client, "os": environment})
    assert call == {
        "name": "privacy-gate",
        "url": "https://gate.example/webhook",
        "events": ["model_version.created"],
        "secret": "s",
    }


def test_the_call_is_one_that_mlflow_takes() -> None:
    import inspect

    from mlflow import MlflowClient
    from mlflow.entities.webhook import WebhookEvent

    assert {"name", "url", "events", "secret"} <= set(inspect.signature(MlflowClient.create_webhook).parameters)
    for name in ("model_version.created", "model_version_alias.created", "model_version_tag.set"):
        assert str(WebhookEvent.from_str(name)) == name


def test_a_pass_without_a_date_is_none(queue: Queue) -> None:
    """Compared as text, "never" would be later than any day."""
    judge(queue, "churn", "1", "pass", NOW, valid_until="never")
    assert not pages.view(queue, settings(), NOW).done[0].passes
    assert "run out" in Page(page_of(queue)).section("verdicts")


def test_no_secret_is_shown(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVACY_GATE_WEBHOOK_SECRET", "correct-horse")
    busy(queue)
    source = page_of(queue)
    assert "correct-horse" not in source
    for job in queue.jobs(State.RUNNING):
        assert job.lease is not None
        assert job.lease.rpartition(":")[2] not in source  # who knows a lease could end another's job


def test_one_model_alone(queue: Queue) -> None:
    busy(queue)
    source = page_of(queue, "churn", refresh=False)
    page = Page(source)
    assert "model-0" not in page.text
    assert "churn version 14" in page.section("running")
    assert "Running 2" in page.text  # the counts are of all
    links = [a["href"] or "" for tag, a in page.tags if tag == "a"]
    assert all("refresh=off" in link for link in links if link.startswith("?") and link != "?model=churn")
    for name in ("nobody", "x" * 10_000, "\0", "\ud800", "%", "'; drop table x"):
        assert "No version of this model" in Page(page_of(queue, name)).section("verdicts")
    assert page_of(queue, "") == page_of(queue)


def test_refresh_keeps_its_mind(queue: Queue) -> None:
    on, off = Page(page_of(queue, "a&b")), Page(page_of(queue, "a&b", refresh=False))
    refresh = [("meta", {"http-equiv": "refresh", "content": str(pages.REFRESH)})]
    assert [tag for tag in on.tags if tag[1].get("http-equiv") == "refresh"] == refresh
    assert [tag for tag in off.tags if tag[1].get("http-equiv") == "refresh"] == []
    assert ("a", {"href": "?model=a%26b&refresh=off"}) in on.tags
    assert ("a", {"href": "?model=a%26b"}) in off.tags
    assert ("input", {"type": "hidden", "name": "refresh", "value": "off"}) in off.tags


def test_times_can_be_read_by_machines(queue: Queue) -> None:
    busy(queue)
    times = [a["datetime"] or "" for tag, a in Page(page_of(queue)).tags if tag == "time"]
    assert len(times) > 20
    assert all(re.fullmatch(r"2026-\d\d-\d\d(T\d\d:\d\d:\d\dZ)?", at) for at in times)
    for at in (1e300, -1e300, 0.0):
        made = dataclasses.replace(pages.view(queue, settings(), NOW), now=at, probed=NOW)
        Page(pages.render(made))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (-59, "59 s"), (60, "1 min"), (3599, "60 min"), (7200, "2 h"), (36 * 3600, "2 days")],
)
def test_spans(seconds: float, said: str) -> None:
    assert pages.span(seconds) == said


# --- what it is made of ---------------------------------------------------------------------------------------------


def test_a_view_is_a_few_questions(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as for an empty queue, whatever is in it."""
    asked = 0
    reading = Queue._reading

    def counted(self: Queue) -> Any:
        nonlocal asked
        asked += 1
        return reading(self)

    monkeypatch.setattr(Queue, "_reading", counted)
    page_of(queue)
    first, asked = asked, 0
    busy(queue)
    asked = 0
    page_of(queue)
    assert asked == first <= 12


def test_rendering_is_a_function(queue: Queue) -> None:
    busy(queue)
    seen = pages.view(queue, settings(), NOW)
    assert pages.render(seen) == pages.render(seen)
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.now = 0.0  # type: ignore[misc]


def flood(queue: Queue, evil: str) -> None:
    """Every text that somebody else chooses."""
    event = Event(evil, evil, evil, evil, evil, evil)
    queue.deliver(Delivery(evil, event, NOW, evil), None)
    for number in range(3):
        name = f"{evil}{number}"
        judge(queue, name, evil, evil[:64], NOW, headline=evil, run_id=evil, report=evil, valid_until=evil[:32])
    judge(queue, evil, "1", "pass", NOW, report="reports/../../etc", attestation=evil[:128])
    for number in range(4):
        queue.request(Wanted(f"{number}{evil}", evil, evil, 0, evil, evil), NOW)
    first, second, third = (queue.claim(evil, {evil: 99}, 60.0, NOW) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    queue.park(first, evil, TERMS, NOW)
    queue.fail(second, evil, TERMS, 3, 0.0, NOW)
    queue.remember("sweep", {evil: 1, "failures": 1}, NOW - 1)
    queue.remember("aliases", {evil: evil}, NOW - 1)
    queue.remember("sweep failed", evil, NOW)
    queue.remember("health", [{"name": evil, "ok": False, "detail": evil, "mend": evil}], NOW)


@pytest.mark.parametrize("evil", EVIL, ids=["payload", "bidi", "long", "script"])
def test_hostile_texts_are_inert(queue: Queue, evil: str) -> None:
    flood(queue, evil)
    source = page_of(queue, url=f"https://{evil}")
    for page in (Page(source), Page(page_of(queue, evil)), Page(page_of(queue, evil[:200]))):
        assert {tag for tag, _ in page.tags} <= TAGS
        for tag, attributes in page.tags:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        links = [attributes.get("href") or "" for _, attributes in page.tags if "href" in attributes]
        assert all(re.match(r"#|\?|data:,$|reports/[0-9a-f]{16}/", link) for link in links)
        assert [tag for tag, _ in page.tags].count("style") == 1
        shown = "\n".join(text for where, text in page.texts if where not in ("style", "code"))
        assert not [c for c in shown if (ord(c) < 32 and c != "\n") or c in "\x7f\x9b\u202e\u2066\u200b\u2028"]
        assert max(map(len, re.findall(r"x+", shown)), default=0) <= 600
    assert not any(line.lstrip().startswith(("::", "##")) for line in source.splitlines())
    assert len(source) < 200_000


def test_five_thousand_jobs(queue: Queue) -> None:
    """Rows end, and say so; counts go on."""
    from sqlalchemy import insert, select

    from privacy_gate.service.queue import _jobs

    judge(queue, "n" * 250, "0", "pass", NOW)
    states = [State.DONE] * 1999 + [State.QUEUED] * 2000 + [State.PARKED] * 900 + [State.RUNNING] * 100
    with queue._writing() as connection:
        row = dict(connection.execute(select(_jobs)).one()._mapping)
        row |= {"why": "w" * 2000, "outcome": "o" * 2000, "lease": "w:1", "lease_until": NOW + 60}
        places = enumerate(states, start=1)
        own = [
            {"id": f"{n:064x}", "place": 9 + n, "version": str(n), "changed": NOW + n, "state": s} for n, s in places
        ]
        connection.execute(insert(_jobs), [row | more | {"state": more["state"].value} for more in own])
    seen = pages.view(queue, settings(), NOW)
    source = pages.render(seen)
    page = Page(source)
    assert "Running 100 Queued 2,000 Parked 900 Done 2,000" in page.text
    assert [tag for tag, _ in page.tags].count("tr") <= 5 * (pages.LIMIT + 1)
    assert page.text.count("are shown") == 4
    assert seen.done[0].job.version == "1999"
    assert len(source) < 600_000


def test_headings_landmarks_and_names(queue: Queue) -> None:
    busy(queue)
    page = Page(page_of(queue))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == tags.count("main") == tags.count("header") == tags.count("footer") == 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        href = attributes.get("href") or ""
        assert not href.startswith("#") or href[1:] in ids
        assert not attributes.get("aria-labelledby") or attributes["aria-labelledby"] in ids
        if tag in ("th", "td", "tr", "table", "thead", "tbody"):
            assert attributes.get("role")  # what the narrow layout would take from them
        if tag == "td":
            assert attributes.get("data-label")
    assert ("label", {"for": "model"}) in page.tags


def test_the_policy_names_the_style(queue: Queue) -> None:
    source = page_of(queue)
    style = re.search(r"<style>(.*?)</style>", source, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = next(a["content"] or "" for _, a in Page(source).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert "unsafe" not in policy
    assert "url(" not in style[1]


# --- over HTTP ------------------------------------------------------------------------------------------------------

ID = "0123456789abcdef"


@pytest.fixture(scope="module")
def report_page() -> str:
    return render_report(SAMPLES["fail"]())


@pytest.fixture
def state(tmp_path: Path, report_page: str) -> Path:
    folder = tmp_path / "state" / "reports" / ID
    folder.mkdir(parents=True)
    (folder / "report.html").write_text(report_page, encoding="utf-8")
    for name in ("report.json", "report.md", "attestation.json", "members.npz", "report.txt"):
        (folder / name).write_text(f"{{}} {name}")
    (tmp_path / "state" / "secret.json").write_text("secret")
    (tmp_path / "state" / "report.json").write_text("secret")
    return tmp_path / "state"


@pytest.fixture
def client(queue: Queue, state: Path) -> TestClient:
    application = FastAPI()
    application.include_router(pages.router(settings(), queue, state, lambda: NOW))
    return TestClient(application, follow_redirects=False)


def test_the_page_over_http(client: TestClient, queue: Queue) -> None:
    busy(queue)
    answer = client.get("/?model=churn&refresh=off")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == page_of(queue, "churn", refresh=False)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    head = client.head("/")
    assert (head.status_code, head.headers["content-type"]) == (200, answer.headers["content-type"])
    assert client.post("/").status_code == 405
    assert client.get("/?model=a&model=b&refresh=&x=1").status_code == 200
    assert client.get("/?model=%00%ff%ed%a0%80").status_code == 200


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("report.html", "text/html; charset=utf-8"),
        ("report.json", "application/json"),
        ("report.md", "text/markdown; charset=utf-8"),
        ("attestation.json", "application/json"),
    ],
)
def test_files_of_a_report(client: TestClient, state: Path, file: str, kind: str) -> None:
    answer = client.get(f"/reports/{ID}/{file}")
    assert answer.status_code == 200
    assert answer.content == (state / "reports" / ID / file).read_bytes()
    assert answer.headers["content-type"] == kind
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "sandbox" in policy
    if file == "report.html":
        own = re.search(r"style-src '(sha256-[^']+)'", answer.text)
        assert own is not None
        assert f"style-src '{own[1]}'" in policy
        assert "content-disposition" not in answer.headers
    else:
        stem, suffix = file.split(".")
        assert answer.headers["content-disposition"] == f'attachment; filename="{stem}-{ID}.{suffix}"'
    head = client.head(f"/reports/{ID}/{file}")
    assert head.status_code == 200
    assert head.headers["content-length"] == str(len(answer.content))


def test_a_page_without_the_policy_of_a_report_gets_no_style(client: TestClient, state: Path) -> None:
    loose = '<meta http-equiv="Content-Security-Policy" content="default-src *; script-src \'unsafe-inline\'">'
    (state / "reports" / ID / "report.html").write_text(f"{loose}<script>alert(1)</script>")
    policy = client.get(f"/reports/{ID}/report.html").headers["content-security-policy"]
    assert policy == "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"


BAD = [
    f"/reports/{ID}/members.npz",
    f"/reports/{ID}/report.txt",
    f"/reports/{ID}/",
    f"/reports/{ID}",
    "/reports/",
    f"/reports/{ID}/REPORT.HTML",
    f"/reports/{ID}/report.html%00",
    f"/reports/{ID}/report.html%0a",
    f"/reports/{ID}%0a/report.html",
    f"/reports/{ID}/report.html/",
    f"/reports/{ID}/../report.json",
    f"/reports/{ID}/..%2freport.json",
    f"/reports/{ID}%2f..%2f{ID}/report.json",
    f"/reports/./{ID}/report.json",
    f"/reports//{ID}/report.json",
    "/reports/../report.json",
    "/reports/%2e%2e/report.json",
    "/reports/..%5c/report.json",
    "/reports/%252e%252e/report.json",
    "/reports/..%c0%af/report.json",
    f"/reports/{ID.upper()}/report.json",
    f"/reports/{ID[:-1]}/report.json",
    f"/reports/{ID}0/report.json",
    f"/reports/{ID[:-1]}\uff10/report.json",
    f"/reports/{'0' * 16}/report.json",
    "/reports//etc/passwd",
    "/reports/%2fetc/passwd",
]


def asked(application: FastAPI, method: str, path: str) -> tuple[int, bytes]:
    """Status and body, with the path as a server would hand it on: clients mend paths before they send them."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http"}
    scope |= {"path": unquote(path), "raw_path": path.encode(), "query_string": b"", "headers": [], "root_path": ""}
    asyncio.run(application(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_nothing_else_is_served(client: TestClient) -> None:
    application = client.app
    assert isinstance(application, FastAPI)
    assert asked(application, "GET", f"/reports/{ID}/report.json") == (200, b"{} report.json")
    for path in BAD:
        for method in ("GET", "HEAD"):
            status, body = asked(application, method, path)
            assert status in (404, 307), path
            assert b"secret" not in body
            assert b"{}" not in body


def test_a_longer_name_of_a_digit_is_no_id() -> None:
    """The pattern takes ASCII alone, and the whole of it."""
    for key in ("\uff10" * 16, f"{ID}\n", f"\n{ID}", "", ".", "..", "/" * 16):
        assert pages._read(Path("/"), key, "report.json") is None


@pytest.mark.parametrize("what", ["file", "folder", "all", "pipe", "directory", "large", "unreadable"])
def test_only_plain_files_reached_without_links(client: TestClient, state: Path, tmp_path: Path, what: str) -> None:
    reports, key = state / "reports", state / "reports" / ID
    report = key / "report.json"
    assert client.get(f"/reports/{ID}/report.json").status_code == 200
    report.unlink()
    match what:
        case "file":
            report.symlink_to(key / "report.md")
        case "folder":
            key.rename(tmp_path / "elsewhere")
            (tmp_path / "elsewhere" / "report.json").write_text("{}")
            key.symlink_to(tmp_path / "elsewhere")
        case "all":
            report.write_text("{}")
            reports.rename(tmp_path / "elsewhere")
            reports.symlink_to(tmp_path / "elsewhere")
        case "pipe":
            os.mkfifo(report)  # would wait for its writer for ever
        case "directory":
            report.mkdir()
        case "large":
            with report.open("wb") as stream:
                stream.truncate(pages.LARGEST + 1)
        case "unreadable":
            left, right = socket.socketpair()
            left.close()
            right.close()
            listener = socket.socket(socket.AF_UNIX)
            with contextlib.chdir(key), contextlib.closing(listener):
                listener.bind("report.json")
    assert client.get(f"/reports/{ID}/report.json").status_code == 404


def test_descriptors_are_given_back(client: TestClient) -> None:
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    client.get(f"/reports/{ID}/report.json")
    before = held()
    for _ in range(20):
        client.get(f"/reports/{ID}/report.json")
        client.get(f"/reports/{'0' * 16}/report.json")
    assert held() == before


def test_behind_the_receiver(queue: Queue, state: Path) -> None:
    """Mounted as the service does it: the token is asked for, and the page keeps a policy of its own."""
    from privacy_gate.service.receiver import app

    mounted = pages.router(settings(), queue, state, lambda: NOW)
    client = TestClient(app(settings(), queue, secret="s" * 32, token="t" * 32, sweep=lambda: None, pages=mounted))
    for path in ("/", f"/reports/{ID}/report.html"):
        assert client.get(path).status_code == client.head(path).status_code == 401
        answer = client.get(path, auth=("anybody", "t" * 32))
        assert answer.status_code == 200
        assert "style-src 'sha256-" in answer.headers["content-security-policy"]
    assert client.get("/", headers={"Authorization": f"Bearer {'t' * 32}"}).text == page_of(queue)
    assert client.get(f"/reports/{ID}/members.npz", auth=("", "t" * 32)).status_code == 404
    assert "/reports/{key}/{file}" not in client.get("/openapi.json").json()["paths"]


# --- in a browser ---------------------------------------------------------------------------------------------------


PATIENCE = 60.0  # seconds


class Browser:
    """Chromium, by its debugging pipe: messages are JSON, each ended by a zero byte."""

    def __init__(self, profile: Path) -> None:
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if found is None:
            pytest.skip("no chromium")
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()

        def ends() -> None:  # 3 and 4 are where it reads and writes
            one, other = os.dup(to_read), os.dup(to_write)
            os.dup2(one, 3)
            os.dup2(other, 4)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            [found, *flags, f"--user-data-dir={profile}"], preexec_fn=ends, close_fds=False, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._stream = os.fdopen(self._from, "rb", buffering=0)
        self._rest = b""
        self._id = 0
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", None, url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", None, targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, session: str | None = "", **parameters: Any) -> dict[str, Any]:
        """One question and its answer; what happens meanwhile is kept in `events`."""
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._id:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._stream], [], [], PATIENCE)[0], "the browser says nothing"
            more = self._stream.read(1 << 16)
            assert more, "the browser is gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def show(self, url: str, width: int, dark: bool = False) -> None:
        self.events.clear()
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        self.ask("Emulation.setEmulatedMedia", features=scheme)
        self.ask("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def tell(self, expression: str) -> Any:
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self, path: Path) -> None:
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def said(self) -> list[Any]:
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [event["params"] for event in self.events if event.get("method") in kinds]

    def asked(self) -> list[str]:
        sent = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["request"]["url"] for event in sent]

    def close(self) -> None:
        os.close(self._to)
        self._stream.close()
        self._process.kill()
        self._process.wait(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, report_page: str) -> Iterator[Callable[[str], str]]:
    """Real services on loopback: busy, empty and hostile; gives the address of each."""
    import uvicorn

    folder = tmp_path_factory.mktemp("services")
    application, queues = FastAPI(), []
    for name in ("busy", "empty", "hostile"):
        queue = open_queue(folder / f"{name}.sqlite")
        if name == "busy":
            busy(queue)
        if name == "hostile":
            flood(queue, PAYLOAD)
        report = folder / name / "reports" / ID
        report.mkdir(parents=True)
        (report / "report.html").write_text(report_page, encoding="utf-8")
        router = pages.router(settings(), queue, folder / name, lambda: NOW)
        application.include_router(router, prefix=f"/{name}")
        queues.append(queue)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield lambda path: f"http://127.0.0.1:{listener.getsockname()[1]}/{path}"
    server.should_exit = True
    thread.join(20)
    listener.close()
    for queue in queues:
        queue.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "width"),
    [
        *(("busy", width) for width in (320, 768, 1280)),
        ("empty", 320),
        ("empty", 768),
        ("hostile", 320),
        ("hostile", 900),
    ],
)
def test_in_a_browser(browser: Browser, served: Callable[[str], str], name: str, width: int) -> None:
    """It fits the screen, says nothing on the console, and asks nobody for anything."""
    for dark in (False, True) if name == "busy" else (False,):
        address = served(f"{name}/")
        browser.show(address, width, dark)
        beyond = f"[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > {width} + 1)"
        beyond = f"{beyond}.filter(e => !e.closest('.scroll')).map(e => e.outerHTML.slice(0, 300)).join()"
        assert browser.tell(beyond) == ""
        assert browser.tell("document.documentElement.scrollWidth") <= width
        assert browser.tell("getComputedStyle(document.body).backgroundColor") == (
            "rgb(20, 23, 26)" if dark else "rgb(251, 251, 250)"
        )
        assert browser.said() == []
        assert set(browser.asked()) <= {address, "data:,"}
        assert browser.tell("document.querySelectorAll('script, img, iframe, object').length") == 0
        if shots := os.environ.get("PRIVACY_GATE_SCREENSHOTS"):
            browser.picture(Path(shots) / f"{name}-{width}{'-dark' if dark else ''}.png")


@pytest.mark.browser
def test_keys_reach_what_can_be_reached(browser: Browser, served: Callable[[str], str]) -> None:
    """The first stop is the skip link, and every stop can be seen."""
    browser.show(served("busy/"), 768)
    focused = []
    for _ in range(14):
        for kind in ("keyDown", "keyUp"):
            browser.ask("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        focused.append(browser.tell("document.activeElement.textContent || document.activeElement.id"))
        style = "getComputedStyle(document.activeElement)"
        assert browser.tell(f"{style}.outlineStyle") != "none" or focused[-1].startswith("Skip")
    assert focused[0] == "Skip to the content"
    assert "model" in focused


@pytest.mark.browser
def test_the_filter_is_sent(browser: Browser, served: Callable[[str], str]) -> None:
    """The policy lets the form reach this page."""
    browser.show(served("busy/"), 768)
    browser.events.clear()
    browser.ask("Runtime.evaluate", expression="document.getElementById('model').focus()")
    browser.ask("Input.insertText", text="churn")
    for kind in ("keyDown", "keyUp"):
        browser.ask("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13)
    while not any(event.get("method") == "Page.loadEventFired" for event in browser.events):
        browser.events.append(browser._next())
    assert browser.tell("location.search") == "?model=churn"
    assert browser.said() == []


@pytest.mark.browser
def test_a_report_keeps_its_style(browser: Browser, served: Callable[[str], str]) -> None:
    browser.show(served(f"busy/reports/{ID}/report.html"), 1280)
    assert browser.tell("document.querySelector('h1').textContent.trim()") == "Fail"
    assert browser.tell("getComputedStyle(document.querySelector('.banner')).borderRadius") == "14px"
    assert browser.said() == []


@pytest.mark.browser
def test_the_browser_would_tell(browser: Browser, tmp_path: Path) -> None:
    """A style that the policy does not name is reported, and a wide page measured: the tests above can fail."""
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    (tmp_path / "page.html").write_text(f"<!doctype html>{policy}<style>p{{color:red}}</style><pre>{'x' * 500}")
    browser.show((tmp_path / "page.html").as_uri(), 320)
    assert len(browser.said()) == 1
    assert browser.tell("document.documentElement.scrollWidth") > 320
