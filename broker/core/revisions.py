"""Decides which revision of the catalog is in force: the ledger orders them, and NATS holds a copy of the newest.

And says what one changes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from schemas.catalog import Catalog, Revision
from schemas.units import Ms

NONE = Revision(number=0, applied_ms=Ms(0), catalog=Catalog())
"""The revision before any catalog is applied: it has no model."""


@dataclass(frozen=True, slots=True)
class Compared:
    in_force: Revision
    copy_is_wrong: bool = False
    """NATS must be told what is in force."""
    note: str | None = None
    """What is unusual, for people to read."""
    is_known: bool = True
    """Whether somebody has said what is in force, be it nothing."""


def compare(recorded: Revision | None, copy: Revision | None) -> Compared:
    """Compare the ledger's newest revision with the copy in NATS. A ledger that has none says nothing about it."""
    if recorded is None:
        if copy is None or copy == NONE:
            return Compared(NONE)
        note = f"the ledger has no catalog: revision {copy.number} of NATS is in force until one is applied"
        return Compared(copy, note=note)
    if copy == recorded:
        return Compared(recorded)
    held = (
        "no catalog" if copy is None else f"revision {copy.number}" if copy.number != recorded.number else "another"
    )
    note = f"NATS held {held} instead of the ledger's revision {recorded.number}"
    return Compared(recorded, copy_is_wrong=True, note=note)


def unread(in_force: Revision, copy: Revision | None, why: str) -> Compared:
    """Go on with the copy in NATS while the ledger cannot be read, or with what is in force if there is no copy."""
    chosen = in_force if copy is None else copy
    if chosen == NONE:
        return Compared(NONE, note=f"no catalog is known: NATS holds none, and {why}", is_known=False)
    return Compared(chosen, note=f"revision {chosen.number} of NATS is in force and was not compared: {why}")


def beyond(before: Catalog, after: Catalog, models: frozenset[str]) -> tuple[str, ...]:
    """Name what a change of the catalog touches that is not of these models, nor of deployments that they alone use.

    A model's route may not take in a deployment of others either: that would be theirs alone no more.
    """
    own = _own_deployments(before, after, models)
    foreign = [f"models.{name}" for name in _changed(before.models, after.models) if name not in models]
    foreign += [f"deployments.{name}" for name in _changed(before.deployments, after.deployments) if name not in own]
    for name in sorted(models & after.models.keys()):
        old = before.models.get(name)
        known = set() if old is None else {entry.deployment for entry in old.route}
        new = [entry.deployment for entry in after.models[name].route if entry.deployment not in known | own]
        foreign += [f"models.{name}.route: the deployment {deployment}" for deployment in new]
    return tuple(foreign)


def _own_deployments(before: Catalog, after: Catalog, models: frozenset[str]) -> set[str]:
    """Return the deployments that only these models use, and did before, if they were there."""
    were, are = _users(before), _users(after)
    return {
        name
        for name in {*before.deployments, *after.deployments}
        if were.get(name, set()) | are.get(name, set()) <= models
        and (were.get(name) if name in before.deployments else are.get(name))
    }


def _users(catalog: Catalog) -> dict[str, set[str]]:
    """Return the models that use each deployment."""
    users: dict[str, set[str]] = {}
    for name, model in catalog.models.items():
        for entry in model.route:
            users.setdefault(entry.deployment, set()).add(name)
    return users


def _changed(before: Mapping[str, msgspec.Struct], after: Mapping[str, msgspec.Struct]) -> list[str]:
    return [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]


def for_deployment(revision: Revision, name: str) -> Revision:
    """Return what the workers of a deployment must know of a revision: nothing of other deployments.

    It has the deployment, and the models that it may serve, each with no other entry in its route.
    """
    catalog = revision.catalog
    models = {
        model: replace(found, route=ours)
        for model, found in catalog.models.items()
        if (ours := tuple(entry for entry in found.route if entry.deployment == name))
    }
    return replace(revision, catalog=Catalog(models=models, deployments={name: catalog.deployments[name]}))


def changes(before: Catalog, after: Catalog) -> tuple[str, ...]:
    """Say what is different, a line for each model or deployment that came or went, and for each field that changed."""
    return (
        *_changes("models", before.models, after.models),
        *_changes("deployments", before.deployments, after.deployments),
    )


def _changes(what: str, before: Mapping[str, msgspec.Struct], after: Mapping[str, msgspec.Struct]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old is None:
            yield f"+ {what}.{name}"
        elif new is None:
            yield f"- {what}.{name}"
        else:
            yield from _fields(f"{what}.{name}", msgspec.to_builtins(old), msgspec.to_builtins(new))


def _fields(path: str, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    """Compare field by field, and tables within tables."""
    for field in [*old, *(field for field in new if field not in old)]:
        was, now = old.get(field), new.get(field)
        if was == now:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _fields(f"{path}.{field}", was, now)
        else:
            yield f"~ {path}.{field}: {_text(was)} → {_text(now)}"


def _text(value: object) -> str:
    if isinstance(value, tuple | list) and value and isinstance(value[0], dict) and "deployment" in value[0]:
        return ", ".join(f"{entry['deployment']} {entry['weight']}" for entry in value)
    return "none" if value is None else msgspec.json.encode(value).decode()
