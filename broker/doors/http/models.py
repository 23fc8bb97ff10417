"""Lists the models that a caller may ask, as OpenAI's API does."""

from collections.abc import Mapping
from typing import Any

from broker.core.principal import Principal
from broker.service.refusal import Refusal
from schemas.api import Problem
from schemas.catalog import Catalog, Model


def listed(catalog: Catalog, principal: Principal) -> dict[str, Any]:
    names = sorted(name for name in catalog.models if _may_see(name, principal))
    return {"object": "list", "data": [_shown(name, catalog.models[name]) for name in names]}


def shown(name: str, catalog: Catalog, principal: Principal) -> Mapping[str, Any]:
    """Return one model. Raises: Refusal, alike for one that is not there and one that the caller may not ask."""
    model = catalog.models.get(name)
    if model is None or not _may_see(name, principal):
        raise Refusal(Problem("unknown_model", f"there is no model {name[:200]!r}", "model"))
    return _shown(name, model)


def _may_see(name: str, principal: Principal) -> bool:
    return principal.models is None or name in principal.models


def _shown(name: str, model: Model) -> dict[str, Any]:
    """Catalogs do not say when a model was made, and clients expect a time."""
    served = {"endpoints": list(model.endpoints), "max_output_tokens": model.max_output_tokens}
    return {"id": name, "object": "model", "created": 0, "owned_by": "infermq", **served}
