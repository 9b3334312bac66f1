"""What clients of each ASGI server see when it is stopped."""

from __future__ import annotations

import asyncio
from pathlib import Path
import signal

import pytest
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess

from server.test_mass_drain import Client
from server.test_mass_drain import HELLO
from server.test_mass_drain import users


async def stop_under_three(server: ServerProcess) -> list[int | None]:
    """Return what one client of each kind hears."""
    clients = [
        Client(server.port, '/connection/websocket?user=sdk', '"subscribe":', HELLO),
        Client(server.port, '/rooms/all?user=raw', 'subscribed'),
        Client(server.port, '/echo', 'hello', 'hello'),
    ]
    async with asyncio.timeout(60):
        for client in clients:
            await client.connect()
        while not all(client.ready for client in clients):
            await asyncio.sleep(0.005)
        server.signal(signal.SIGTERM)
        await asyncio.gather(*(client.lost.wait() for client in clients))
    return [client.close_code for client in clients]


@pytest.mark.server
@pytest.mark.every_server
def test_what_clients_hear(asgi_server: AsgiServer, tmp_path: Path) -> None:
    """Close codes, exit code, log and presence are what the table says."""
    broker, notes = f'sqlite:///{tmp_path}/channels.db', tmp_path / 'notes'
    env = {'PYTHONPATH': 'tests', 'BROKER': broker, 'STOP_NOTES': str(notes)}
    with ServerProcess(asgi_server.command('support.stop_app:app'), env=env) as server:
        codes = asyncio.run(stop_under_three(server))
        assert server.process is not None
        assert asgi_server.stop_status == server.process.wait(30)
        assert asgi_server.stop_is_quiet == ('Traceback' not in server.log())
    assert asgi_server.stop_codes == tuple(codes)
    assert asgi_server.drains == ('before: 2 1' in notes.read_text())
    # NOTE: elsewhere the application may be gone before it has learned who left.
    assert not asgi_server.drains or {'sdk', 'raw'} == asyncio.run(users(broker))
