"""The event loop that channels belong to, and starting again after the end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import pytest

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ClosedError
from falcon_channels import EventLoopError
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.portal import Portal


def made(broker: Any = None) -> Channels:
    channels = Channels(broker)
    channels.add_route('rooms:{room}', None, ChannelOptions(history_size=10))
    return channels


def served(channels: Channels) -> falcon.asgi.App[Any, Any]:
    class Room:
        async def on_post(self, req: Any, resp: Any) -> None:
            result = await channels.publish('rooms:a', 1)
            resp.media = result.position.offset

    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/', Room())
    channels.add_endpoints(app)
    channels.add_metrics(app, all_processes=True)
    return app


async def test_another_loop_is_refused() -> None:
    """A thread with a loop of its own is told to use a portal, and changes nothing."""
    channels = made()
    await channels.publish('rooms:a', 1)
    for method in (channels.publish('rooms:a', 2), channels.disconnect_user('ann')):

        def run(coroutine: Any = method) -> None:
            asyncio.run(coroutine)

        with pytest.raises(EventLoopError, match='Portal'):
            await asyncio.to_thread(run)
    assert 1 == (await channels.position('rooms:a')).offset
    await channels.close()


def test_a_second_run_is_refused_unless_closed(tmp_path: Path) -> None:
    """One run after the other works with "async with", and says so without it."""
    channels = made(f'sqlite:///{tmp_path}/a.db')

    async def publish() -> int:
        async with channels:
            return (await channels.publish('rooms:a', 1)).position.offset

    assert [1, 2] == [asyncio.run(publish()) for _ in range(2)]
    with pytest.raises(ClosedError):
        asyncio.run(channels.publish('rooms:a', 1))

    async def forget() -> None:
        await made_again.publish('rooms:a', 1)

    made_again = made()
    asyncio.run(forget())
    with pytest.raises(EventLoopError, match='async with'):
        asyncio.run(forget())


async def test_a_portal_uses_the_loop_of_the_application() -> None:
    """Threads publish through a portal while the application runs, and after it not."""
    channels = made()
    await channels.start()
    portal = Portal(channels, timeout_s=0.1)
    result = await asyncio.to_thread(portal.publish, 'rooms:a', 1)
    assert 1 == result.position.offset
    assert 1 == (await channels.position('rooms:a')).offset
    with pytest.raises(RuntimeError, match='await'):
        portal.publish('rooms:a', 2)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(portal.call, asyncio.Event().wait)
    portal.close()
    assert 'ok' == channels.status
    await channels.close()


def test_a_portal_ends_with_its_block() -> None:
    """After "with" a portal and its channels are closed."""
    with Portal(made()) as portal:
        assert 1 == portal.publish('rooms:a', 1).position.offset
    assert 'closed' == portal.channels.status
    with pytest.raises(ClosedError):
        portal.publish('rooms:a', 1)


def test_an_application_starts_again() -> None:
    """Falcon's test client, which starts and stops the app for each request, works."""
    app = served(made())
    client = testing.TestClient(app)
    for _ in range(2):
        assert 1 == client.simulate_post('/').json
    assert 'falcon_channels_connections' in client.simulate_get('/metrics').text


async def test_clients_connect_after_a_second_start() -> None:
    """All doors and surveys work when the application was stopped and started."""
    app = served(made())
    for _ in range(2):
        async with testing.ASGIConductor(app) as conductor:
            assert [1, 2] == [
                (await conductor.simulate_post('/')).json for _ in range(2)
            ]
            async with conductor.simulate_ws('/connection/websocket') as ws:
                await ws.send_text('{"id": 1, "connect": {}}')
                assert '"id":1,"connect":' in await ws.receive_text()
            page = await conductor.simulate_get('/metrics')
            assert 'falcon_channels_publications_total{node=' in page.text


async def test_a_broker_object_starts_once() -> None:
    """Where the broker was an object, starting again is refused with the reason."""
    channels = made(MemoryBroker())
    async with channels:
        pass
    with pytest.raises(ClosedError, match='URL'):
        await channels.__aenter__()
