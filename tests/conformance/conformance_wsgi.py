"""The echo on WSGI that the Autobahn TestSuite talks to."""

from __future__ import annotations

from falcon_channels.wsgi import App


class Echo:
    def on_websocket(self, req, ws):
        for message in ws:
            ws.send(message)


app = App()
app.add_route('/', Echo())
# Cases 9.* send 16 MiB in one message, and in fragments of 64 bytes.
app.ws_options.max_message_bytes = 16 * 1024 * 1024
app.ws_options.max_fragments = 1_000_000
app.ws_options.compression = True
