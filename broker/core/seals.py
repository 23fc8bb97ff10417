"""Makes and checks seals: they prove that a broker made an attempt or a ruling, so that settle need believe nobody else.

Whoever leases an attempt returns its seal in the report. A leased attempt is sealed as (job, number, deployment), since
settle takes all else from the job's row. An interactive one is sealed with everything that settle records from its report,
since the ledger does not have the job yet. A ruling is sealed as the message that holds it. Each kind has a word of its own
in front, so that no seal of one kind passes for one of another.
"""

import hashlib
import hmac
from uuid import UUID

from msgspec.structs import replace

from schemas.codec import packed
from schemas.job import Attempt
from schemas.outcome import Report

KEY_BYTES = 32
_SEAL_BYTES = 16
_LEASED, _REQUEST, _RULING = b"infermq.leased\0", b"infermq.request\0", b"infermq.ruling\0"


def _seal(said: bytes, key: bytes) -> bytes:
    """Sign with BLAKE2's own keyed mode (RFC 7693), which takes a quarter of the time of an HMAC: each job has two seals."""
    return hashlib.blake2b(said, key=key, digest_size=_SEAL_BYTES).digest()


def leased_seal(job: UUID, number: int, deployment: str, key: bytes) -> bytes:
    """Seal an attempt that is leased from RUN, or addressed to one worker."""
    said = _LEASED + job.int.to_bytes(16) + number.to_bytes(8) + deployment.encode()  # only the last is of any length
    return _seal(said, key)


def request_seal(attempt: Attempt, key: bytes) -> bytes:
    """Seal an interactive attempt. Its fields are encoded with their lengths, so none can pass for a part of another."""
    said = packed(
        (
            attempt.job,
            attempt.number,
            attempt.tenant,
            attempt.key,
            attempt.lane,
            attempt.model,
            attempt.deployment,
            attempt.endpoint,
            hashlib.blake2b(attempt.body).digest(),
            attempt.admitted_ms,
            attempt.deadline_ms,
            attempt.custom_id,
            attempt.metadata,
            attempt.traceparent,
        )
    )
    return _seal(_REQUEST + said, key)


def sealed_request(attempt: Attempt, key: bytes) -> Attempt:
    """Return an interactive attempt with its seal."""
    return replace(attempt, seal=request_seal(attempt, key))


def ruling_seal(payload: bytes, key: bytes) -> str:
    """Seal a message of rulings, for a header."""
    return _seal(_RULING + payload, key).hex()


def has_true_seal(report: Report, key: bytes) -> bool:
    """Say whether a broker made the attempt that this report is on."""
    attempt = report.interactive
    if attempt is None:
        true = leased_seal(report.job, report.attempt, report.deployment, key)
    elif (report.job, report.attempt, report.deployment) == (attempt.job, attempt.number, attempt.deployment):
        true = request_seal(attempt, key)
    else:
        return False
    return hmac.compare_digest(report.seal, true)


def are_truly_ruled(payload: bytes, seal: str | None, key: bytes) -> bool:
    """Say whether a broker made these rulings."""
    return seal is not None and hmac.compare_digest(seal.encode(errors="replace"), ruling_seal(payload, key).encode())
