"""Makes and checks ids of jobs and batches, which are UUIDv7 (RFC 9562, section 5.7) and sort by time; and of messages."""

import hashlib
import itertools
from collections.abc import Iterator
from uuid import UUID

from schemas.units import Ms

OLDEST_MS = Ms(7 * 24 * 3600 * 1000)
"""How far in the past a submitted id may be dated: the ledger keeps its partitions open this long."""
NEWEST_MS = Ms(3600 * 1000)
"""How far in the future a submitted id may be dated: room for a producer's wrong clock."""

_LINE_BITS = 32
_RANDOM_BITS = 74


def uuid7(ms: Ms, entropy: int) -> UUID:
    """Make a UUIDv7 of instant `ms`. `entropy` fills the 74 free bits, so ids of one instant sort by it."""
    entropy &= (1 << _RANDOM_BITS) - 1
    high, low = entropy >> 62, entropy & ((1 << 62) - 1)
    return UUID(int=(ms << 80) | (0x7 << 76) | (high << 64) | (0b10 << 62) | low)


def line_id(batch: UUID, line: int) -> UUID:
    """Derive the id of a line of a batch: the same each time the line is sent, and sorted by line within the batch."""
    digest = hashlib.blake2b(batch.bytes, digest_size=8).digest()
    spread = int.from_bytes(digest) >> (64 - (_RANDOM_BITS - _LINE_BITS))
    return uuid7(ms_of(batch), (line << (_RANDOM_BITS - _LINE_BITS)) | spread)


def is_line_of(job: UUID, batch: UUID) -> bool:
    """Say whether an id was derived by `line_id` of this batch."""
    entropy = (job.int >> 64 & 0xFFF) << 62 | job.int & ((1 << 62) - 1)
    return line_id(batch, entropy >> (_RANDOM_BITS - _LINE_BITS)) == job


def derived_id(stream: str, sequence: int, ms: Ms, place: int | None = None) -> UUID:
    """Derive the id of a job that was submitted without one. A redelivery of the message gives the same id.

    `place` is the position of the job in a message of several.
    """
    name = f"{stream}:{sequence}" if place is None else f"{stream}:{sequence}:{place}"
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return uuid7(ms, int.from_bytes(digest))


def process_ids(pid: int, salt: bytes) -> Iterator[str]:
    """Give ids that no other process gives, and each once. `salt` is random, since a machine uses process ids again."""
    return (f"{pid:x}-{salt.hex()}-{number:x}" for number in itertools.count(1))


def ms_of(job: UUID) -> Ms:
    """Return the instant at which a UUIDv7 was made."""
    return Ms(job.int >> 80)


def least_id(at: Ms) -> UUID:
    """Return the least 128-bit value that an id of this instant can have."""
    return UUID(int=min(max(0, at) << 80, (1 << 128) - 1))


def id_problem(job: UUID, now: Ms) -> str | None:
    """Say what is wrong with an id that a producer chose; None if nothing is."""
    if job.version != 7:
        return f"is not a UUIDv7 (version {job.version})"
    ahead = ms_of(job) - now
    if ahead > NEWEST_MS:
        return f"is dated {ahead // 1000} s ahead of now, the limit is {NEWEST_MS // 1000} s"
    if -ahead > OLDEST_MS:
        return f"is dated {-ahead // 1000} s before now, the limit is {OLDEST_MS // 1000} s"
    return None
