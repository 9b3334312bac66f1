"""The output of one HTTP response, between uvicorn and the transport."""

from __future__ import annotations

import asyncio

from falcon_channels.server.context import ServerContext

#: Maximum number of parts gathered in one event-loop iteration, and size of each.
_MAX_PARTS = 64
_MAX_PART_BYTES = 4096


class ResponseOutput:
    """Writes the parts of a response from one event-loop iteration together.

    It has the methods of a transport that uvicorn calls for a response.

    PERF: uvicorn writes the head and the body with two calls. One system call for both
    saves a tenth of a small response (benchmarks/centrifugo.py).

    Args:
        transport: Transport of the connection.
        context: Context of the server.
    """

    __slots__ = ('_context', '_parts', '_transport')

    def __init__(self, transport: asyncio.Transport, context: ServerContext) -> None:
        self._transport = transport
        self._context = context
        #: Parts of this iteration, in order; ``None`` if there are none.
        self._parts: list[bytes] | None = None

    def write(self, part: bytes) -> None:
        """Write a part at the end of the event-loop iteration, or earlier."""
        parts = self._parts
        if parts is None:
            parts = self._parts = []
            self._context.flush_soon(self)
        parts.append(part)
        if len(part) > _MAX_PART_BYTES or len(parts) >= _MAX_PARTS:
            self.flush()

    def flush(self) -> None:
        """Write the gathered parts now."""
        parts, self._parts = self._parts, None
        # NOTE: uvloop raises an error after the end of the connection.
        if parts is not None and not self._transport.is_closing():
            self._transport.write(b''.join(parts))

    def close(self) -> None:
        """Close the transport after the gathered parts."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the transport is closed, or closes after its output."""
        return self._transport.is_closing()
