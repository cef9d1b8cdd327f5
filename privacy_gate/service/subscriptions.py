"""subscriptions.yaml: which versions are judged, by what, and how the service runs. Secrets are never in it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, model_validator

from privacy_gate.registry import TAG_PREFIX, RegisteredVersion
from privacy_gate.request import Duration, Settings
from privacy_gate.service import Event

Pattern = Annotated[str, Field(min_length=1, max_length=250)]
Count = Annotated[int, Field(gt=0)]


class Trigger(Settings):
    """Which versions of a model are meant. With nothing given, every version."""

    alias: str | None = Field(None, min_length=1, description="those that this alias points to")
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
    alias: str = Field("privacy-approved", min_length=1, description="of the newest version that passes")
    sweep_every: Duration = 300.0
    verify_every: Duration = Field(86400.0, description="after which the files of approved versions are hashed again")
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


def find(subscriptions: Subscriptions, name: str) -> Subscription | None:
    """The first subscription whose pattern fits the model's name; None: nobody asked for it."""
    return next((s for s in subscriptions.subscriptions if fnmatchcase(name, s.name)), None)


def covers(subscription: Subscription, version: RegisteredVersion) -> bool:
    """Whether this version, as the registry lists it now, is to be judged."""
    wanted = subscription.versions
    if wanted.alias is not None and wanted.alias not in version.aliases:
        return False
    return version.ready and all(version.tags.get(key) == value for key, value in (wanted.tag or {}).items())


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
