"""A hook that authenticates the user before a WebSocket is accepted.

    uvicorn examples.asgi_hook:app

For a Falcon hook a handshake is a request like any other. The hook raises an HTTP error
to refuse the handshake, or stores data for the responder in `req.context`.
"""

import falcon
import falcon.asgi

from falcon_channels import OriginCheck

SESSIONS = {'4f1c': 'alice', '9b2e': 'bob'}


async def require_user(req, ws, resource, params):
    """Set `req.context.user` from the session cookie, or refuse the handshake."""
    cookies = req.get_cookie_values('session') or ['']
    user = SESSIONS.get(cookies[0])
    if user is None:
        raise falcon.HTTPForbidden(description='Log in first')
    req.context.user = user


class Greeter:
    @falcon.before(require_user)
    async def on_websocket(self, req, ws):
        await ws.accept()
        await ws.send_text(f'Hello, {req.context.user}')
        while True:
            await ws.send_text(f'{req.context.user}: {await ws.receive_text()}')


# Browsers send cookies with every handshake, also with one from a page of another site.
# OriginCheck refuses those.
app = falcon.asgi.App(middleware=[OriginCheck()])
app.add_route('/', Greeter())
