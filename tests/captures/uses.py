"""For each command: how it is used, and five ways to use it wrongly. Words in capitals stand for things of the scene."""

import shlex
from dataclasses import dataclass

from tests.captures.scene import Scene


@dataclass(frozen=True, slots=True)
class Uses:
    right: str
    """A use that ends by itself. Empty: it runs until it is stopped, or measures for long."""
    wrong: tuple[str, ...]
    code: int = 0
    """The exit code of the right use."""
    has_json: bool = True


def _by_id(right: str, *wrong: str, code: int = 0) -> Uses:
    """A command that takes one id: it is missing, is none, is nothing's; there is one too many; an option is unknown."""
    given = right.split(maxsplit=1)[0]
    return Uses(right, ("", "not-an-id", "NOBODY", f"{given} {given}", f"{given} --colour red", *wrong), code)


_FILE = "nowhere.jsonl"
_LIST = ("extra", "--limit 0", "--limit many", "--since yesterday", "--colour red")

USES: dict[str, Uses] = {
    "": Uses("--version", ("", "bach", "--colour", "batch lst", "--json"), has_json=False),
    "up": Uses("", ("--port 99999", "--workers many", "--replicas 2", "--catalog nowhere.toml", "--data bad.jsonl")),
    "serve": Uses(
        "",
        (
            "",
            "--nats-url nats://127.0.0.1:1",
            "--nats-url nats://127.0.0.1:1 --postgres-url mysql://x",
            "--nats-url nats://x --postgres-url postgresql://x --http-port 99999",
            "--nats-url nats://x --postgres-url postgresql://x --files ftp://x",
            "--colour red",
        ),
    ),
    "worker": Uses(
        "",
        ("", "--deployment nobody --slots 0", "--colour red", "--deployment simulated --log-format xml", "extra"),
        has_json=False,
    ),
    "migrate": Uses(
        "",
        ("extra", "--postgres-url mysql://x", "--postgres-url postgresql://127.0.0.1:1/x", "--colour", "extra extra"),
    ),
    "doctor": Uses(
        "",
        ("extra", "--colour", "--nats-url nats://127.0.0.1:1", "--postgres-url mysql://x", "--data nowhere"),
    ),
    "submit": Uses(
        "done.jsonl --new", ("", _FILE, "bad.jsonl --strict", "done.jsonl --lane fast", "done.jsonl --deadline soon")
    ),
    "infer": Uses(
        "small-chat Hello.",
        (
            "",
            "small-chat",
            "no-such-model Hello.",
            "paused-chat Hello.",
            "small-chat Hello. --temperature hot",
            "remote-chat Hello.",
            "slow-chat Hello. --timeout-s 0.2",
            "small-chat bad",
            "small-chat boom",
            "small-chat Hello. --max-tokens 0",
        ),
    ),
    "status": Uses("", ("extra", "--colour", "--data nowhere", "--nats-url nats://127.0.0.1:1", "--nats-url ''")),
    "apply": Uses(
        "catalog.toml --dry-run", ("", "nowhere.toml", "bad.jsonl", "catalog.toml extra", "catalog.toml --colour")
    ),
    "catalog": Uses("", ("extra", "--colour", "--data nowhere", "--nats-url nats://127.0.0.1:1", "extra extra")),
    "schema": Uses("", ("extra", "--colour", "--out nowhere/schema.json", "extra extra", "--json"), has_json=False),
    "cancel": Uses(
        "--model nobody --yes",
        ("", "--model slow-chat", "--older-than soon", "--state ended --yes", "--batch not-an-id"),
    ),
    "pause": Uses(
        "", ("model", "modle small-chat", "batch not-an-id", "model no-such-model", "model small-chat extra")
    ),
    "resume": Uses(
        "model small-chat", ("", "model", "modle small-chat", "batch not-an-id", "model small-chat extra")
    ),
    "audit": Uses("", ("extra", "--limit 0", "--limit many", "--before not-an-id", "--colour")),
    "demo": Uses(
        "", ("extra", "--file nowhere.jsonl", "--file bad.jsonl --data demo", "--catalog nowhere.toml", "--colour")
    ),
    "batch": Uses("--help", ("", "lst", "--json", "--colour", "show show show"), has_json=False),
    "batch list": Uses("", (*_LIST, "--status done", "--metadata team")),
    "batch show": _by_id("BATCH"),
    "batch watch": _by_id("BATCH", code=1),
    "batch results": _by_id("BATCH", "BATCH --out nowhere/out.jsonl"),
    "batch retry": _by_id(
        "BATCH --code nothing_like_it",
        "BATCH --file nowhere.jsonl",
        "BATCH --file bad.jsonl",
        "BATCH --deadline soon",
    ),
    "batch cancel": _by_id("RETRY", code=1),
    "batch change": _by_id("WAITING --priority 5", "WAITING", "WAITING --priority 1000", "WAITING --deadline soon"),
    "job": Uses("--help", ("", "lst", "--json", "--colour", "show show show"), has_json=False),
    "job list": Uses("", (*_LIST, "--state done", "--before not-an-id")),
    "job show": _by_id("JOB"),
    "job cancel": Uses("CANCELLED", ("", "not-an-id", "NOBODY", "JOB", "JOB --within-s never")),
    "job change": _by_id("PAUSED --priority 5", "PAUSED", "PAUSED --lane fast"),
    "dead": Uses("--help", ("", "lst", "--json", "--colour", "show show show"), has_json=False),
    "dead list": Uses("", (*_LIST, "--what thing")),
    "dead show": _by_id("LETTER"),
    "dead requeue": Uses(
        "DEAD --dry-run", ("", "not-an-id", "NOBODY", "DEAD --all", "DEAD --patch nope", "DEAD --lane fast")
    ),
    "dead drop": Uses("DEAD --dry-run", ("", "not-an-id", "NOBODY", "DEAD --all", "--limit 0")),
    "instruction": Uses("--help", ("", "lst", "--json", "--colour", "show show show"), has_json=False),
    "instruction list": Uses("", ("extra", "--limit 0", "--limit many", "--before not-an-id", "--colour")),
    "instruction show": _by_id("INSTRUCTION"),
    "replay": Uses(
        "--batch BATCH --dry-run",
        (
            "",
            "--batch not-an-id",
            "--batch BATCH --rate fast",
            "--batch BATCH --set n",
            "--batch BATCH --patch nope",
            "--batch BATCH --to-model no-such-model",
        ),
    ),
    "replay diff": _by_id("REPLAY"),
    "nats-config": Uses(
        "--key-file nats.key",
        ("extra", "extra extra", "--key-file nowhere/nats.key", "--key-file bad.jsonl", "--colour"),
        has_json=False,
    ),
    "tenant": Uses("--help", ("", "lst", "--json", "--colour", "show show show"), has_json=False),
    "tenant create": Uses("", ("", "acme", "a,b", "acme extra", "acme --colour")),
    "tenant list": Uses("", ("extra", "--limit 0", "--limit many", "extra extra", "--colour")),
    "tenant show": Uses("acme", ("", "nobody", "acme extra", "acme --colour", "a,b")),
    "tenant disable": Uses("acme", ("", "nobody", "acme extra", "acme --colour", "a,b")),
    "tenant enable": Uses("acme", ("", "nobody", "acme extra", "acme --colour", "a,b")),
    "key": Uses("--help", ("", "lst", "--json", "--colour", "show show show"), has_json=False),
    "key create": Uses(
        "--role producer",
        ("--role king", "--role worker", "--role producer --expires never", "--role producer --lanes fast", "extra"),
    ),
    "key list": Uses("", ("extra", "--limit 0", "--limit many", "--tenant nobody --limit x", "--colour")),
    "key show": Uses("KEY", ("", "k7f3x2abcdef", "KEY extra", "KEY --colour", "KEY --tenant nobody")),
    "key rotate": Uses("", ("", "k7f3x2abcdef", "KEY extra", "KEY --overlap never", "KEY --tenant nobody")),
    "key revoke": Uses("REVOKED", ("", "k7f3x2abcdef", "KEY extra", "KEY --colour", "KEY --tenant nobody")),
    "key first": Uses(
        "", ("extra", "--postgres-url mysql://x", "--colour", "extra extra", "--tenant a,b --out nowhere/key")
    ),
    "webhook": Uses("--help", ("", "lst", "--json", "--colour", "show show show"), has_json=False),
    "webhook create": Uses(
        "",
        (
            "",
            "http://example.com",
            "https://10.0.0.1",
            "https://example.com --events batch.done",
            "example.com extra",
        ),
    ),
    "webhook list": Uses("", ("extra", "--limit 0", "--tenant A", "--colour", "extra extra")),
    "webhook show": _by_id("WEBHOOK"),
    "webhook change": _by_id(
        "WEBHOOK --label app", "WEBHOOK", "WEBHOOK --enable --disable", "WEBHOOK --target https://10.0.0.1"
    ),
    "webhook rotate": _by_id("WEBHOOK", "WEBHOOK --overlap never"),
    "webhook delete": Uses("", ("", "not-an-id", "NOBODY", "WEBHOOK extra", "WEBHOOK --colour")),
    "webhook test": Uses("", ("", "not-an-id", "NOBODY", "WEBHOOK extra", "WEBHOOK --colour")),
    "webhook deliveries": Uses("", ("extra", "--limit 0", "--status done", "--webhook not-an-id", "--colour")),
    "webhook resend": Uses("--failed-of WEBHOOK", ("", "not-an-id", "NOBODY", "--failed-of x", "--colour")),
    "simulate": Uses("--help", ("", "chaos", "--json", "--colour", "faults faults"), has_json=False),
    "simulate faults": Uses(
        "", ("extra", "--seed x", "--seconds 0", "--processes 0", "--scenario NO_FILE", "--colour")
    ),
    "bench": Uses("--help", ("", "fast", "--json", "--colour", "bulk bulk"), has_json=False),
    **{
        f"bench {name}": Uses("", ("extra", "--runs 0", "--runs many", "--colour", f"--{size} 0"))
        for name, size in (
            ("bulk", "jobs"),
            ("interactive", "requests"),
            ("http", "requests"),
            ("saturation", "rounds"),
            ("dispatch", "jobs"),
            ("submit", "lines"),
            ("file", "lines"),
            ("keys", "jobs"),
            ("idle", "seconds"),
        )
    },
}
ENDLESS = frozenset(
    {
        "tenant create",
        "webhook create",
        "webhook rotate",
        "webhook delete",
        "webhook test",
        "key rotate",
        "key first",
        "up",
        "serve",
        "worker",
        "demo",
        "simulate faults",
        *(f"bench {name}" for name in "bulk interactive http saturation dispatch submit file idle keys".split()),
    }
)
"""These run until they are stopped, or for minutes, or do what can be done once."""


def words_of(scene: Scene, command: str, use: str) -> list[str]:
    """The words of a use, with the ids that the capitals stand for."""
    return [*command.split(), *(scene.names.get(word, word) for word in shlex.split(use))]
