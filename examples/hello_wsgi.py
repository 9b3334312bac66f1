"""A page and its WebSocket, on WSGI: what you send comes back.

make run-wsgi
gunicorn --worker-class gevent examples.hello_wsgi:app
"""

from pathlib import Path

import falcon
import jinja2

from falcon_channels.wsgi import App
from falcon_channels.wsgi import WebSocketError

HERE = Path(__file__).resolve().parent
# Scripts and styles come from files of this site, and text stays text.
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
                    ws.close(1003, 'This WebSocket takes text only')
                ws.send(f'Message text was: {message}')
            except WebSocketError:
                break  # the client left


class Page:
    def __init__(self):
        loader = jinja2.FileSystemLoader(HERE / 'templates')
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
app.add_static_route('/static', HERE / 'static')
