"""The one exception that the end of a WebSocket is, on WSGI."""

from __future__ import annotations

import falcon


class WebSocketError(falcon.WebSocketDisconnected):
    """The connection is over: the client left, or it was closed here, or it broke.

    Code written for Falcon catches `falcon.WebSocketDisconnected`, code written for
    gevent-websocket catches a ``WebSocketError``; this is both.

    Attributes:
        code: The close code (RFC 6455 section 7.4): the client's, or ours if we began
            to close; 1005 if the client gave none, 1006 if it vanished without a close.
        reason: The text that came with the code, or what went wrong; may be empty.
    """

    def __init__(self, code: int, reason: str = '') -> None:
        super().__init__(code)
        self.reason = reason

    def __str__(self) -> str:
        suffix = f': {self.reason}' if self.reason else ''
        return f'WebSocket closed with code {self.code}{suffix}'
