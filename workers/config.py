"""Holds what a worker is started with."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.jetstream.trust import Trust
from schemas.subjects import DEFAULT


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    nats_url: str
    deployment: str
    key: str = DEFAULT
    """The id of the API key that it shows."""
    trust: Trust | None = None
    """How NATS and workers know each other."""
    name: str
    """A name unique among the workers of the deployment that have the same key."""
    slots: Annotated[int, Meta(ge=1, le=65536)] | None = None
    """Overrides what the deployment and the engine say. None: they decide."""
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Where /metrics, /livez and /readyz listen; 0 takes any free port."""
    probe: bool = True
    """Whether an engine that calls an API first sends it the simplest request, to see that key, path and model are right."""
    drain_timeout_s: Annotated[float, Meta(gt=0)] = 60.0
    """How long running attempts may take to finish after SIGTERM, before they are put back."""
