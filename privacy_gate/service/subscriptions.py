"""subscriptions.yaml: which versions are judged, by what, and how the service runs. Secrets are never in it."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import Field, model_validator

from privacy_gate.errors import ConfigError, Diagnostic, GateError
from privacy_gate.registry import TAG_PREFIX, RegisteredVersion
from privacy_gate.request import CheckRequest, Duration, Settings
from privacy_gate.service import Event, Terms
from privacy_gate.service.secrets import QUEUE_URL, secret
from privacy_gate.storage import sha256_of_json

if TYPE_CHECKING:
    from privacy_gate.documents import Document, Trail
    from privacy_gate.policy import Policy

FILE = "subscriptions.yaml"
QUEUE_FILE = "queue.db"
_UNSEEN = 10.0  # seconds until broken files are read again though those that were read before are as they were

Pattern = Annotated[str, Field(min_length=1, max_length=250)]
Count = Annotated[int, Field(gt=0)]
# What MLflow takes: letters, digits, _ and -; "latest" and v1 it keeps for itself.
Alias = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_-]+$")]


class Trigger(Settings):
    """Which versions of a model are meant. With nothing given, every version."""

    alias: Alias | None = Field(None, description="those that this alias points to")
    tag: dict[str, str] | None = Field(None, min_length=1, description="those that carry all of these tags")


class Subscription(Settings):
    """Models by name, and by what their versions are judged. The first one whose pattern fits a name is its own."""

    name: Pattern = Field(description="name of a registered model; * and ? stand for any characters")
    versions: Trigger = Trigger()
    config: str = Field(description="privacy-gate.yaml of the service, relative to this file")
    data: Literal["config", "run"] = Field(
        "config", description="run: privacy_gate/data.yaml among the artifacts of a version's run names its records"
    )
    data_roots: list[str] = Field([], description="of data: run, where else than in its own run records may lie")
    policy: str | None = Field(None, description="policy file, relative to this one; default: the config's")
    profile: Literal["strict", "standard", "internal"] | None = None
    waivers: str | None = Field(None, description="waiver file, relative to this one; default: the policy's")
    suite: Literal["fast", "full", "deep"] = "full"
    trust: Literal["data", "code"] = Field("data", description="code: models that run code when they are loaded, too")
    priority: int = Field(0, ge=-1000, le=1000, description="higher ones first")
    concurrency: Count = Field(1, description="how many of its versions are judged at once")
    timeout: Duration = Field(7200.0, description="for one version")

    @model_validator(mode="after")
    def _one_policy(self) -> Subscription:
        if self.policy is not None and self.profile is not None:
            raise ValueError("policy: and profile: exclude each other; a policy file names its profile with extends:")
        if self.data_roots and self.data != "run":
            raise ValueError("data_roots: belongs to data: run")
        return self


class Service(Settings):
    """How the service runs."""

    state: str = Field("privacy-gate-service", description="folder of reports, logs and the queue, beside this file")
    url: str | None = Field(None, description="where people reach the status page")
    read: Literal["token", "open"] = Field("token", description="who may read the status page and the reports")
    alias: Alias = Field("privacy-approved", description="of the newest version that passes")
    nice: int = Field(10, ge=0, le=19, description="of what judges: what else runs on the machine comes first")
    sweep_every: Duration = 300.0
    verify_every: Duration = Field(86400.0, description="after which the files of judged versions are hashed again")
    lease: Duration = Field(60.0, description="after which the job of a worker that is silent is another one's")
    attempts: Count = Field(3, description="after which a job is parked")
    tolerance: Duration = Field(300.0, description="age of a delivery, either way, that is still believed")
    body: Count = Field(1 << 20, description="bytes of a delivery at most")
    deliveries: Count = Field(1200, description="per minute, at most")
    keep: Duration = Field(30 * 86400.0, description="how long deliveries are remembered")


class Subscriptions(Settings):
    """subscriptions.yaml."""

    api_version: Literal["privacy-gate/subscriptions/v1"] = Field(alias="apiVersion")
    tracking_uri: str | None = None
    registry_uri: str | None = None
    service: Service = Service()
    subscriptions: list[Subscription] = Field(min_length=1)


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscribed:
    """subscriptions.yaml, read with every file that it names.

    path       of the file, absolute
    folder     where its relative paths start, absolute
    positions  where everything in it stands
    requests   name of a subscription -> the check it asks for, but for the model and where the report goes
    terms      name of a subscription -> by what its versions are judged
    content    sha256 of every file that was read, by path; None: there was none
    """

    value: Subscriptions
    path: Path
    folder: Path
    positions: Document
    requests: Mapping[str, CheckRequest]
    terms: Mapping[str, Terms]
    content: Mapping[Path, str | None]

    @property
    def state(self) -> Path:
        """Folder of reports, logs and the queue, absolute."""
        return self.folder / Path(self.value.service.state).expanduser()

    @property
    def tracking_uri(self) -> str | None:
        """As the file names it, a relative SQLite database from the current folder on; None: the environment's."""
        return absolute_uri(self.value.tracking_uri)

    @property
    def registry_uri(self) -> str | None:
        """The same of the model registry."""
        return absolute_uri(self.value.registry_uri)

    def named(self, subscription: str) -> Subscription | None:
        """The subscription of that name pattern; None: there is none any more."""
        return next((s for s in self.value.subscriptions if s.name == subscription), None)

    def of(self, name: str) -> Subscription | None:
        """The subscription of a model."""
        return find(self.value, name)

    @property
    def changed(self) -> bool:
        """Whether a file that was read is another one now."""
        return any(_sha256(path) != known for path, known in self.content.items())


def load(path: Path) -> Subscribed:
    """The file, with every config, policy and waiver file that it names; reads no record and asks no registry.

    Raises ConfigError with every finding, each at the line of the file it is in.
    """
    path = path.absolute()
    for _ in range(5):
        found = _load(path)
        if not found.changed:  # nobody wrote while it was read
            return found
    raise ConfigError(f"{_shown(path)}: it, or a file that it names, keeps changing", "write it once, whole")


def terms(subscribed: Subscribed, subscription: Subscription, version: RegisteredVersion) -> Terms:
    """By what a version is judged, as of when the files were read."""
    return _of_version(subscribed.terms[subscription.name], subscription, version)


def _of_version(by: Terms, subscription: Subscription, version: RegisteredVersion) -> Terms:
    """Where its run names the records, the same files by another run, or under another name, are another case."""
    if subscription.data == "config":
        return by
    return replace(by, config_sha256=sha256_of_json([by.config_sha256, version.name, version.run_id or ""]))


def present(subscribed: Subscribed, version: RegisteredVersion) -> Terms | None:
    """By what a version would be judged as the files are now, changed or not since they were read; None: by none.

    Where the subscriptions are broken, what was read before holds, with this model's own files as they are now.
    """
    try:
        now = load(subscribed.path)
    except GateError:
        try:
            own, content = subscribed.of(version.name), dict[Path, str | None]()
            if own is None:
                return None
            by = _terms(own, _request(own, subscribed.folder, content), subscribed.folder, content)
            return _of_version(by, own, version)
        except GateError:
            return None
    subscription = now.of(version.name)
    same = (now.tracking_uri, now.registry_uri) == (subscribed.tracking_uri, subscribed.registry_uri)
    return terms(now, subscription, version) if subscription is not None and same else None


def queue_url(subscribed: Subscribed, environment: Mapping[str, str]) -> str:
    """The queue's database: PRIVACY_GATE_QUEUE_URL, or a SQLite file in the state folder. Raises UsageError."""
    return secret(QUEUE_URL, environment) or f"sqlite:///{quote(str(subscribed.state / QUEUE_FILE))}"


def absolute_uri(uri: str | None) -> str | None:
    """A registry's URI without a relative path: what is started elsewhere must not find another database."""
    if uri is None or not uri.startswith("sqlite:///") or uri.startswith("sqlite:////"):
        return uri
    place, mark, options = uri.removeprefix("sqlite:///").partition("?")
    return f"sqlite:///{quote(str(Path(unquote(place)).absolute()))}{mark}{options}"


def _load(path: Path) -> Subscribed:
    from privacy_gate.documents import in_order, load_yaml

    content: dict[Path, str | None] = {path: _sha256(path)}
    loaded = load_yaml(path, Subscriptions, _shown(path))
    value, positions = loaded.value, loaded.positions
    findings = list(_mistakes(value, positions))
    requests: dict[str, CheckRequest] = {}
    known: dict[str, Terms] = {}
    hints: list[str] = []
    for number, subscription in enumerate(value.subscriptions):
        trail: Trail = ("subscriptions", number)
        try:
            request = _request(subscription, path.parent, content)
            findings += _other_registry(value, request, positions, trail)
            known[subscription.name] = _terms(subscription, request, path.parent, content)
            requests[subscription.name] = request
        except ConfigError as error:
            findings += error.diagnostics or [positions.finding(trail, "unreadable", error.what)]
            hints.append(error.hint)
        except GateError as error:
            findings.append(positions.finding(trail, "unusable", error.what))
            hints.append(error.hint)
    if findings:
        ordered = in_order(list(dict.fromkeys(findings)), (positions.file,))
        raise ConfigError.at(ordered, "; ".join(dict.fromkeys(hint for hint in hints if hint)))
    return Subscribed(value, path, path.parent, positions, requests, known, content)


def _shown(path: Path) -> str:
    """The path as a person in this folder would type it."""
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:  # none that can be read, which whoever reads it will say
        return None


def _mistakes(value: Subscriptions, positions: Document) -> Iterator[Diagnostic]:
    """What each line may say, and the file as a whole may not."""
    for key, uri in (("tracking_uri", value.tracking_uri), ("registry_uri", value.registry_uri)):
        if uri is not None and "@" in urlsplit(uri).netloc:
            message = "carries a user name or password; put them into MLFLOW_TRACKING_USERNAME and _PASSWORD"
            yield positions.finding((key,), "secret", message)
    service = value.service
    if service.url is not None:
        where = urlsplit(service.url)
        if where.scheme not in ("http", "https") or not where.hostname or "@" in where.netloc:
            message = "not the address of a page: https://gate.example.org"
            yield positions.finding(("service", "url"), "url", message, at_value=True)
    if _reserved(service.alias):
        message = "the registry keeps this name for itself; choose another alias"
        yield positions.finding(("service", "alias"), "alias", message, at_value=True)
    for number, subscription in enumerate(value.subscriptions):
        trail: Trail = ("subscriptions", number)
        for before, other in enumerate(value.subscriptions[:number]):
            if includes(other.name, subscription.name):
                message = f"never used: {other.name!r}, number {before + 1} of the list, takes all of its models"
                yield positions.finding((*trail, "name"), "never-used", message, at_value=True)
                break
        wanted = subscription.versions
        if wanted.alias is not None and wanted.alias == service.alias:
            message = "is what the service itself sets: a version would have to be approved to be judged"
            yield positions.finding((*trail, "versions", "alias"), "own-alias", message, at_value=True)
        if wanted.alias is not None and _reserved(wanted.alias):
            message = "the registry keeps this name for itself; no version has such an alias"
            yield positions.finding((*trail, "versions", "alias"), "alias", message, at_value=True)
        for key in wanted.tag or {}:
            if key.startswith(TAG_PREFIX):
                message = "tags of this prefix are the gate's own: they ask for nothing"
                yield positions.finding((*trail, "versions", "tag", key), "own-tag", message)


def _reserved(alias: str) -> bool:
    return re.fullmatch(r"(?i)latest|v[0-9]+", alias) is not None


def _other_registry(value: Subscriptions, request: CheckRequest, positions: Document, trail: Trail) -> list[Diagnostic]:
    """A config that names another registry than the service: the one would be swept, the other judged."""
    config = request.config
    pairs = (
        () if config is None else ((value.tracking_uri, config.tracking_uri), (value.registry_uri, config.registry_uri))
    )
    if all(theirs is None or ours is None or absolute_uri(ours) == absolute_uri(theirs) for ours, theirs in pairs):
        return []
    message = "names another tracking_uri or registry_uri than this file; leave them out of the config"
    return [positions.finding((*trail, "config"), "other-registry", message, at_value=True)]


def _request(subscription: Subscription, folder: Path, content: dict[Path, str | None]) -> CheckRequest:
    """The check that a subscription asks for; `content` learns of the files."""
    from privacy_gate.build import build

    config = folder / subscription.config
    content[config] = _sha256(config)
    request = build(
        config=Path(_shown(config)),
        policy=None if subscription.policy is None else folder / subscription.policy,
        profile=subscription.profile,
        waivers=None if subscription.waivers is None else folder / subscription.waivers,
        suite=subscription.suite,
        trust=subscription.trust,
    )
    return request.model_copy(update={"config_dir": config.parent})


def _terms(subscription: Subscription, request: CheckRequest, folder: Path, content: dict[Path, str | None]) -> Terms:
    """Everything by its name, as a check would look it up; raises ConfigError, UsageError."""
    from privacy_gate.terms import seed_of, settle

    settled = settle(request)
    waivers = _waiver_file(request, settled.policy)
    code = {name: request.config_dir / name for name in _code(request)}
    for file in (*map(Path, settled.policy.files), *code.values(), *(() if waivers is None else (waivers,))):
        content[file.absolute()] = _sha256(file)
    judged_by = {
        "config": content[folder / subscription.config],
        "at": subscription.config,  # the same words elsewhere name other records
        "code": {name: content[file] for name, file in code.items()},
        "waivers": None if waivers is None else content[waivers.absolute()],
        "suite": request.suite,
        "seed": seed_of(request),
        "trust": request.trust,
        "data": subscription.data,
        "data_roots": subscription.data_roots,
    }
    return Terms(policy_sha256=settled.policy.digest, config_sha256=sha256_of_json(judged_by))


def _waiver_file(request: CheckRequest, policy: Policy) -> Path | None:
    """The subscription's, the config's, or the policy's."""
    if request.waivers is None and request.config is not None and request.config.waivers is not None:
        return request.config_dir / request.config.waivers
    return request.waivers or policy.waivers.file


def _code(request: CheckRequest) -> list[str]:
    """The files with code that the config names, as it names them: what is mended there is judged again."""
    config = request.config
    if config is None:
        return []
    recipe, data = config.shadows.recipe, config.data
    training = recipe.training
    functions = (
        recipe.model,
        recipe.python,
        recipe.fit.callbacks if recipe.fit else None,
        training.augment if training else None,
        training.teacher.model if training and training.teacher else None,
        *(source.dataset for source in (data.members, data.nonmembers, data.population, data.seen) if source),
    )
    named = {reference.rpartition(":")[0] for reference in functions if reference}
    scripts = {word for word in recipe.command or () if word.endswith((".py", ".sh", ".R", ".r", ".jl"))}
    return sorted(named | scripts)


# --- while files change ---------------------------------------------------------------------------------------------


class Reloading:
    """The file as it was last good; a broken new one changes nothing but `broken`."""

    def __init__(self, path: Path) -> None:
        self._good = load(path)
        self._one = threading.Lock()
        self.broken: str | None = None
        self._seen: Mapping[Path, str | None] = {}
        self._again = 0.0

    @property
    def value(self) -> Subscribed:
        """What holds."""
        return self._good

    def refresh(self) -> Subscribed:
        """Read again what has changed; where that is wrong, `broken` says what and the old terms hold."""
        with self._one:
            if self.broken is None and not self._good.changed:
                return self._good
            seen, moment = {path: _sha256(path) for path in self._good.content}, time.monotonic()
            if self.broken is not None and seen == self._seen and moment < self._again:
                return self._good  # to read forty configs each second tells nothing new
            try:
                self._good, self.broken = load(self._good.path), None
            except GateError as error:
                self.broken = str(error)
            self._seen, self._again = seen, moment + _UNSEEN
            return self._good


# --- which versions -------------------------------------------------------------------------------------------------


def find(subscriptions: Subscriptions, name: str) -> Subscription | None:
    """The first subscription whose pattern fits the model's name; None: nobody asked for it."""
    return next((s for s in subscriptions.subscriptions if fits(s.name, name)), None)


def fits(pattern: str, name: str) -> bool:
    """Whether a name is one of the pattern's; in time of their lengths' product, whatever strangers call a model."""
    return _fits(pattern, name, "")


def includes(pattern: str, other: str) -> bool:
    """Whether every name that fits `other` fits `pattern`, too; False where that is not plain to see."""
    return _fits(_ordered(pattern), _ordered(other), "*")


def _ordered(pattern: str) -> str:
    """The same with ? before * in every run of both, and one * in each."""
    return re.sub(r"[?*]{2,}", lambda run: "?" * run[0].count("?") + "*" * ("*" in run[0]), pattern)


def _fits(pattern: str, name: str, only_star: str) -> bool:
    """`only_star`: a character of the name that * alone stands for."""
    here = there = 0
    star, resume = -1, 0
    while there < len(name):
        mark = pattern[here] if here < len(pattern) else ""
        if mark == "*":
            star, resume = here, there
            here += 1
        elif mark and name[there] != only_star and mark in ("?", name[there]):
            here, there = here + 1, there + 1
        elif star >= 0:
            resume += 1
            here, there = star + 1, resume
        else:
            return False
    return not pattern[here:].strip("*")


def covers(subscription: Subscription, version: RegisteredVersion, approved: str | None = None) -> bool:
    """Whether this version, as the registry lists it now, is to be judged.

    approved  the service's alias: who has it is what people deploy, and stays judged whatever its trigger does
    """
    wanted = subscription.versions
    if approved is not None and approved in version.aliases:
        return version.ready
    if wanted.alias is not None and wanted.alias not in version.aliases:
        return False
    return version.ready and all(version.tags.get(key) == value for key, value in (wanted.tag or {}).items())


def events(subscriptions: Subscriptions) -> frozenset[str]:
    """What a webhook must be created for, as entity.action, so that it tells of all that the subscriptions cover."""
    wanted = [subscription.versions for subscription in subscriptions.subscriptions]
    needed = {"model_version.created": any(versions.alias is None for versions in wanted)}
    needed["model_version_alias.created"] = any(versions.alias is not None for versions in wanted)
    needed["model_version_tag.set"] = any(versions.tag for versions in wanted)
    return frozenset(name for name, asked in needed.items() if asked)


def concerns(subscription: Subscription, service: Service, event: Event) -> bool:
    """Whether an event may make a version one of those that are covered; what the gate itself wrote never does."""
    wanted = subscription.versions
    match event.entity, event.action:
        case "model_version", "created":
            return wanted.alias is None  # an alias cannot be there yet, and will have an event of its own
        case "model_version_alias", "created":
            return wanted.alias is not None and event.alias == wanted.alias and event.alias != service.alias
        case "model_version_tag", "set":
            key = event.key or ""
            return not key.startswith(TAG_PREFIX) and key in (wanted.tag or {})
    return False
