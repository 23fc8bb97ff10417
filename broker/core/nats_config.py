"""Writes the part of a NATS server's configuration that keeps accounts apart and has brokers say who may connect.

It holds public keys only. A server does not take up a callout when it reloads its configuration, so the part is there from
the start.
"""

from collections.abc import Iterator

from broker.core.accounts import BROKERS_LIVE_IN, CROSSINGS, Account
from broker.core.nats_keys import NatsKeys

AUTH_TIMEOUT_S = 1.8
"""How long a server waits for a broker to say whether somebody may connect.

After two seconds a server (2.15) pings the client, and a client that hears that first takes it for a yes (nats-py 2.16) or
for an error: so the answer must come before. Whoever is turned away tries again.
"""


def nats_config(keys: NatsKeys) -> str:
    """Return lines for the end of a server's configuration. Every server of a cluster has the same."""
    return "\n".join([*_accounts(keys), *_authorization(keys), ""])


def _accounts(keys: NatsKeys) -> Iterator[str]:
    yield "accounts {"
    for account in Account:
        yield f"  {account} {{"
        if account is Account.BROKERS:
            yield "    jetstream: enabled"
        users = [f'{{ nkey: "{keys.public_user(account)}" }}'] if account in BROKERS_LIVE_IN else []
        yield f"    users: [ {', '.join(users)} ]"
        yield from _list("exports", _exports(account))
        yield from _list("imports", _imports(account))
        yield "  }"
    yield "}"
    yield f"system_account: {Account.SYSTEM}"


def _authorization(keys: NatsKeys) -> Iterator[str]:
    users = ", ".join(f'"{keys.public_user(account)}"' for account in BROKERS_LIVE_IN)
    yield "authorization {"
    yield f"  timeout: {AUTH_TIMEOUT_S}"
    yield "  auth_callout {"
    yield f'    issuer: "{keys.public_issuer}"'
    yield f"    account: {Account.BROKERS}"
    yield f"    auth_users: [ {users} ]"
    yield f'    xkey: "{keys.public_curve}"'
    yield "  }"
    yield "}"


def _list(name: str, lines: Iterator[str]) -> Iterator[str]:
    if found := list(lines):
        yield f"    {name}: ["
        yield from (f"      {line}" for line in found)
        yield "    ]"


def _exports(account: Account) -> Iterator[str]:
    for one in CROSSINGS:
        if one.of is account:
            kind = "stream" if one.is_stream else "service"
            many = ", response_type: stream" if one.many_answers else ""
            yield f'{{ {kind}: "{one.subject}"{many}, accounts: [ {one.to} ] }}'


def _imports(account: Account) -> Iterator[str]:
    for one in CROSSINGS:
        if one.to is account:
            kind = "stream" if one.is_stream else "service"
            yield f'{{ {kind}: {{ account: {one.of}, subject: "{one.subject}" }} }}'
