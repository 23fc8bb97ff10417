"""Where the content of files is kept: what a setting names, and what is remembered of a file.

Each directory and bucket bears a mark, which is drawn when it is first used. A file remembers the URL and the mark of its
store. So it is found again when its directory is moved, and never looked for in another that is mounted in its place.
"""

import re
from urllib.parse import unquote, urlsplit

import msgspec

POSTGRES = "postgres"
"""The name of the store that is used unless a setting names another."""
MARK_FILE = "infermq-store"
"""The name of the file in a directory, or of the object in a bucket, that holds its mark."""


class DirectoryPlace(msgspec.Struct, frozen=True):
    path: str
    """Absolute."""


class BucketPlace(msgspec.Struct, frozen=True):
    bucket: str
    prefix: str
    """Without a slash at its ends. Empty: there is none."""


Place = DirectoryPlace | BucketPlace


def place_of(url: str) -> Place:
    """Read a URL such as file:///srv/files or s3://bucket/prefix. Raises: ValueError, with what is wrong."""
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ValueError("it may have neither ? nor #")
    if parts.scheme == "file":
        path = unquote(parts.path).rstrip("/")
        if parts.netloc or not path.startswith("/"):
            raise ValueError("a directory is named by its whole path: file:///srv/infermq-files")
        return DirectoryPlace(path)
    if parts.scheme == "s3":
        return _bucket(parts.netloc, unquote(parts.path).strip("/"))
    raise ValueError(f"it is {POSTGRES}, a directory (file:///srv/infermq-files), or a bucket (s3://bucket/prefix)")


def _bucket(name: str, prefix: str) -> BucketPlace:
    if "@" in name:
        raise ValueError("keys do not belong here: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name) is None:
        raise ValueError(f"{name[:80]!r} is no name of a bucket: it has 3 to 63 of a-z, 0-9, . and -")
    if re.fullmatch(r"[\w.=-]+(/[\w.=-]+)*|", prefix, re.ASCII) is None or {".", ".."} & set(prefix.split("/")):
        raise ValueError("the prefix may have letters, digits, _ . = - and single slashes")
    return BucketPlace(name, prefix)


class StoreName(msgspec.Struct, frozen=True):
    """What a file remembers of its store."""

    url: str
    mark: str
    """Empty: it is Postgres."""

    def text(self) -> str:
        return f"{self.url}#{self.mark}" if self.mark else self.url

    @classmethod
    def read(cls, text: str) -> "StoreName":
        url, _, mark = text.partition("#")
        return cls(url, mark)
