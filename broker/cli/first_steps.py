"""Says what to do next once `infermq up` is ready: commands that work as they stand."""

from collections.abc import Collection
from pathlib import Path

from broker.config import DATA
from schemas.catalog import Catalog
from schemas.endpoints import CHAT

PROMPTS = Path("examples/prompts.jsonl")
_MODEL_OF_PROMPTS = "small-chat"


def first_steps(catalog: Catalog, served: Collection[str], *, data: Path, folder: Path) -> list[str]:
    """List commands to type in another terminal in `folder`. `served` are the deployments that have a worker."""
    flag = "" if data == folder / DATA else f" --data {data}"
    model = _model(catalog, served)
    ask = [] if model is None else [f'infermq infer {model} "Why is the sky blue?"{flag}']
    is_example = model == _MODEL_OF_PROMPTS and (folder / PROMPTS).exists()
    file = PROMPTS if is_example else "FILE.jsonl"
    return [*ask, f"infermq submit {file} --out results.jsonl{flag}", f"infermq status{flag}"]


def _model(catalog: Catalog, served: Collection[str]) -> str | None:
    """Return the first model that can be asked now. None: there is none."""
    for name, model in catalog.models.items():
        if CHAT.path in model.endpoints and any(entry.deployment in served for entry in model.route):
            return name
    return None
