"""A short round of every transition in any order. `make machine` does longer ones, and shortens the history of a fault."""

import asyncio

import pytest

from tests.transitions.machine import run

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


def test_every_transition_in_any_order_changes_what_it_should_and_nothing_else(servers: tuple[str, str]) -> None:
    with asyncio.Runner() as runner:
        run(servers[1], runner, examples=12, steps=100, of_seed=1, shrinks=False)
