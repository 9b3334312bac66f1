"""A page with an echo WebSocket, on WSGI.

make run-wsgi
gunicorn --worker-class gevent examples.hello_wsgi:app
"""

from pathlib import Path

import falcon
import jinja2

from falcon_channels.wsgi import App
from falcon_channels.wsgi import WebSocketError

FOLDER = Path(__file__).resolve().parent
# The browser loads scripts and styles only from files of this site, and runs no inline
# script.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Echo:
    def on_get(self, req, resp):
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = 'This endpoint is for Websockets only.'

    def on_websocket(self, req, ws):
        while True:
            try:
                message = ws.receive()
                if isinstance(message, bytes):
                    ws.close(1003, 'This WebSocket accepts text only')
                ws.send(f'Message text was: {message}')
            except WebSocketError:
                break  # the client has disconnected


class Page:
    def __init__(self):
        loader = jinja2.FileSystemLoader(FOLDER / 'templates')
        environment = jinja2.Environment(loader=loader, autoescape=True)
        self._page = environment.get_template('hello.html')

    def on_get(self, req, resp):
        resp.content_type = falcon.MEDIA_HTML
        resp.set_header('Content-Security-Policy', CONTENT_SECURITY_POLICY)
        resp.set_header('X-Content-Type-Options', 'nosniff')
        resp.text = self._page.render(title='WebSocket Chat', path='/')


app = App()
app.add_route('/', Echo())
app.add_route('/hello', Page())
app.add_static_route('/static', FOLDER / 'static')
