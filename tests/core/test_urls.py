"""No URL is shown with what opens a door."""

import pytest

from schemas.urls import public


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("nats://user:hunter2@host:4222", "nats://***@host:4222"),
        ("nats://hunter2@host:4222", "nats://***@host:4222"),
        ("tls://user:hunter2@host", "tls://***@host"),
        ("nats://a:hunter2@one:1,nats://b:hunter2@two:2", "nats://***@one:1,nats://***@two:2"),
        ("nats://a:hunt:er2@one:1", "nats://***@one:1"),
        ("postgresql://user:hunter2@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:hunt%40er2@host/db", "postgresql://user:***@host/db"),
        ("postgresql://:hunter2@host/db", "postgresql://:***@host/db"),
        ("postgresql://user:hunt@er2@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:hunt/er2@host/db", "postgresql://user:***@host/db"),
        ("postgresql://postgres@/infermq?host=/tmp/x", "postgresql://postgres@/infermq?host=/tmp/x"),
        ("postgresql://host/db?user=u&password=hunter2", "postgresql://host/db?user=u&password=***"),
        ("postgresql://host/db?sslpassword=hunter2&x=1", "postgresql://host/db?sslpassword=***&x=1"),
        ("cannot reach nats://u:hunter2@h:1: refused", "cannot reach nats://***@h:1: refused"),
        ("http://u:hunter2@proxy:3128/", "http://u:***@proxy:3128/"),
        ("a job of user@example.org", "a job of user@example.org"),
    ],
)
def test_a_url_is_shown_without_its_secret(url: str, shown: str) -> None:
    assert public(url) == shown
