"""What goes wrong with a store, in our words."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from broker.errors import Unavailable

log = logging.getLogger(__name__)
_SHOWN = 600
STORE = "the store of files"
INSTALL = "a bucket needs the package obstore: pip install 'infermq[s3]'"


def unavailable(why: str) -> Unavailable:
    """Log why, which may name paths and servers, and return what tenants may read."""
    log.warning("%s is unavailable error=%s", STORE, why)
    return Unavailable(STORE, "the broker's log says why")


@contextmanager
def translated(*expected: type[Exception]) -> Iterator[None]:
    """Turn these exceptions into ours. Raises: Unavailable."""
    try:
        yield
    except expected as error:
        said = " ".join(str(error).partition("Debug source:")[0].split())  # the rest is for those who mend obstore
        raise unavailable(said[:_SHOWN]) from error
