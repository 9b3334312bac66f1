"""`Node`: its start, drain and end, and the event loop that it belongs to."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import msgspec
import pytest
from support.fake_clock import on_fake_clock
from support.workers import broker_url
from support.workers import BROKERS

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ClosedError
from falcon_channels import EventLoopError
from falcon_channels import NodeOptions
from falcon_channels.brokers.memory import MemoryBroker
from falcon_channels.server.options import ServerOptions
from falcon_channels.testing import SimulatedClient


def make_channels(broker: Any = None, options: NodeOptions | None = None) -> Channels:
    channels = Channels(broker, options=options)
    channels.add_route(
        'rooms:{room}', None, ChannelOptions(subscribers='anybody', history_size=10)
    )
    return channels


def make_app(channels: Channels) -> falcon.asgi.App[Any, Any]:
    class Room:
        async def on_post(self, req: Any, resp: Any) -> None:
            result = await channels.publish('rooms:a', 1)
            resp.media = result.position.offset

    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/', Room())
    channels.add_endpoints(app)
    channels.add_metrics(app, all_processes=True)
    return app


# --- start ---------------------------------------------------------------------------


@on_fake_clock
async def test_node_starts_once_with_the_first_call_or_as_middleware() -> None:
    """Concurrent first calls start a node once, and so does Falcon's lifespan."""
    channels = make_channels()
    assert 'new' == channels.status
    await asyncio.gather(*(channels.publish('rooms:a', n) for n in range(5)))
    assert 'ok' == channels.status
    await channels.process_startup({}, {})
    await channels.process_shutdown({}, {})
    assert 'closed' == channels.status
    unused = make_channels()
    await unused.close()
    assert 'closed' == unused.status
    hurried = make_channels()
    starting = asyncio.get_running_loop().create_task(hurried.publish('rooms:a', 1))
    await asyncio.sleep(0)
    await hurried.close()
    await asyncio.wait([starting])
    assert isinstance(starting.exception(), ClosedError)
    assert 'closed' == hurried.status
    assert {asyncio.current_task()} == asyncio.all_tasks()


@on_fake_clock
async def test_tasks_of_the_node_see_no_context_variables_of_the_first_caller() -> None:
    """The node outlives the request that starts it, and runs outside its context."""
    user = ContextVar('user', default='nobody')
    seen: list[str] = []

    class Broker(MemoryBroker):
        async def start(self, receiver: Any) -> None:
            seen.append(user.get())
            await super().start(receiver)

    channels = make_channels(Broker())
    user.set('ann')
    await channels.publish('rooms:a', 1)
    assert ['nobody'] == seen
    await channels.close()


# --- drain and end -------------------------------------------------------------------


@on_fake_clock
async def test_drain_closes_connections_in_batches_and_refuses_new_ones() -> None:
    """`drain` closes `drain_batch` connections at a time, and takes no new ones."""
    channels = make_channels(
        options=NodeOptions(drain_batch=3, drain_interval_s=1.0, linger_s=1.0)
    )
    clients = [SimulatedClient(channels) for _ in range(10)]
    for client in clients:
        await client.__aenter__()
        await client.subscribe('rooms:a')
    loop = asyncio.get_running_loop()
    draining = loop.create_task(channels.drain())
    again = loop.create_task(channels.drain())
    await asyncio.sleep(0.1)
    assert 3 == sum(client.end is not None for client in clients)
    assert 'draining' == channels.status
    with pytest.raises(falcon.HTTPServiceUnavailable):
        await SimulatedClient(channels).__aenter__()
    await channels.publish('rooms:a', 'still works')
    start_s = loop.time()
    await draining
    assert 1.4 < loop.time() - start_s < 4.6
    assert again.done()
    assert {(3001, 'shutdown')} == {client.end for client in clients}
    await channels.drain()
    await channels.close()
    await channels.close()
    assert 'closed' == channels.status
    with pytest.raises(ClosedError):
        await channels.publish('rooms:a', 1)
    assert {asyncio.current_task()} == asyncio.all_tasks()


@on_fake_clock
async def test_drain_of_many_connections_makes_its_batches_larger() -> None:
    """All connections are closed in batches of one size within `drain_timeout_s`."""
    options = NodeOptions(drain_batch=1, drain_interval_s=1.0, drain_timeout_s=2.5)
    channels = make_channels(options=options)
    clients = [SimulatedClient(channels) for _ in range(10)]
    for client in clients:
        await client.__aenter__()
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    draining = loop.create_task(channels.drain())
    await asyncio.sleep(0.1)
    assert 5 == sum(client.end is not None for client in clients)
    await draining
    assert loop.time() - start_s < 2.5
    assert {(3001, 'shutdown')} == {client.end for client in clients}
    await channels.close()


def test_drain_ends_before_the_server_stops_waiting_for_it() -> None:
    """By default, the server waits longer for the hook than the hook takes."""
    assert NodeOptions().drain_timeout_s < ServerOptions().drain_timeout_s


@on_fake_clock
async def test_close_during_a_drain_waits_for_it_and_its_responders() -> None:
    """`close` waits for a drain in progress, and for each ``on_unsubscribe``."""
    left = []

    class Room:
        async def on_unsubscribe(self, req: Any, subscription: Any, room: str) -> None:
            await asyncio.sleep(2.0)
            left.append(room)

    channels = Channels(options=NodeOptions(drain_batch=1, drain_interval_s=1.0))
    channels.add_route('rooms:{room}', Room(), ChannelOptions(subscribers='anybody'))
    for number in range(5):
        client = SimulatedClient(channels)
        await client.__aenter__()
        await client.subscribe(f'rooms:{number}')
    draining = asyncio.get_running_loop().create_task(channels.drain())
    await asyncio.sleep(0.1)
    await channels.close()
    assert draining.done()
    assert 5 == len(left)
    assert [] == channels.connections()


class Audit:
    """Middleware that publishes twice when the application stops."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.error: Exception | None = None

    async def process_shutdown(self, scope: Any, event: Any) -> None:
        try:
            await asyncio.gather(
                self.channels.publish('rooms:a', 'stopped'),
                self.channels.broadcast(['rooms:b', 'rooms:c'], 'stopped'),
            )
            await self.channels.publish('rooms:a', 'really')
        except ClosedError as ex:
            self.error = ex


@pytest.mark.parametrize('kind', BROKERS)
@pytest.mark.parametrize('channels_first', [True, False])
async def test_middleware_may_publish_when_the_application_stops(
    channels_first: bool, kind: str, tmp_path: Path
) -> None:
    """The middleware may be listed before or after the channels."""
    with broker_url(kind, tmp_path) as url:
        await publish_at_the_stop(url, channels_first)


async def publish_at_the_stop(url: str, channels_first: bool) -> None:
    channels = make_channels(url)
    audit = Audit(channels)
    order = [channels, audit] if channels_first else [audit, channels]
    app = falcon.asgi.App(middleware=order)
    async with testing.ASGIConductor(app):
        await channels.publish('rooms:a', 'started')
    assert audit.error is None
    assert 'closed' == channels.status
    assert {asyncio.current_task()} == asyncio.all_tasks()
    async with channels:
        page = await channels.history('rooms:a')
        assert 1 == len((await channels.history('rooms:c')).publications)
    texts = [msgspec.json.decode(one.data) for one in page.publications]
    assert ['started', 'stopped', 'really'] == texts


async def test_late_publication_that_is_cancelled_leaves_no_broker_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker that is opened for one publication is closed if its start fails."""
    starting = asyncio.Event()
    closed: list[MemoryBroker] = []

    class SlowBroker(MemoryBroker):
        async def start(self, receiver: Any) -> None:
            starting.set()
            await asyncio.Event().wait()

        async def close(self) -> None:
            closed.append(self)

    channels = make_channels()
    await channels.process_startup({}, {})
    await channels.process_shutdown({}, {})
    monkeypatch.setattr('falcon_channels.node.open_broker', lambda url: SlowBroker())
    channels.node.allow_late_publications()
    publishing = asyncio.create_task(channels.publish('rooms:a', 1))
    await starting.wait()
    publishing.cancel()
    await asyncio.wait([publishing])
    assert publishing.cancelled()
    assert 1 == len(closed)


async def test_other_calls_after_the_shutdown_say_how_to_order_middleware() -> None:
    """Only `publish` and `broadcast` open the broker again; the others are refused."""
    channels = make_channels()
    await channels.process_startup({}, {})
    await channels.process_shutdown({}, {})
    await channels.publish('rooms:a', 1)
    with pytest.raises(ClosedError, match='list `channels` before') as refused:
        await channels.history('rooms:a')
    assert 'In a script or a test' in str(refused.value)


async def test_broker_that_was_given_as_an_object_publishes_nothing_after_close() -> (
    None
):
    """Such a broker cannot start again; the error says how to order middleware."""
    channels = make_channels(MemoryBroker())
    audit = Audit(channels)
    async with testing.ASGIConductor(falcon.asgi.App(middleware=[audit, channels])):
        await channels.publish('rooms:a', 'started')
    assert 'list `channels` before' in str(audit.error)


# --- event loops ---------------------------------------------------------------------


async def test_call_from_another_event_loop_raises_and_changes_nothing() -> None:
    """A thread with its own event loop is refused, and told to use a portal."""
    channels = make_channels()
    await channels.publish('rooms:a', 1)
    for method in (channels.publish('rooms:a', 2), channels.disconnect_user('ann')):

        def run(coroutine: Any = method) -> None:
            asyncio.run(coroutine)

        with pytest.raises(EventLoopError, match='Portal'):
            await asyncio.to_thread(run)
    assert 1 == (await channels.position('rooms:a')).offset
    await channels.close()


def test_second_event_loop_is_refused_unless_the_channels_were_closed(
    tmp_path: Path,
) -> None:
    """Successive event loops work with "async with"; the error says so without it."""
    channels = make_channels(f'sqlite:///{tmp_path}/a.db')

    async def publish() -> int:
        async with channels:
            return (await channels.publish('rooms:a', 1)).position.offset

    assert [1, 2] == [asyncio.run(publish()) for _ in range(2)]
    with pytest.raises(ClosedError):
        asyncio.run(channels.publish('rooms:a', 1))

    async def publish_without_closing() -> None:
        await other.publish('rooms:a', 1)

    other = make_channels()
    asyncio.run(publish_without_closing())
    with pytest.raises(EventLoopError, match='async with'):
        asyncio.run(publish_without_closing())


# --- a second start ------------------------------------------------------------------


def test_app_that_is_started_for_each_request_works() -> None:
    """Falcon's test client, which starts and stops the app for each request, works."""
    app = make_app(make_channels())
    client = testing.TestClient(app)
    for _ in range(2):
        assert 1 == client.simulate_post('/').json
    assert 'falcon_channels_connections' in client.simulate_get('/metrics').text


async def test_endpoints_and_metrics_after_a_second_start_work() -> None:
    """All resources and surveys work after an application was stopped and started."""
    app = make_app(make_channels())
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


async def test_second_start_with_a_broker_object_raises() -> None:
    """A broker object starts only once; the error says to give its URL."""
    channels = make_channels(MemoryBroker())
    async with channels:
        pass
    with pytest.raises(ClosedError, match='URL'):
        await channels.__aenter__()
