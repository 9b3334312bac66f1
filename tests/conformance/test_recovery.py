"""Many official clients recover at the same time after all connections were cut."""

from __future__ import annotations

import asyncio

import pytest
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess

from benchmarks import recovery

CLIENTS = 100
MISSED = 100


@pytest.mark.server
@pytest.mark.timeout(240)
def test_all_clients_recover_every_publication_after_a_break(
    asgi_server: AsgiServer,
) -> None:
    """Every client recovers every publication once and in order."""
    with ServerProcess(asgi_server.command(recovery.APP)) as server:
        outcome = asyncio.run(
            recovery.run(server.port, server.pid, clients=CLIENTS, missed=MISSED)
        )
    assert (CLIENTS, CLIENTS) == (outcome.recovered, outcome.complete)
