"""Code without this library: an echo, and a room with a loop over its members."""

from __future__ import annotations

import asyncio
import contextlib

import falcon
import falcon.asgi


class Echo:
    """Sends each message back."""

    async def on_websocket(self, req, ws):
        await ws.accept()
        with contextlib.suppress(falcon.WebSocketDisconnected):
            while True:
                await ws.send_text(await ws.receive_text())


class Events:
    """Begins an event stream that is idle from then on."""

    async def on_get(self, req, resp):
        async def body():
            yield b'retry: 3000\n\n'
            await asyncio.Event().wait()

        resp.content_type = 'text/event-stream'
        resp.stream = body()


class Room:
    """Sends what publishers say to every subscriber."""

    def __init__(self):
        self.members = set()

    async def on_websocket(self, req, ws):
        await ws.accept()
        self.members.add(ws)
        try:
            while True:
                await ws.receive_text()
        except falcon.WebSocketDisconnected:
            pass
        finally:
            self.members.discard(ws)

    async def on_websocket_publish(self, req, ws):
        await ws.accept()
        with contextlib.suppress(falcon.WebSocketDisconnected):
            while True:
                text = await ws.receive_text()
                for member in list(self.members):
                    await member.send_text(text)


class Rooms:
    """The same with rooms; what a publisher says begins with a room's number."""

    def __init__(self):
        self.members = {}

    async def on_websocket(self, req, ws, room):
        await ws.accept()
        members = self.members.setdefault(room, set())
        members.add(ws)
        try:
            while True:
                await ws.receive_text()
        except falcon.WebSocketDisconnected:
            pass
        finally:
            members.discard(ws)

    async def on_websocket_publish(self, req, ws):
        await ws.accept()
        with contextlib.suppress(falcon.WebSocketDisconnected):
            while True:
                text = await ws.receive_text()
                room = text.partition('@')[0]
                for member in list(self.members.get(room, ())):
                    await member.send_text(text)


app = falcon.asgi.App()
room = Room()
app.add_route('/echo', Echo())
app.add_route('/events', Events())
app.add_route('/sub', room)
app.add_route('/pub', room, suffix='publish')
rooms = Rooms()
app.add_route('/sub/{room}', rooms)
app.add_route('/pub-room', rooms, suffix='publish')
