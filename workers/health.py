"""Says how a worker is, from its start to its end."""

from collections.abc import Callable
from dataclasses import dataclass

from schemas.health import ENDED, RUNS, Liveness, Readiness
from workers.core.readiness import starting
from workers.worker import Worker


@dataclass(slots=True, kw_only=True)
class Health:
    name: str
    is_connected: Callable[[], bool]
    stage: str = "waits for NATS"
    """What it does before it has started."""
    worker: Worker | None = None
    """Once it has started."""

    def live(self) -> Liveness:
        """Say whether the process works, whatever it waits for. One whose engine is gone ends by itself."""
        if self.worker is None:
            return Liveness.of(self.name, {"worker": self.stage})
        return Liveness.of(self.name, {"worker": RUNS, "engine": ENDED if self.worker.pool.died.is_set() else RUNS})

    def ready(self) -> Readiness:
        """Say which kinds of attempts it can take, and why not the others."""
        if self.worker is None:
            return starting(self.name, self.stage, is_connected=self.is_connected())
        return self.worker.readiness(is_connected=self.is_connected())
