"""An error that one client or one channel causes reaches no other."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels.events import Events
from falcon_channels.hub.connection import Connection
from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.fanout import FanOut
from falcon_channels.hub.local_channel import LocalChannel
from falcon_channels.hub.local_channel import SubscriptionTotals
from falcon_channels.metrics import Counters
from falcon_channels.operations import Operations
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.testing import SimulatedClient


def make_channels() -> Channels:
    channels = Channels()
    channels.add_route(
        '{name}',
        None,
        ChannelOptions(subscribers='anybody', history_size=10, presence=True),
    )
    return channels


@on_fake_clock
async def test_failed_task_closes_only_its_own_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A task that fails ends the connection that it works for, and is logged once."""
    channels = make_channels()
    async with SimulatedClient(channels) as client, SimulatedClient(channels) as other:

        async def fail() -> None:
            raise RuntimeError('broken')

        channels.node.hub.tasks.spawn(fail(), 'test', connection=client.connection)
        await asyncio.sleep(0.1)
        assert (3004, 'internal server error') == client.end
        assert other.end is None
        assert 1 == channels.node.hub.counters.task_errors
    errors = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert 1 == len(errors)
    assert errors[0].exc_info is not None
    await channels.close()


@on_fake_clock
async def test_failed_housekeeping_starts_again() -> None:
    """A task that runs for ever is started again after an error."""
    channels = make_channels()
    await channels.start()
    calls: list[int] = []

    async def fail_twice() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError('broken')

    channels.node.hub.tasks.run_forever(fail_twice, 'test')
    await asyncio.sleep(60)
    assert 3 == len(calls)
    assert 2 == channels.node.hub.counters.task_errors
    await channels.close()


@on_fake_clock
async def test_error_in_one_delivery_reaches_no_other_channel() -> None:
    """If a channel cannot be delivered, its subscribers end, and all others receive."""
    channels = make_channels()
    async with SimulatedClient(channels) as client, SimulatedClient(channels) as other:
        await client.subscribe('bad')
        await other.subscribe('good')
        encoder = client.connection.encoder
        codec = encoder.codec

        class BrokenCodec:
            binary = False
            carries_binary = True

            def encode_items(self, channel: str, items: Any, epoch: str) -> Any:
                if channel == 'bad':
                    raise RuntimeError('broken')
                return codec.encode_items(channel, items, epoch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoder, 'codec', BrokenCodec())
            await asyncio.gather(
                channels.publish('bad', 1), channels.publish('good', 2)
            )
            assert 2 == (await other.receive()).value()
        assert 2500 == client.events[-1].code  # type: ignore[union-attr]
        assert other.end is None
        assert client.end is None
    await channels.close()


@on_fake_clock
async def test_client_that_cannot_be_told_of_a_loss_does_not_hide_it_from_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If publications are lost, all subscriptions end. A failing client is aborted."""
    channels = make_channels()
    async with SimulatedClient(channels) as broken, SimulatedClient(channels) as other:
        told = type(broken.connection).on_unsubscribed

        def on_unsubscribed(self: Connection, *args: Any) -> None:
            if self is broken.connection:
                raise RuntimeError('broken')
            told(self, *args)

        for client in (broken, other):
            await client.subscribe('room')
        hub = channels.node.hub
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(broken.connection), 'on_unsubscribed', on_unsubscribed)
            # A delivery that fails loses the publication for all subscribers.
            patch.setattr(broken.connection.encoder, 'codec', None)
            await channels.publish('room', 1)
            await asyncio.sleep(0.1)
        assert 2500 == other.events[-1].code  # type: ignore[union-attr]
        assert ({}, {}) == (
            broken.connection.subscriptions,
            other.connection.subscriptions,
        )
        assert 2 == hub.counters.task_errors
        assert broken.end is not None
    assert 'failed' in caplog.text
    await channels.close()


# --- partly written frames -----------------------------------------------------------


class WholeFrames:
    """An encoder whose frames begin and end with a mark, and are all one letter."""

    def __init__(self, letter: bytes) -> None:
        self.frame = b'<' + letter * 60_000 + b'>'

    def encode(self, *_: Any) -> bytes:
        return self.frame


class SocketTransport:
    """A transport that lends its socket, and records what it is given to finish."""

    def __init__(self, server: socket.socket, send_buffer: int) -> None:
        self.near = socket.create_connection(server.getsockname())
        self.far, _ = server.accept()
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.near.setblocking(False)
        self.descriptor = self.near.fileno()
        self.framing = None
        self.backlog_bytes = 0
        self.rest = b''

    def write(self, blob: bytes) -> int:
        self.rest += blob
        return 0

    def read_all(self) -> bytes:
        """Return what reached the other end, and what the transport was given."""
        self.near.shutdown(socket.SHUT_WR)
        received = b''
        while chunk := self.far.recv(1 << 20):
            received += chunk
        return received + self.rest

    def close(self, code: int = 1000, reason: str = '') -> None:
        self.near.close()
        self.far.close()

    def abort(self) -> None:
        raise AssertionError('a write failed')


class NoHub:
    """An owner that is told nothing in this test."""

    events = Events()

    def on_output(self, connection: Connection) -> None: ...
    def remove(self, *_: Any, **__: Any) -> None: ...
    def on_user_changed(self, connection: Connection, before: str) -> None: ...
    def on_writable(self, connection: Connection) -> None: ...


class SocketConnection(Connection):
    def on_unsubscribed(self, *_: Any) -> None:
        raise AssertionError('a subscription was ended')


@pytest.mark.parametrize('io_uring', [False, True])
def test_rest_of_a_frame_goes_to_the_connection_that_has_its_beginning(
    io_uring: bool,
) -> None:
    """A subscriber that was ahead joins its group before rests of frames are passed on.

    The number of a rest counts the subscribers of all groups. A new member of an
    earlier group would shift the numbers, and another client would receive the rest.
    """
    channels = make_channels()
    match = channels.node.router.match('x')
    assert match is not None
    local_channel = LocalChannel(
        'x', match.route.options, 1 << 20, 1 << 20, SubscriptionTotals()
    )
    local_channel.open(HistoryPage([], Position(0, 'e')))
    fan_out = FanOut(
        {'x': local_channel},
        Counters(),
        Events(),
        Operations(),
        NodeOptions(io_uring=io_uring),
        lambda channel: None,
        lambda channel: None,
    )
    first, second = WholeFrames(b'1'), WholeFrames(b'2')
    clients: list[tuple[WholeFrames, SocketTransport]] = []
    with socket.create_server(('127.0.0.1', 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 400_000)

        def add(encoder: WholeFrames, send_buffer: int, offset: int | None) -> None:
            transport = SocketTransport(server, send_buffer)
            connection = SocketConnection(
                NoHub(),
                transport,  # type: ignore[arg-type]  # the parts that are called
                encoder,  # type: ignore[arg-type]  # the parts that are called
            )
            subscription = Subscription(connection, 'x', match.route, match.params)
            local_channel.add(subscription, offset)
            clients.append((encoder, transport))

        for _ in range(20):
            add(first, 400_000, None)
        for send_buffer in (8_192, 400_000):
            add(second, send_buffer, None)
        add(first, 400_000, 1)
        assert not local_channel.take(Publication(data=b'1', offset=1), 'e')
        fan_out.flush_channel(local_channel)
        try:
            assert any(transport.rest for _, transport in clients)
            *subscribers, (_, ahead) = clients
            whole = [e.frame == transport.read_all() for e, transport in subscribers]
            assert [True] * len(subscribers) == whole
            # It had recovered this publication before.
            assert b'' == ahead.read_all()
        finally:
            for _, transport in clients:
                transport.close()
            fan_out.close()


def test_publication_follows_the_queued_start_of_its_subscription() -> None:
    """A connection with queued output gets the publication after it, not before."""
    channels = make_channels()
    match = channels.node.router.match('x')
    assert match is not None
    local_channel = LocalChannel(
        'x', match.route.options, 1 << 20, 1 << 20, SubscriptionTotals()
    )
    local_channel.open(HistoryPage([], Position(0, 'e')))
    fan_out = FanOut(
        {'x': local_channel},
        Counters(),
        Events(),
        Operations(),
        NodeOptions(),
        lambda channel: None,
        lambda channel: None,
    )
    encoder = WholeFrames(b'1')
    connections: list[SocketConnection] = []
    with socket.create_server(('127.0.0.1', 0)) as server:
        for _ in range(20):
            connection = SocketConnection(
                NoHub(),
                SocketTransport(server, 400_000),  # type: ignore[arg-type]  # as above
                encoder,  # type: ignore[arg-type]  # as above
            )
            local_channel.add(Subscription(connection, 'x', match.route, match.params))
            connections.append(connection)
        connections[7].queue(b'start')
        assert not local_channel.take(Publication(data=b'1', offset=1), 'e')
        fan_out.flush_channel(local_channel)
        assert [b'start', encoder.frame] == connections[7].out
        for connection in connections:
            connection.transport.close(1000, '')
        fan_out.close()
