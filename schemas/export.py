"""Exports everything on the wire as JSON Schema (draft 2020-12)."""

from typing import Any

import msgspec

from schemas import (
    accounts,
    api,
    cancel,
    catalog,
    changes,
    control,
    dead,
    instructions,
    job,
    listing,
    outcome,
    repeats,
    ruling,
    worker,
)

WIRE: tuple[type[msgspec.Struct], ...] = (
    job.JsonJob,
    job.Attempt,
    outcome.Report,
    ruling.Expire,
    ruling.PutBack,
    ruling.Suspect,
    ruling.Convict,
    ruling.Cancel,
    ruling.EndRequest,
    ruling.Lost,
    worker.WorkerBeat,
    catalog.Catalog,
    catalog.Revision,
    api.ErrorBody,
    api.BatchCreate,
    api.BatchSeal,
    api.BatchRef,
    changes.JobChange,
    changes.JobChanged,
    changes.BatchChange,
    api.JobCancel,
    api.JobsCancelled,
    cancel.CancelMany,
    cancel.CancelCount,
    api.BatchList,
    api.BatchResults,
    api.Batch,
    api.Batches,
    api.ResultPage,
    api.ResultNotice,
    api.JobRef,
    api.JobShow,
    repeats.BatchRetry,
    repeats.RetryCheck,
    repeats.Replay,
    repeats.ReplayEstimateAsk,
    repeats.ReplayEstimate,
    repeats.ReplayDiff,
    repeats.ReplayDiffPage,
    repeats.RetryChecked,
    repeats.Given,
    instructions.Instruction,
    instructions.InstructionRef,
    instructions.InstructionList,
    instructions.Instructions,
    listing.JobList,
    listing.JobPage,
    dead.DeadList,
    dead.DeadGroups,
    dead.DeadEach,
    dead.DeadPage,
    dead.DeadRef,
    dead.DeadShow,
    dead.DeadRequeue,
    dead.DeadDrop,
    dead.DeadDone,
    api.CatalogApply,
    api.CatalogShow,
    api.Status,
    control.PauseAsk,
    control.ResumeAsk,
    control.PauseAnswer,
    control.Pauses,
    control.AuditList,
    control.AuditPage,
    accounts.TenantCreate,
    accounts.TenantRef,
    accounts.TenantDisable,
    accounts.TenantList,
    accounts.Tenant,
    accounts.Tenants,
    accounts.TenantChanged,
    accounts.KeyCreate,
    accounts.KeyRef,
    accounts.KeyRevoke,
    accounts.KeyRotate,
    accounts.KeyList,
    accounts.Key,
    accounts.Keys,
    accounts.KeyChanged,
    accounts.KeyMade,
)


def json_schema() -> dict[str, Any]:
    """Build one document with each type under `$defs`."""
    _, components = msgspec.json.schema_components(WIRE, ref_template="#/$defs/{name}", schema_hook=_hook)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "infermq", "$defs": components}


def _hook(kind: type) -> dict[str, Any]:
    if kind is msgspec.Raw:
        return {"description": "any JSON value"}
    raise NotImplementedError(kind)
