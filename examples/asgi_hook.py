"""A hook that decides who may open a WebSocket, before it is accepted.

    uvicorn examples.asgi_hook:app

With Falcon's hooks a handshake is a request like any other: raise an HTTP error to
refuse it, or leave in `req.context` what the responder needs to know.
"""

import falcon
import falcon.asgi

from falcon_channels import OriginCheck

SESSIONS = {'4f1c': 'alice', '9b2e': 'bob'}


async def need_user(req, ws, resource, params):
    """Put the user of the session cookie in `req.context`, or refuse."""
    cookies = req.get_cookie_values('session') or ['']
    user = SESSIONS.get(cookies[0])
    if user is None:
        raise falcon.HTTPForbidden(description='Log in first')
    req.context.user = user


class Greeter:
    @falcon.before(need_user)
    async def on_websocket(self, req, ws):
        await ws.accept()
        await ws.send_text(f'Hello, {req.context.user}')
        while True:
            await ws.send_text(f'{req.context.user}: {await ws.receive_text()}')


# Browsers send cookies with every handshake, so check where it comes from, too.
app = falcon.asgi.App(middleware=[OriginCheck()])
app.add_route('/', Greeter())
