"""The ASGI echo application for the Autobahn TestSuite."""

from __future__ import annotations

import contextlib

import falcon
import falcon.asgi
from falcon.constants import WebSocketPayloadType
from falcon.media.base import BinaryBaseHandlerWS
from falcon.media.base import TextBaseHandlerWS


class Text(TextBaseHandlerWS):
    """Passes text through unchanged."""

    def serialize(self, media):
        return media

    def deserialize(self, payload):
        return payload


class Binary(BinaryBaseHandlerWS):
    """Passes bytes through unchanged."""

    def serialize(self, media):
        return media

    def deserialize(self, payload):
        return payload


class Echo:
    async def on_websocket(self, req, ws):
        await ws.accept()
        with contextlib.suppress(falcon.WebSocketDisconnected):
            while True:
                message = await ws.receive_media()
                if isinstance(message, str):
                    await ws.send_text(message)
                else:
                    await ws.send_data(message)


app = falcon.asgi.App()
app.ws_options.media_handlers[WebSocketPayloadType.TEXT] = Text()
app.ws_options.media_handlers[WebSocketPayloadType.BINARY] = Binary()
app.add_route('/', Echo())
