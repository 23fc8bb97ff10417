"""Builds the addresses of an API's endpoints, and follows the API when it has moved within its host."""

from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import SplitResult, urljoin, urlsplit

from schemas.lenient import whole_characters


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """Where an API is."""

    base: SplitResult
    """Up to and with its `/v1`; a query, such as Azure's `api-version`, goes with every request."""

    @classmethod
    def of(cls, base_url: str) -> Self:
        url = urlsplit(base_url)
        return cls(url._replace(path=url.path.rstrip("/")))

    def url(self, path: str) -> str:
        """Return the address of an endpoint, whose path is that after `/v1`."""
        return self.base._replace(path=f"{self.base.path}{path}").geturl()

    def moved(self, location: str, *, path: str) -> Self | None:
        """Return where the API is by the redirect of an endpoint; None if it is another host's or names no endpoint.

        The key must not go to another host, nor to another port or scheme of this one.
        """
        try:
            target = urlsplit(urljoin(self.url(path), location))
        except ValueError:
            return None
        is_ours = (target.scheme, target.netloc) == (self.base.scheme, self.base.netloc)
        if not is_ours or not target.path.endswith(path):
            return None
        base = target._replace(path=target.path.removesuffix(path), fragment="")
        return None if base == self.base else replace(self, base=base)


class Whereabouts:
    """Where an API is by its last redirect. A move is followed once; until the API has served there, no other one is."""

    def __init__(self, base_url: str) -> None:
        self.address = ApiAddress.of(base_url)
        self._has_moved = False

    def served(self) -> None:
        self._has_moved = False

    def followed(self, sent_to: ApiAddress, location: str, *, path: str) -> ApiAddress | None:
        """Return where to send a request again that was redirected; None: nowhere, as it is no move or they go in circles.

        If another request has followed the move meanwhile, this one does, too.
        """
        if sent_to == self.address:
            moved = None if self._has_moved else sent_to.moved(location, path=path)
            if moved is None:
                return None
            self.address, self._has_moved = moved, True
        return self.address


def said_target(location: str) -> str:
    """Return a redirect's target as it may be printed: without its query, in which keys may stand, and who logs in."""
    try:
        target = urlsplit(whole_characters(location))
    except ValueError:
        return ""
    return target._replace(netloc=target.netloc.rpartition("@")[2], query="", fragment="").geturl()[:200]
