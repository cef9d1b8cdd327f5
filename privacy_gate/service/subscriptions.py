"""subscriptions.yaml: which versions are judged, by what, and how the service runs. Secrets are never in it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from privacy_gate.request import Duration, Settings

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
