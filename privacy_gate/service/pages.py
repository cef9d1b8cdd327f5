"""What people see of the service: its state on one page, and the reports. Nothing here changes anything.

The page is a function of a frozen view, has no script, and loads itself again every REFRESH seconds unless its address
ends in ?refresh=off. ?model=NAME shows one model alone. Each list ends after LIMIT rows and says so.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import functools
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import HTMLResponse

from privacy_gate.datamodel import VerdictStatus
from privacy_gate.registry import PASSES, Probe
from privacy_gate.release import VERSION
from privacy_gate.reports import figures
from privacy_gate.reports.templating import VERDICT_TONES, environment
from privacy_gate.reports.wording import VERDICTS
from privacy_gate.resources import template
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.service import Delivery, Job, Judged, Key, State, fresh, health, number
from privacy_gate.service import sweep as sweeps
from privacy_gate.service.queue import Queue
from privacy_gate.service.secrets import WEBHOOK_SECRET
from privacy_gate.service.subscriptions import Subscriptions, events

if TYPE_CHECKING:
    from jinja2 import Environment

LIMIT = 50  # rows of a list
DELIVERIES = 10
REFRESH = 15  # seconds
LARGEST = 32 << 20  # bytes of a file of a report
_TEXT = 600  # characters of any text from elsewhere
_WORD = 30  # of what should be a word
_NAME = 250  # a longer name is no model's

_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_FILES = {
    "report.html": "text/html",
    "report.json": "application/json",
    "report.md": "text/markdown",
    "attestation.json": "application/json",
}
# The policy that a report carries within itself, with the digest of its own style.
_REPORT_POLICY = re.compile(
    rb"<meta http-equiv=\"Content-Security-Policy\" content=\"(default-src 'none'; "
    rb"style-src 'sha256-[A-Za-z0-9+/]{43}='; img-src data:; base-uri 'none'; form-action 'none')\">"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Done:
    """A job that ended, and what came of it.

    report  id of the report's folder; None: there is none here
    passes  whether the verdict lets the model through today
    """

    job: Job
    judged: Judged | None
    report: str | None
    passes: bool


@dataclass(frozen=True, slots=True)
class Holder:
    """To which version of a model the alias points.

    seen    whether the last sweep told where it points
    holds   the version that it saw; None: none
    passes  whether that version passes today; None: it is not among the verdicts shown
    due     the newest version shown that passes; None: there is none
    """

    name: str
    seen: bool
    holds: str | None
    passes: bool | None
    due: str | None

    @property
    def state(self) -> tuple[str, str, str]:
        """Tone, sign and word."""
        if not self.seen:
            return "none", "?", "not looked up yet"
        if self.due is not None and (self.holds is None or number(self.due) > number(self.holds)):
            return "open", "!", f"version {clean(self.due, _WORD)} is due"
        if self.holds is None:
            return "none", "–", "no version passes"
        if self.passes is None:
            return "none", "?", "its verdict is not among those above"
        return ("pass", "✓", "in order") if self.passes else ("open", "!", "will be taken away")


@dataclass(frozen=True, slots=True)
class Rows:
    """A list, cut: `more` says that there are others."""

    jobs: tuple[Job, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Sweep:
    """The last one that came to its end.

    at        seconds since 1970
    covered   versions that the subscriptions cover; None: what it remembered cannot be read
    counts    how they stand -> how many
    failures  versions and aliases that could not be looked at
    """

    at: float
    covered: int | None = None
    counts: tuple[tuple[str, int], ...] = ()
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, and when; seconds since 1970."""

    what: str
    at: float


@dataclass(frozen=True, slots=True)
class Status:
    """All that the page shows.

    now      seconds since 1970
    model    the only one shown; None: all
    counts   jobs in each state, of all models
    probes   None: nobody has asked yet
    sweep    None: there was none yet
    failed   the last sweep, where it did not come to its end
    worked   when a worker last looked for work; None: never
    address  where a registry reaches the receiver; None: the settings do not say
    events   that the subscriptions need
    """

    now: float
    model: str | None
    counts: Mapping[State, int]
    running: Rows
    queued: Rows
    parked: Rows
    done: tuple[Done, ...]
    more_done: bool
    holders: tuple[Holder, ...]
    probes: tuple[Probe, ...] | None
    probed: float | None
    deliveries: tuple[Delivery, ...]
    sweep: Sweep | None
    failed: Failure | None
    worked: float | None
    alias: str
    lease: float
    sweep_every: float
    attempts: int
    address: str | None
    events: tuple[str, ...]

    @property
    def today(self) -> str:
        """ISO date, UTC."""
        return _moment(self.now).date().isoformat()

    @property
    def silent(self) -> tuple[Job, ...]:
        """Running jobs whose workers have let their lease run out."""
        return tuple(job for job in self.running.jobs if job.lease_until is not None and job.lease_until <= self.now)

    @property
    def overdue(self) -> bool:
        """Whether sweeps have stopped."""
        return self.sweep is not None and not fresh(self.sweep.at, self.now, health.LATE * self.sweep_every)

    @property
    def manned(self) -> bool:
        """Whether there is a worker: one that holds a job, or that looked for one lately."""
        if len(self.silent) < len(self.running.jobs):
            return True
        return self.worked is not None and fresh(self.worked, self.now, health.LATE * self.lease)

    @property
    def wrong(self) -> tuple[tuple[str, str], ...]:
        """What needs a person: a sentence, and the section that says more."""
        parked, failing = self.counts[State.PARKED], sum(not probe.ok for probe in self.probes or ())
        untold = "what the registry forgot to tell is not found."
        found = [
            (
                failing > 0,
                f"{_many(failing, 'check')} of the service and its webhook: there is something to mend.",
                "health",
            ),
            (parked > 0, f"{_many(parked, 'version')} {'waits' if parked == 1 else 'wait'} for a person.", "parked"),
            (bool(self.silent), f"{_many(len(self.silent), 'worker')} fell silent; others take over.", "running"),
            (not self.manned, "No worker looks for work: nothing is judged.", "health"),
            (self.failed is not None, f"The last sweep failed: {untold}", "health"),
            (self.sweep is None and self.failed is None, f"There was no sweep yet: {untold}", "health"),
            (self.overdue and self.failed is None, f"Sweeps have stopped: {untold}", "health"),
        ]
        return tuple((text, section) for wrong, text, section in found if wrong)


def _many(count: int, noun: str) -> str:
    return f"{figures.count(count)} {noun}{'' if count == 1 else 's'}"


def view(queue: Queue, settings: Subscriptions, now: float, model: str | None = None) -> Status:
    """What there is to show now; the number of questions to the queue does not grow with what is in it.

    model  the only one to show; None or "": all. Raises StorageFailed.
    """
    service, model = settings.service, model or None
    parts = {state: _rows(queue, state, model) for state in State}
    ended = parts[State.DONE]
    verdicts = queue.judged([job.key for job in ended.jobs if job.key is not None])
    today = _moment(now).date().isoformat()
    done = tuple(_done(job, verdicts, today) for job in ended.jobs)
    found, worker = queue.recall(health.FACT), queue.recall(health.WORKERS)
    sweep, failed = _sweep(queue.recall(sweeps.SWEPT)), queue.recall(sweeps.FAILED)
    return Status(
        now=now,
        model=model,
        counts=queue.counts(),
        running=parts[State.RUNNING],
        queued=parts[State.QUEUED],
        parked=parts[State.PARKED],
        done=done,
        more_done=ended.more,
        holders=_holders(queue.recall(sweeps.ALIASES), done, model),
        probes=None if found is None else _probes(found[0]),
        probed=None if found is None else found[1],
        deliveries=tuple(queue.deliveries(DELIVERIES)),
        sweep=sweep,
        failed=Failure(str(failed[0]), failed[1]) if failed and (sweep is None or failed[1] > sweep.at) else None,
        worked=None if worker is None else worker[1],
        alias=service.alias,
        lease=service.lease,
        sweep_every=service.sweep_every,
        attempts=service.attempts,
        address=None if service.url is None else service.url.rstrip("/") + health.WEBHOOK_PATH,
        events=tuple(sorted(events(settings))),
    )


def _sweep(fact: tuple[Any, float] | None) -> Sweep | None:
    if fact is None:
        return None
    value, at = fact
    if not isinstance(value, Mapping) or not all(type(count) is int for count in value.values()):
        return Sweep(at)  # of another release
    counts = {str(name): count for name, count in value.items()}
    covered, failures = counts.pop("covered", 0), counts.pop("failures", 0)
    return Sweep(at, covered, tuple((name, count) for name, count in counts.items() if count)[:LIMIT], failures)


def _rows(queue: Queue, state: State, model: str | None) -> Rows:
    if model is not None and len(model) > _NAME:
        return Rows((), False)
    found = queue.jobs(state, model, LIMIT + 1)
    return Rows(tuple(found[:LIMIT]), len(found) > LIMIT)


def _done(job: Job, verdicts: Mapping[Key, Judged], today: str) -> Done:
    judged = None if job.key is None else verdicts.get(job.key)
    if judged is None:
        return Done(job, None, None, False)
    folder = (judged.report or "").rpartition("/")[2]
    dated = _DATE.fullmatch(judged.valid_until or "") is not None
    return Done(job, judged, folder if _ID.fullmatch(folder) else None, dated and judged.passes(today))


def _probes(value: Any) -> tuple[Probe, ...]:
    """What health remembered; what cannot be read is a failure of its own, never silence."""
    if not isinstance(value, list) or not all(isinstance(item, Mapping) and "name" in item for item in value):
        return (Probe("health", False, "what was remembered cannot be read", "restart privacy-gate serve"),)
    return tuple(
        Probe(str(p["name"]), p.get("ok") is True, str(p.get("detail") or ""), str(p.get("mend") or ""))
        for p in value[:LIMIT]
    )


def _holders(fact: tuple[Any, float] | None, done: Sequence[Done], model: str | None) -> tuple[Holder, ...]:
    """Of the models that the last sweep told of, and of those that have a pass."""
    told = fact[0] if fact is not None and isinstance(fact[0], Mapping) else {}
    seen = {name: None if version is None else str(version) for name, version in told.items()}
    passing: dict[str, list[str]] = {}
    for row in done:
        if row.passes:
            passing.setdefault(row.job.name, []).append(row.job.version)
    known = {(row.job.name, row.job.version): row.passes for row in done}
    names = sorted(name for name in {*seen, *passing} if model in (None, name))[:LIMIT]
    return tuple(
        Holder(
            name,
            name in seen,
            seen.get(name),
            known.get((name, seen.get(name) or "")),
            max(passing.get(name, ()), key=number, default=None),
        )
        for name in names
    )


# --- the page -------------------------------------------------------------------------------------------------------


def render(status: Status, refresh: bool = True) -> str:
    """The page; `refresh`: whether it loads itself again."""
    from markupsafe import Markup

    style, digest = _style()
    wrong = status.wrong
    busy = status.counts[State.RUNNING] + status.counts[State.QUEUED]
    tone, word = ("open", "Needs attention") if wrong else ("pass", "In order")
    return (
        _environment()
        .get_template("service/status.html.j2")
        .render(
            s=status,
            state=State,
            tone=tone,
            word=word,
            busy=busy,
            wrong=wrong,
            refresh=REFRESH if refresh else None,
            here="?" + (f"model={_quoted(status.model)}" if status.model else ""),
            others="&refresh=off" if not refresh else "",
            limit=LIMIT,
            secret=WEBHOOK_SECRET,
            tool=VERSION,
            policy=_policy(digest),
            style=Markup(style),  # noqa: S704 - our own files; their digest stands in the policy above them
        )
    )


@functools.cache
def _style() -> tuple[str, str]:
    """The style sheet and its digest."""
    sheets = (template("report", "style.css"), template("service", "style.css"))
    style = "\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
    return style, base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


def _policy(digest: str) -> str:
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'self'"


@functools.cache
def _environment() -> Environment:
    made = environment(autoescape=True, finalize=_printed)
    made.filters |= {
        "iso": _iso,
        "minute": _minute,
        "span": span,
        "quoted": _quoted,
        "tone": _tone,
        "verdict": _verdict,
        "worker": lambda job: (job.lease or "").rpartition(":")[0],
        "is_date": lambda text: _DATE.fullmatch(text) is not None,
        "is_pass": lambda status: status in PASSES,
    }
    return made


def _printed(value: Any) -> Any:
    if value is None:
        return figures.DASH
    return clean(value, _TEXT) if type(value) is str else value  # Markup is made of cleaned, escaped parts


def _quoted(text: str) -> str:
    """For the query of a link."""
    return quote(text, safe="", errors="replace")


def _tone(status: str) -> tuple[str, str]:
    try:
        return VERDICT_TONES[VerdictStatus(status)]
    except ValueError:
        return "none", "?"


def _verdict(status: str) -> str:
    try:
        return VERDICTS[VerdictStatus(status)]
    except ValueError:
        return clean(status, _WORD)


def _moment(seconds: float) -> datetime.datetime:
    """UTC; the beginning or the end of time for what no calendar has."""
    with contextlib.suppress(OverflowError, ValueError, OSError):
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    edge = datetime.datetime.max if seconds > 0 else datetime.datetime.min
    return edge.replace(tzinfo=datetime.UTC)


def _iso(seconds: float) -> str:
    return f"{_moment(seconds).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _minute(seconds: float) -> str:
    return f"{_moment(seconds).replace(tzinfo=None).isoformat(' ', 'minutes')} UTC"


def span(seconds: float) -> str:
    """A time between two moments, with its largest unit alone: "12 s", "3 min", "5 h", "2 days"."""
    size = abs(seconds)
    if size < 60:
        return f"{size:.0f} s"
    if size < 3600:
        return f"{size / 60:.0f} min"
    return f"{size / 3600:.0f} h" if size < 36 * 3600 else f"{size / 86400:.0f} days"


# --- over HTTP ------------------------------------------------------------------------------------------------------


def router(settings: Subscriptions, queue: Queue, state: Path, clock: Callable[[], float] = time.time) -> APIRouter:
    """GET and HEAD of / and of /reports/ID/FILE. Who may read them is decided where the routes are mounted.

    state  the service's folder, with the reports below it
    clock  seconds since 1970
    """
    routes = APIRouter()

    def status(model: str | None = None, refresh: str | None = None) -> HTMLResponse:
        """The state of the service; refresh=off: it does not load itself again."""
        page = render(view(queue, settings, clock(), model), refresh != "off")
        policy = f"{_policy(_style()[1])}; frame-ancestors 'none'"
        return HTMLResponse(page, headers={**_HEADERS, "Content-Security-Policy": policy})

    def report(key: str, file: str) -> Response:
        """A file of a report."""
        content = _read(state / "reports", key, file)
        if content is None:
            raise HTTPException(404, "no such report")
        return Response(content, headers=_headers(key, file, content), media_type=_FILES[file])

    routes.add_api_route("/", status, methods=["GET", "HEAD"], response_model=None)
    routes.add_api_route("/reports/{key}/{file}", report, methods=["GET", "HEAD"], response_model=None)
    return routes


def _headers(key: str, file: str, content: bytes) -> dict[str, str]:
    headers = dict(_HEADERS)
    if file == "report.html":
        # The page's own policy once more, where the browser sees it first; one that has none gets no style at all.
        own = _REPORT_POLICY.search(content[:4096])
        policy = own[1].decode() if own else "default-src 'none'; base-uri 'none'; form-action 'none'"
        headers["Content-Security-Policy"] = f"{policy}; frame-ancestors 'none'; sandbox"
    else:
        headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'; sandbox"
        stem, _, suffix = file.rpartition(".")
        headers["Content-Disposition"] = f'attachment; filename="{stem}-{key}.{suffix}"'
    return headers


def _read(folder: Path, key: str, file: str) -> bytes | None:
    """A file of a report, if it is one: a plain file of bearable size, reached through no link."""
    if not _ID.fullmatch(key) or file not in _FILES:
        return None
    try:
        with (
            _opened(folder, os.O_DIRECTORY) as outer,
            _opened(key, os.O_DIRECTORY, outer) as inner,
            _opened(file, os.O_NONBLOCK, inner) as descriptor,  # a pipe would wait for its writer
        ):
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
                return None
            with os.fdopen(os.dup(descriptor), "rb") as stream:
                content = stream.read(LARGEST + 1)
    except OSError:
        return None
    return content if len(content) <= LARGEST else None


@contextlib.contextmanager
def _opened(path: Path | str, kind: int, within: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
