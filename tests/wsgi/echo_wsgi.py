"""The app that the matrix serves under every server."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import importlib
import os
import threading

from falcon_channels.wsgi import App
from falcon_channels.wsgi import WebSocketError

outcomes: list[str] = []


def spawn(library: str, function, *args) -> object:
    """Run a function concurrently, in the kind of thread that runs requests."""
    if library == 'gevent':
        return importlib.import_module('gevent').spawn(function, *args)
    if library == 'eventlet':
        return importlib.import_module('eventlet').spawn(function, *args)
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def giving_up(how: str) -> Iterator[float | None]:
    """Interrupt the block after 0.3 s; yield the timeout that it has to use."""
    if how == 'timeout_s':
        with contextlib.suppress(TimeoutError):
            yield 0.3
    else:
        with importlib.import_module(how).Timeout(0.3, False):
            yield None


class Echo:
    def on_get(self, req, resp):
        resp.text = 'plain'

    def on_websocket(self, req, ws):
        for message in ws:
            ws.send(message)
        outcomes.append(f'{req.get_param("name")} {ws.close_code}')


class Closing:
    """Closes with a code and a reason at the first message."""

    def on_websocket(self, req, ws):
        ws.receive()
        ws.close(4002, 'enough')


class Twice:
    """Sends large and small messages from two threads or greenlets at once."""

    def on_websocket(self, req, ws):
        ws.accept()
        beside = spawn(req.get_param('library'), self._send, ws, 'b' * 70_000)
        self._send(ws, 'a')
        beside.wait() if hasattr(beside, 'wait') else beside.join()
        ws.receive()

    def _send(self, ws, text):
        for _ in range(100):
            ws.send_text(text)


class Interrupted:
    """Receives while a long message is sent, gives up once, and receives again."""

    def on_websocket(self, req, ws):
        ws.accept()
        message = bytes(req.get_param_as_int('size'))
        beside = spawn(req.get_param('library'), ws.send_data, message)
        with giving_up(req.get_param('give_up')) as timeout_s:
            ws.receive(timeout_s)
        os.write(2, req.get_param('marker').encode() + b'\n')  # to the server's log
        messages = [ws.receive(), ws.receive()]
        beside.wait() if hasattr(beside, 'wait') else beside.join()
        outcomes.append(' and '.join(messages))


class Flood:
    """Sends until the client does not read any more."""

    def on_websocket(self, req, ws):
        ws.accept()
        try:
            while True:
                ws.send_data(bytes(65_536))
        except WebSocketError as ex:
            outcomes.append(f'flood {ex.code}')


class Smuggled:
    """Counts requests that must never be served."""

    def __init__(self) -> None:
        self.count = 0

    def on_get(self, req, resp):
        resp.media = self.count

    def on_post(self, req, resp):
        self.count += 1


class Outcomes:
    """Returns how WebSockets have ended since the last request."""

    def on_get(self, req, resp):
        resp.media = list(outcomes)
        outcomes.clear()


app = App()
app.ws_options.send_timeout_s = float(os.environ.get('SEND_TIMEOUT_S', '30'))
app.add_route('/', Echo())
app.add_route('/closing', Closing())
app.add_route('/twice', Twice())
app.add_route('/flood', Flood())
app.add_route('/interrupted', Interrupted())
app.add_route('/outcomes', Outcomes())
app.add_route('/smuggled', Smuggled())
application = app
