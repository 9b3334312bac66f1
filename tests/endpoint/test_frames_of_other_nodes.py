"""Commands that another node passes on to a connection over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import msgspec
from support.processes import wait_until

from endpoint.peer import serving
from endpoint.peer import TIMEOUT_S
from falcon_channels import Channels

TOO_MANY_REQUESTS = 3013


class Clients:
    """Its first call waits until the test releases it."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    async def on_rpc(self, req: Any, call: Any) -> None:
        await self.may_end.wait()


def test_flood_of_large_commands_through_another_node_ends_the_connection() -> None:
    """Waiting commands are limited by their size, too, and not only by their number."""
    channels, clients = Channels(), Clients()
    with (
        serving(channels, clients) as server,
        httpx.Client(
            base_url=f'http://127.0.0.1:{server.port}', timeout=TIMEOUT_S
        ) as client,
        client.stream(
            'POST', '/connection/http_stream', content='{"id":1,"connect":{}}'
        ) as stream,
    ):
        lines = stream.iter_lines()
        result = json.loads(next(lines))['connect']
        [connection] = channels.node.hub.connections
        cluster, loop = channels.node.cluster, channels.loop
        assert loop is not None
        call = b'{"id":2,"rpc":{"data":"%b"}}' % (b'x' * 60_000)
        body = msgspec.msgpack.encode((result['session'], True, call))
        sent = 0
        deadline_s = time.monotonic() + TIMEOUT_S
        while not connection.closed and time.monotonic() < deadline_s:
            asyncio.run_coroutine_threadsafe(
                cluster.send(cluster.id, 'emulation', body), loop
            ).result(TIMEOUT_S)
            sent += 1
        assert sent * len(call) < 8_000_000
        push = json.loads(next(lines))
        assert TOO_MANY_REQUESTS == push['push']['disconnect']['code']
        loop.call_soon_threadsafe(clients.may_end.set)
        wait_until(lambda: not channels.connections(), 'no connection is left')
