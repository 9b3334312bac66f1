"""A room over the direct extension: one frame for all, one write per loop turn."""

from __future__ import annotations

import asyncio
import contextlib

import falcon
import falcon.asgi

from benchmarks.apps.by_hand import Echo
from falcon_channels.transports.asgi_extensions import server_websocket


class Member:
    """Receives for a subscriber, who has nothing to say."""

    __slots__ = ('members', 'transport')

    def __init__(self, members, transport):
        self.members = members
        self.transport = transport

    def on_message(self, message):
        pass

    def on_writable(self):
        pass

    def on_closed(self, code, reason):
        self.members.discard(self.transport)


class Room:
    """Frames a message once and writes it to each subscriber's socket."""

    def __init__(self):
        self.members = set()
        self.pending = []

    async def on_websocket(self, req, ws):
        await ws.accept()
        transport = server_websocket(req.scope)
        transport.attach(Member(self.members, transport))
        self.members.add(transport)

    async def on_websocket_publish(self, req, ws):
        await ws.accept()
        loop = asyncio.get_running_loop()
        with contextlib.suppress(falcon.WebSocketDisconnected):
            while True:
                text = await ws.receive_text()
                if not self.pending:
                    loop.call_soon(self.flush)
                self.pending.append(text.encode())

    def flush(self):
        payloads, self.pending = self.pending, []
        blobs = {}
        for transport in self.members:
            framing = transport.framing
            blob = blobs.get(framing)
            if blob is None:
                blob = blobs[framing] = framing.frame(payloads, binary=False)
            transport.write(blob)


app = falcon.asgi.App()
room = Room()
app.add_route('/echo', Echo())
app.add_route('/sub', room)
app.add_route('/pub', room, suffix='publish')
