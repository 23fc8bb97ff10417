"""Tenants and keys as an operator manages them with commands."""

import asyncio
import json
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from schemas.accounts import Key
from schemas.api_keys import parse_key
from tests.system import System, a_catalog_file, a_system, infermq_here

pytestmark = [
    pytest.mark.story,
    pytest.mark.commands,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("system")
    async with a_system(folder / "data", a_catalog_file(folder)) as running:
        yield running


async def key_in(system: System, file: Path, *words: str) -> str:
    """Make a key in a file, and return its id."""
    made = await system.here("key", "create", "--role", "producer", "--out", str(file), *words)
    assert made.returncode == 0, made.stderr
    return parse_key(file.read_text().strip()).id


async def test_a_key_is_printed_once_alone_on_standard_output(system: System) -> None:
    made = await system.here(
        "key", "create", "--role", "producer", "--models", "m,n", "--expires", "90d", "--label", "ci"
    )

    key = parse_key(made.stdout.strip())
    assert made.stdout == f"{key.text()}\n"
    assert "models m, n" in made.stderr
    assert key.text()[-49:] not in made.stderr
    for words in (
        ("key", "list"),
        ("key", "list", "--json"),
        ("key", "show", key.id),
        ("audit",),
        ("audit", "--json"),
    ):
        said = await system.here(*words)
        assert key.id in said.stdout
        assert key.text()[-49:] not in said.stdout + said.stderr


async def test_a_key_under_json_is_in_the_document_and_with_out_in_the_file_only(
    system: System, tmp_path: Path
) -> None:
    shown = json.loads((await system.here("key", "create", "--role", "producer", "--json")).stdout)
    told = await system.here("key", "create", "--role", "producer", "--json", "--out", str(tmp_path / "key"))

    assert parse_key(shown["text"]).id == shown["key"]["id"]
    document, text = json.loads(told.stdout), (tmp_path / "key").read_text().strip()
    assert (document["file"], document["key"]["id"]) == (str(tmp_path / "key"), parse_key(text).id)
    assert "text" not in document
    assert text[-49:] not in told.stdout + told.stderr


async def test_a_file_of_a_key_is_its_users_alone_and_none_is_written_over(system: System, tmp_path: Path) -> None:
    file = tmp_path / "key"
    await key_in(system, file)
    before, listed = file.read_text(), (await system.here("key", "list")).stdout

    again = await system.here("key", "create", "--role", "producer", "--out", str(file))

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert again.returncode == 2
    assert "already" in again.stderr
    assert file.read_text() == before
    assert (await system.here("key", "list")).stdout == listed, "a key was made that nobody has"
    assert [one.name for one in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("file", ["missing/key", "."])
async def test_no_key_is_made_if_it_cannot_be_written(system: System, tmp_path: Path, file: str) -> None:
    listed = (await system.here("key", "list")).stdout

    refused = await system.here("key", "create", "--role", "producer", "--out", str(tmp_path / file))

    assert refused.returncode == 2
    assert "--out" in refused.stderr
    assert (await system.here("key", "list")).stdout == listed


async def test_a_rotation_replaces_the_file_and_says_when_the_old_key_ends(system: System, tmp_path: Path) -> None:
    file = tmp_path / "key"
    old = await key_in(system, file, "--models", "m")

    rotated = await system.here("key", "rotate", old, "--overlap", "10m", "--out", str(file))

    new = parse_key(file.read_text().strip()).id
    assert rotated.returncode == 0
    assert re.search(rf"the key {old} ends \d{{4}}-", rotated.stderr)
    shown = [json.loads((await system.here("key", "show", key, "--json")).stdout) for key in (old, new)]
    assert shown[1]["replaces"] == old
    assert [one["models"] for one in shown] == [["m"], ["m"]]
    assert shown[0]["expires_ms"] is not None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_rotation_that_is_refused_leaves_the_file_as_it_was(system: System, tmp_path: Path) -> None:
    file = tmp_path / "key"
    key = await key_in(system, file)
    before = file.read_text()
    await system.here("key", "revoke", key)

    refused = await system.here("key", "rotate", key, "--out", str(file))

    assert refused.returncode == 2
    assert "revoked" in refused.stderr
    assert file.read_text() == before
    assert [one.name for one in tmp_path.iterdir()] == ["key"]


async def test_the_text_of_a_key_is_not_taken_for_its_id_and_not_repeated(system: System, tmp_path: Path) -> None:
    await key_in(system, tmp_path / "key")
    text = (tmp_path / "key").read_text().strip()

    for command in ("show", "revoke", "rotate"):
        refused = await system.here("key", command, text)
        assert refused.returncode == 2
        assert "secret" in refused.stderr
        assert text[-49:] not in refused.stdout + refused.stderr


async def test_a_tenant_is_made_shown_disabled_and_enabled(system: System) -> None:
    made = await system.here("tenant", "create", "acme", "--label", "Acme Inc.")
    admin = await system.here("key", "create", "--role", "tenant-admin", "--tenant", "acme")
    disabled = await system.here("tenant", "disable", "acme")
    shown = await system.here("tenant", "show", "acme")
    enabled = await system.here("tenant", "enable", "acme")
    listed = json.loads((await system.here("tenant", "list", "--json")).stdout)["tenants"]

    assert "infermq key create --tenant acme" in made.stdout
    assert parse_key(admin.stdout.strip()).tenant == "acme"
    assert "is disabled" in disabled.stdout
    assert "disabled since" in shown.stdout
    assert "is enabled" in enabled.stdout
    [acme] = [one for one in listed if one["name"] == "acme"]
    assert (acme["label"], acme["keys"], acme["disabled_ms"]) == ("Acme Inc.", 1, None)


async def test_a_bad_name_is_refused_with_what_a_name_has(system: System) -> None:
    refused = await system.here("tenant", "create", "Acme")

    assert refused.returncode == 2
    assert "NAME: the name of a tenant has small letters" in refused.stderr


async def test_a_worker_may_be_given_all_deployments(system: System) -> None:
    made = await system.here("key", "create", "--role", "worker", "--deployments", "*", "--json")
    refused = await system.here("key", "create", "--role", "worker")

    assert json.loads(made.stdout)["key"]["deployments"] is None
    assert refused.returncode == 2
    assert "deployments" in refused.stderr


async def test_the_first_key_is_made_in_the_database_itself(system: System, tmp_path: Path) -> None:
    words = ("key", "first", "--postgres-url", system.info.postgres_url)
    first = await asyncio.to_thread(infermq_here, *words, "--force", "--out", str(tmp_path / "operator.key"))
    again = await asyncio.to_thread(infermq_here, *words)

    key = parse_key((tmp_path / "operator.key").read_text().strip())
    shown = json.loads((await system.here("key", "show", key.id, "--json")).stdout)
    assert first.returncode == 0
    assert (shown["role"], shown["made_by"]) == ("operator", "infermq/infermq")
    assert again.returncode == 2
    assert "already" in again.stderr
    assert set(Key.__struct_fields__) == set(shown)
