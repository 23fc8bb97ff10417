"""Notices when a model falls back to its spares, and when its regular deployments serve it again."""

from collections.abc import Collection, Mapping

import msgspec

from broker.core import route
from broker.core.pools import Pool, alive
from schemas.catalog import Catalog


class Fallback(msgspec.Struct, frozen=True):
    """A model is served by other deployments of its route than before."""

    model: str
    deployments: tuple[str, ...]
    """Those that serve it from now on."""
    because: str
    """Why the regular ones do not. Empty: they do again."""


class Fallbacks:
    """Which models are on their spares. A model that nobody serves stays what it was until somebody does."""

    def __init__(self) -> None:
        self._on_spares: dict[str, bool] = {}

    def seen(self, catalog: Catalog, pools: Mapping[str, Pool]) -> list[Fallback]:
        """Compare with what was seen before, and return what has changed."""
        able = alive(pools)
        found = {model: self._look(model, catalog, pools, able) for model in catalog.models}
        self._on_spares = {model: was for model, was in self._on_spares.items() if model in catalog.models}
        return [change for change in found.values() if change is not None]

    def _look(
        self, model: str, catalog: Catalog, pools: Mapping[str, Pool], able: Collection[str]
    ) -> Fallback | None:
        entries = route.candidates(model, catalog=catalog, alive=able)
        if not entries:
            return None
        is_on_spares = not entries[0].weight
        was = self._on_spares.get(model, is_on_spares)
        self._on_spares[model] = is_on_spares
        if is_on_spares == was:
            return None
        regular = [entry.deployment for entry in route.entries(model, catalog) if entry.weight]
        holds = [pool.stop.message for name in regular if (pool := pools.get(name)) is not None and pool.stop]
        names = tuple(entry.deployment for entry in entries)
        return Fallback(model, names, "; ".join(holds) or "it has none" if is_on_spares else "")
