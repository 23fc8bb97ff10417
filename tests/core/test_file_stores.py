"""What a setting of a store of files names, and what a file remembers of it."""

import re

import pytest

from broker.core.file_stores import POSTGRES, BucketPlace, DirectoryPlace, Place, StoreName, place_of

PLACES: dict[str, Place] = {
    "file:///srv/infermq-files": DirectoryPlace("/srv/infermq-files"),
    "file:///srv/infermq-files/": DirectoryPlace("/srv/infermq-files"),
    "file:///srv/with%20space": DirectoryPlace("/srv/with space"),
    "s3://bucket": BucketPlace("bucket", ""),
    "s3://my.bucket-1/": BucketPlace("my.bucket-1", ""),
    "s3://bucket/some/prefix_1.x=2/": BucketPlace("bucket", "some/prefix_1.x=2"),
}
WRONG = {
    "srv/files": "a directory (file:///",
    "https://bucket.example": "a directory (file:///",
    "file://host/srv": "by its whole path",
    "file://": "by its whole path",
    "file:///": "by its whole path",
    "s3://": "no name of a bucket",
    "s3://Bucket": "no name of a bucket",
    "s3://key:secret@bucket": "AWS_SECRET_ACCESS_KEY",
    "s3://bucket/a//b": "the prefix may have",
    "s3://bucket/../b": "the prefix may have",
    "s3://bucket/%23": "the prefix may have",
    "s3://bucket?region=x": "neither ? nor #",
    "file:///srv#x": "neither ? nor #",
}


@pytest.mark.parametrize("url", PLACES)
def test_a_place_is_read(url: str) -> None:
    assert place_of(url) == PLACES[url]


@pytest.mark.parametrize("url", WRONG)
def test_what_is_no_place_is_refused_with_what_is_wrong(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape(WRONG[url])) as refused:
        place_of(url)

    assert "secret@" not in str(refused.value)


def test_the_name_of_a_store_is_read_as_it_was_written() -> None:
    for name in (StoreName(POSTGRES, ""), StoreName("s3://b/p", "1f"), StoreName("file:///srv/with%20space", "2")):
        assert StoreName.read(name.text()) == name
