"""Commands about users that arrive while a responder works."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from falcon_channels import Channels
from falcon_channels.cluster import dispatch
from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.testing import SimulatedSdk
from falcon_channels.testing.recorder import eventually


class Clients:
    """Its calls wait until the test releases them."""

    def __init__(self) -> None:
        self.called = asyncio.Event()
        self.may_end = asyncio.Event()

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = connection.data

    async def on_rpc(self, req: Any, call: Any) -> None:
        self.called.set()
        await self.may_end.wait()


async def end_users(channels: Channels, clients: Clients, count: int) -> None:
    """Connect clients of different users, and disconnect them."""
    for number in range(count):
        client = SimulatedSdk(channels, clients, data=f'user {number}')
        await client.__aenter__()
        await channels.disconnect_user(f'user {number}')
        assert client.connection.closed


def num_connections() -> int:
    gc.collect()
    return sum(type(item) is ClientConnection for item in gc.get_objects())


async def test_call_that_waits_keeps_no_ended_connection_in_memory() -> None:
    """A call that hangs does not fill the memory with connections of others."""
    channels, clients = Channels(), Clients()
    slow = SimulatedSdk(channels, clients, data='slow')
    await slow.__aenter__()
    call = asyncio.create_task(slow.rpc('wait'))
    await clients.called.wait()
    before = num_connections()
    await end_users(channels, clients, 20)
    await asyncio.sleep(0)
    assert num_connections() - before <= 2
    clients.may_end.set()
    await call
    await slow.disconnect()
    await channels.close()


async def test_call_that_waits_through_too_many_commands_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that hangs does not fill the memory with commands about others."""
    monkeypatch.setattr(dispatch, 'MAX_STORED', 10)
    channels, clients = Channels(), Clients()
    slow = SimulatedSdk(channels, clients, data='slow')
    await slow.__aenter__()
    call = asyncio.create_task(slow.rpc('wait'))
    await clients.called.wait()
    for _ in range(10):
        await channels.disconnect_user('nobody')
    assert slow.end is None
    await channels.disconnect_user('nobody')

    async def is_closed() -> bool:
        return slow.end == (3004, 'internal server error')

    await eventually(is_closed, 'the connection is closed')
    assert '10 commands about users have arrived' in caplog.text
    clients.may_end.set()
    await asyncio.gather(call, return_exceptions=True)
    await channels.close()
