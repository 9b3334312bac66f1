"""How clients of each ASGI server are closed when it stops."""

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


async def connect_three_and_stop(server: ServerProcess) -> list[int | None]:
    """Return the close codes of one client of each kind."""
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
def test_stop_of_each_server_closes_as_its_table_says(
    asgi_server: AsgiServer, tmp_path: Path
) -> None:
    """Close codes, exit code, log and presence are those of `AsgiServer`."""
    broker, notes = f'sqlite:///{tmp_path}/channels.db', tmp_path / 'notes'
    env = {'PYTHONPATH': 'tests', 'BROKER': broker, 'STOP_NOTES': str(notes)}
    with ServerProcess(asgi_server.command('support.stop_app:app'), env=env) as server:
        codes = asyncio.run(connect_three_and_stop(server))
        assert server.process is not None
        assert asgi_server.stop_status == server.process.wait(30)
        assert asgi_server.stop_is_quiet == ('Traceback' not in server.log())
    assert asgi_server.stop_codes == tuple(codes)
    assert asgi_server.drains == ('before: 2 1' in notes.read_text())
    # NOTE: On other servers the application may end before its clients have left.
    assert not asgi_server.drains or {'sdk', 'raw'} == asyncio.run(users(broker))
