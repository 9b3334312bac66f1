"""Many official clients whose links break at once get back what they missed."""

from __future__ import annotations

import asyncio
from pathlib import Path
import sys

import pytest
from support.processes import ServerProcess

from benchmarks import recovery

CLIENTS = 100
MISSED = 100
COMMAND = str(Path(sys.executable).with_name('falcon-channels'))


@pytest.mark.server
@pytest.mark.timeout(240)
def test_all_come_back_and_miss_nothing() -> None:
    """Every client recovers every publication, none twice, in order."""
    command = [COMMAND, 'serve', recovery.APP, '--port', '{port}']
    with ServerProcess(command) as server:
        outcome = asyncio.run(
            recovery.run(server.port, server.pid, clients=CLIENTS, missed=MISSED)
        )
    assert (CLIENTS, CLIENTS) == (outcome.recovered, outcome.complete)
