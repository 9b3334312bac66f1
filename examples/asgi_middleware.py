"""Middleware that processes every WebSocket handshake of an app.

    uvicorn examples.asgi_middleware:app

`process_request_ws` runs before routing, `process_resource_ws` after it. To refuse a
handshake, raise an HTTP error. Closing the WebSocket does not stop the responder.
"""

import falcon
import falcon.asgi

SESSIONS = {'4f1c': 'alice', '9b2e': 'bob'}
ROOMS = {'alice': {'garden', 'kitchen'}, 'bob': {'kitchen'}}


class Authentication:
    async def process_request_ws(self, req, ws):
        """Set `req.context.user` from a bearer token, or refuse the handshake."""
        token = req.get_header('Authorization', default='').removeprefix('Bearer ')
        user = SESSIONS.get(token)
        if user is None:
            raise falcon.HTTPUnauthorized(description='A bearer token is required')
        req.context.user = user


class Membership:
    async def process_resource_ws(self, req, ws, resource, params):
        """Refuse users who are not members of the room, for all resources."""
        if 'room' in params and params['room'] not in ROOMS[req.context.user]:
            raise falcon.HTTPForbidden(description='You are not a member of this room')


class Room:
    async def on_websocket(self, req, ws, room):
        await ws.accept()
        await ws.send_text(f'{req.context.user} is in the {room}')
        while True:
            await ws.send_text(f'{req.context.user}: {await ws.receive_text()}')


app = falcon.asgi.App(middleware=[Authentication(), Membership()])
app.add_route('/rooms/{room}', Room())
