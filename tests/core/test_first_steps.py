"""What `infermq up` says to do next works as it stands."""

from pathlib import Path

import pytest

from broker.cli.first_steps import first_steps
from schemas.catalog import parse

CATALOG = parse("""
[models.vectors]
endpoints = ["/v1/embeddings"]
[[models.vectors.route]]
deployment = "local"
[models.remote]
[[models.remote.route]]
deployment = "away"
[models.small-chat]
[[models.small-chat.route]]
deployment = "away"
[[models.small-chat.route]]
deployment = "local"
[deployments.local]
engine = "simulated"
[deployments.away]
engine = "simulated"
""")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "prompts.jsonl").touch()
    return tmp_path


def test_the_first_model_that_chats_and_has_a_worker_is_asked(clone: Path) -> None:
    assert first_steps(CATALOG, {"local"}, data=clone / ".infermq", folder=clone) == [
        'infermq infer small-chat "Why is the sky blue?"',
        "infermq submit examples/prompts.jsonl --out results.jsonl",
        "infermq status",
    ]


def test_elsewhere_the_commands_name_the_data_folder_and_no_file_that_is_not_there(tmp_path: Path) -> None:
    assert first_steps(CATALOG, {"away", "local"}, data=Path("/srv/q"), folder=tmp_path) == [
        'infermq infer remote "Why is the sky blue?" --data /srv/q',
        "infermq submit FILE.jsonl --out results.jsonl --data /srv/q",
        "infermq status --data /srv/q",
    ]


def test_without_a_worker_nothing_is_asked(clone: Path) -> None:
    assert first_steps(CATALOG, set(), data=clone / ".infermq", folder=clone)[0].startswith("infermq submit FILE")
