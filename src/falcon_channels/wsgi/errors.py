"""The exception for the end of a WebSocket on WSGI."""

from __future__ import annotations

import falcon


class WebSocketError(falcon.WebSocketDisconnected):
    """The connection has ended: it was closed by one side, or it broke.

    Code written for Falcon catches `falcon.WebSocketDisconnected`; code written for
    gevent-websocket catches a ``WebSocketError``. This class is both.

    Attributes:
        code: Close code (RFC 6455 section 7.4): the client's, or ours if the close
            began here. 1005 if the client's close frame has no code, 1006 if the
            connection ended without a close frame.
        reason: Text that came with the code, or a description of the failure; may be
            empty.
    """

    def __init__(self, code: int, reason: str = '') -> None:
        super().__init__(code)
        self.reason = reason

    def __str__(self) -> str:
        suffix = f': {self.reason}' if self.reason else ''
        return f'WebSocket closed with code {self.code}{suffix}'
