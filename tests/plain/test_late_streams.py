"""An event stream whose response begins late."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from endpoint.peer import serving_app
from endpoint.peer import TIMEOUT_S
import falcon.asgi
import httpx
import pytest
from support.asgi_servers import SERVE
from support.processes import wait_until

from falcon_channels import Channels
from falcon_channels import EventStreamOptions
from falcon_channels.plain.events import EventStream


class App:
    """A resource, and a middleware that holds its responses."""

    def __init__(self) -> None:
        self.channels = Channels()
        self.channels.add_route('news', None)
        self.may_begin = asyncio.Event()

    async def on_get(self, req: Any, resp: Any) -> None:
        options = EventStreamOptions(keepalive_s=0.1)
        await self.channels.serve_events(req, resp, 'news', options=options)

    async def process_response(
        self, req: Any, resp: Any, resource: object, ok: bool
    ) -> None:
        await self.may_begin.wait()


def test_stream_whose_response_is_slow_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream does not end because its first comment was due before its response."""
    due: list[float] = []
    on_due = EventStream.on_due

    def note_due(connection: EventStream, now_s: float) -> None:
        on_due(connection, now_s)
        due.append(now_s)

    monkeypatch.setattr(EventStream, 'on_due', note_due)
    resource = App()
    app = falcon.asgi.App(middleware=[resource, resource.channels])
    app.add_route('/', resource)
    with serving_app(app, SERVE) as server, ThreadPoolExecutor() as executor:

        def first_bytes() -> bytes:
            url = f'http://127.0.0.1:{server.port}/'
            with httpx.stream('GET', url, timeout=TIMEOUT_S) as response:
                return next(response.iter_raw())

        reading = executor.submit(first_bytes)
        wait_until(lambda: due, 'the first comment is due')
        loop = resource.channels.loop
        assert loop is not None
        loop.call_soon_threadsafe(resource.may_begin.set)
        assert reading.result(TIMEOUT_S).startswith(b'retry: ')
