"""The WSGI echo application for the Autobahn TestSuite."""

from __future__ import annotations

from falcon_channels.wsgi import App


class Echo:
    def on_websocket(self, req, ws):
        for message in ws:
            ws.send(message)


app = App()
app.add_route('/', Echo())
# The cases 9.* send messages of 16 MiB, also in fragments of 64 bytes.
app.ws_options.max_message_bytes = 16 * 1024 * 1024
app.ws_options.max_fragments = 1_000_000
app.ws_options.compression = True
