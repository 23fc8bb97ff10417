"""The key of the brokers' seals."""

from broker.errors import Unavailable
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Area, transaction


class MemorySealKeys(Area):
    """Implements `broker.ports.SealKeyLedger`."""

    @transaction
    def agree(self, candidate: bytes) -> bytes:
        key = self._tables.seal_key
        if key.now is None:
            key.set(candidate)
        return key.now or candidate


def seal_key_of(tables: Tables) -> bytes:
    """Return the key, to seal what is dispatched. Raises: Unavailable, if there is none yet."""
    if (key := tables.seal_key.now) is None:
        raise Unavailable("Postgres", "the ledger has no key for seals yet")
    return key
