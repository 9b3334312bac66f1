"""`Handshake`: connections are refused when they ask, and again when they are added."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import falcon
from falcon import testing
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import Channels
from falcon_channels import ClientConnection
from falcon_channels import EndpointOptions
from falcon_channels import NodeOptions
from falcon_channels.endpoint.commands import dispatch
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.testing import SimulatedClient
from falcon_channels.transports.asgi import MESSAGES
from falcon_channels.transports.client_codecs import JSON


class RecordingTransport:
    """A transport that records its close code."""

    framing = MESSAGES
    backlog_bytes = 0

    def __init__(self) -> None:
        self.codes: list[int] = []

    def write(self, blob: object) -> int:
        return 0

    def close(self, code: int, reason: str) -> None:
        self.codes.append(code)

    def abort(self) -> None:
        self.codes.append(1006)

    def pause_reading(self) -> None:
        """Do nothing: there is no client to read from."""

    def resume_reading(self) -> None:
        """Do nothing: there is no client to read from."""


class TimedConnection(ClientConnection):
    """A connection of the client protocol that counts the calls of its timer."""

    __slots__ = ('calls', 'ends')

    def __init__(self, endpoint: Endpoint) -> None:
        self.calls = 0
        self.ends = 0
        super().__init__(
            endpoint,
            RecordingTransport(),
            JSON,
            testing.create_asgi_req(),
            dispatch,
            on_ended=self._count_end,
        )

    def on_due(self, now_s: float) -> None:
        self.calls += 1
        super().on_due(now_s)

    def _count_end(self, connection: ClientConnection) -> None:
        self.ends += 1


def make_channels(max_connections: int | None = None) -> Channels:
    channels = Channels(options=NodeOptions(max_connections=max_connections))
    channels.add_route('rooms:{room}', None)
    return channels


@on_fake_clock
async def test_add_above_max_connections_raises_although_both_were_admitted() -> None:
    """Two requests can be admitted for the last place. `add` refuses the second one."""
    channels = make_channels(max_connections=1)
    handshake = channels.node.handshake
    req = testing.create_asgi_req()
    await handshake.admit(req)
    await handshake.admit(req)
    first, second = SimulatedClient(channels), SimulatedClient(channels)
    handshake.add(first.connection)
    with pytest.raises(falcon.HTTPServiceUnavailable) as refused:
        handshake.add(second.connection)
    assert 'the limit of 1 connections is reached' == refused.value.description
    assert (False, True) == (first.connection.closed, second.connection.closed)
    assert [first.connection] == channels.connections()
    with pytest.raises(falcon.HTTPServiceUnavailable):
        await handshake.admit(req)
    first.disconnect()
    await handshake.admit(req)
    async with SimulatedClient(channels) as third:
        assert [third.connection] == channels.connections()
    await channels.close()


@on_fake_clock
async def test_add_after_draining_began_raises_and_removes_the_connection() -> None:
    """A node can start to drain between `admit` and `add`. `add` then refuses."""
    channels = make_channels()
    await channels.node.handshake.admit(testing.create_asgi_req())
    client = SimulatedClient(channels, user='ann')
    await channels.drain()
    with pytest.raises(falcon.HTTPServiceUnavailable):
        channels.node.handshake.add(client.connection)
    assert client.connection.closed
    assert [] == channels.connections()
    assert 0 == channels.node.hub.connections.num_users
    await channels.close()


@on_fake_clock
async def test_add_of_a_connection_that_has_ended_raises() -> None:
    """A client can leave before its connection is added."""
    channels = make_channels()
    await channels.start()
    client = SimulatedClient(channels)
    client.disconnect()
    with pytest.raises(falcon.HTTPServiceUnavailable) as refused:
        channels.node.handshake.add(client.connection)
    assert 'the connection has ended already' == refused.value.description
    assert [] == channels.connections()
    await channels.close()


@pytest.mark.parametrize('reason', ['full', 'draining'])
def test_connection_that_add_refused_has_no_timer(reason: str) -> None:
    """A refused connection is released: its connect timeout is never called.

    The connection has set this timer before `add`. A connection that was added, for
    comparison, is closed by its connect timeout.
    """

    @on_fake_clock
    async def scenario() -> None:
        channels = make_channels(max_connections=1)
        await channels.start()
        endpoint = Endpoint(
            channels.node, options=EndpointOptions(connect_timeout_s=5.0)
        )
        added, refused = TimedConnection(endpoint), TimedConnection(endpoint)
        channels.node.handshake.add(added)
        if reason == 'draining':
            channels.node.hub.start_draining()
        with pytest.raises(falcon.HTTPServiceUnavailable):
            channels.node.handshake.add(refused)
        assert (True, 1) == (refused.closed, refused.ends)
        assert [added] == channels.connections()
        await asyncio.sleep(10)
        assert (1, 0) == (added.calls, refused.calls)
        # NOTE: the way in that called `add` closes the transport.
        assert [] == refused.transport.codes
        assert added.closed
        await channels.close()

    scenario()


def test_reached_limit_of_connections_is_logged_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients that are refused try again and again; the log has one line a minute."""
    now_s = 5.0
    clock = SimpleNamespace(monotonic=lambda: now_s)
    monkeypatch.setattr('falcon_channels.access.handshake.time', clock)

    @on_fake_clock
    async def scenario() -> None:
        nonlocal now_s
        async with make_channels(max_connections=1) as channels:
            async with SimulatedClient(channels):
                for moment_s in (5.0, 6.0, 64.0, 66.0, 67.0):
                    now_s = moment_s
                    with pytest.raises(falcon.HTTPServiceUnavailable):
                        channels.node.handshake.check_capacity(None)

    scenario()
    line = 'connections are refused: max_connections of 1 is reached'
    assert 2 == sum(record.getMessage().startswith(line) for record in caplog.records)
