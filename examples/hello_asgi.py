"""A page with an echo WebSocket, on ASGI.

`make run` serves it at /hello, together with the chat. Three ways to start it alone:

    python -m examples.hello_asgi
    uvicorn examples.hello_asgi:app --reload
    python examples/hello_asgi.py --port 8000
"""

from argparse import ArgumentParser
from pathlib import Path

import falcon
import falcon.asgi
import jinja2
import uvicorn

from falcon_channels import OriginCheck

FOLDER = Path(__file__).resolve().parent
MAX_TEXT_BYTES = 1024 * 1024
# The browser loads scripts and styles only from files of this site, and runs no inline
# script.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Hello:
    def __init__(self):
        loader = jinja2.FileSystemLoader(FOLDER / 'templates')
        self._page = jinja2.Environment(loader=loader, autoescape=True).get_template(
            'hello.html'
        )

    async def on_get(self, req, resp):
        resp.content_type = falcon.MEDIA_HTML
        resp.set_header('Content-Security-Policy', CONTENT_SECURITY_POLICY)
        resp.set_header('X-Content-Type-Options', 'nosniff')
        resp.text = self._page.render(title='WebSocket Chat', path='/hello')

    async def on_websocket(self, req, ws):
        # When the client disconnects, the next call raises WebSocketDisconnected. That
        # ends the responder, and Falcon does not treat it as an error.
        await ws.accept()
        while True:
            try:
                data = await ws.receive_text()
            except falcon.PayloadTypeError:
                await ws.close(1003, 'This WebSocket accepts text only')
                return
            if len(data.encode()) > MAX_TEXT_BYTES:
                await ws.close(1009, f'Text exceeds {MAX_TEXT_BYTES} bytes')
                return
            await ws.send_text(f'Message text was: {data}')


class Home:
    async def on_get(self, req, resp):
        raise falcon.HTTPTemporaryRedirect('/hello')


hello = Hello()

app = falcon.asgi.App(middleware=[OriginCheck()])
app.add_route('/', Home())
app.add_route('/hello', hello)
app.add_route('/ws', hello)
app.add_static_route('/static', FOLDER / 'static')


def main():
    parser = ArgumentParser(description='Serve a page with an echo WebSocket.')
    parser.add_argument('--host', default='127.0.0.1')
    parser.add_argument('--port', type=int, default=8000)
    args = parser.parse_args()
    host = 'localhost' if args.host in ('127.0.0.1', '0.0.0.0', '::') else args.host
    print(f'Page:      http://{host}:{args.port}/hello')
    print(f'WebSocket: ws://{host}:{args.port}/hello', flush=True)
    uvicorn.run(
        app,
        host=args.host,
        port=args.port,
        # These classes are faster and safer than uvicorn's own: see docs/security.md.
        ws='falcon_channels.server.protocol:WebSocketProtocol',
        http='falcon_channels.server.http:BoundedHttpProtocol',
        ws_max_size=MAX_TEXT_BYTES,
        timeout_graceful_shutdown=5,
    )


if __name__ == '__main__':
    main()
