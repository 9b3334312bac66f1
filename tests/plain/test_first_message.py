"""Messages that arrive between `ws.accept` and `Channels.serve`."""

from __future__ import annotations

from typing import Any

import falcon.asgi
import pytest
from server.running import running
from websockets.sync.client import connect

from falcon_channels import ChannelOptions
from falcon_channels import Channels


class Room:
    """A resource whose client says in its first message who it is."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def on_websocket(self, req: Any, ws: Any) -> None:
        await ws.accept()
        user = await ws.receive_text()
        await self._channels.serve(req, ws, 'room', user=user)


@pytest.mark.parametrize('max_receive_queue', [0, 1, 4])
def test_message_after_the_first_one_is_published(max_receive_queue: int) -> None:
    """No message is lost, whatever Falcon has received before `Channels.serve`."""
    channels = Channels()
    channels.add_route('room', None, ChannelOptions(publishers='anybody'))
    app = falcon.asgi.App(middleware=[channels])
    app.ws_options.max_receive_queue = max_receive_queue
    app.add_route('/', Room(channels))
    with running(app, lifespan='on') as server:
        with connect(f'{server.ws_url}/', proxy=None) as ws:
            for message in ('ann', 'one', 'two', 'three'):
                ws.send(message)
            assert ['one', 'two', 'three'] == [ws.recv(timeout=30) for _ in range(3)]
            ws.send('later')
            assert 'later' == ws.recv(timeout=30)
