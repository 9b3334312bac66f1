"""Encodes commands, and parses the answers of a server (RESP2).

With the package ``hiredis``, C code does both. Without it, this module does.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Protocol

from redis.exceptions import BusyLoadingError
from redis.exceptions import InvalidResponse
from redis.exceptions import MovedError
from redis.exceptions import NoScriptError
from redis.exceptions import ReadOnlyError
from redis.exceptions import RedisError
from redis.exceptions import ResponseError

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]

#: An argument of a command.
Argument = str | bytes | int

#: The result of `ReplyParser.gets` if no complete answer was fed.
INCOMPLETE = object()

#: The errors that the broker handles in different ways, by the first word of the
#: server's message. The class of `LOADING` is not a `ResponseError`: the connection is
#: useless until the server has loaded its data.
_ERRORS: dict[str, Callable[[str], RedisError]] = {
    'LOADING': BusyLoadingError,
    'MOVED': MovedError,
    'NOSCRIPT': NoScriptError,
    'READONLY': ReadOnlyError,
}


class ReplyParser(Protocol):
    """Parses a stream of bytes into answers."""

    def feed(self, data: bytes, /) -> object:
        """Add bytes that the server has sent."""

    def gets(self) -> Any:
        """Return the next answer, or `INCOMPLETE`.

        An answer is an integer, bytes, ``None``, a list, or an error of the server,
        which is returned and not raised.

        Raises:
            redis.exceptions.InvalidResponse: The bytes are not RESP2.
        """


def new_parser() -> ReplyParser:
    """Return a parser: that of hiredis, if it is installed."""
    if hiredis is None:
        return PythonParser()
    return hiredis.Reader(
        protocolError=InvalidResponse,
        replyError=server_error,
        notEnoughData=INCOMPLETE,
    )


def server_error(message: str) -> Exception:
    """Return the exception for an error message of the server."""
    code, _, rest = message.partition(' ')
    if code in _ERRORS:
        return _ERRORS[code](rest)
    if ' -READONLY ' in message:
        # NOTE: Redis 6.2 puts the error of a command of a script into its own text.
        return ReadOnlyError(message)
    return ResponseError(message)


class PythonParser:
    """A parser without C code.

    It never reads a byte twice: an unfinished array waits on a stack.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        #: Index of the first byte that is not parsed.
        self._start = 0
        #: Index up to which the buffer was searched for the end of the line.
        self._searched = 0
        #: The unfinished arrays, the innermost last: missing items, and the items.
        self._arrays: list[tuple[int, list[Any]]] = []

    def feed(self, data: bytes, /) -> None:
        """Add bytes that the server has sent."""
        del self._buffer[: self._start]
        self._searched -= self._start
        self._start = 0
        self._buffer += data

    def gets(self) -> Any:
        """Return the next answer, or `INCOMPLETE`; see `ReplyParser.gets`."""
        while True:
            item = self._next_item()
            if item is INCOMPLETE:
                return INCOMPLETE
            while self._arrays:
                missing, items = self._arrays.pop()
                items.append(item)
                if missing > 1:
                    self._arrays.append((missing - 1, items))
                    break
                item = items
            else:
                return item

    def _next_item(self) -> Any:
        """Return the next answer that is no array with items, or `INCOMPLETE`."""
        buffer = self._buffer
        while True:
            end = buffer.find(b'\r\n', max(self._start, self._searched))
            if end < 0:
                self._searched = max(self._start, len(buffer) - 1)
                return INCOMPLETE
            kind, line = buffer[self._start], bytes(buffer[self._start + 1 : end])
            if kind == 0x24:  # $
                return self._bulk(_integer(line), end + 2)
            self._start = end + 2
            if kind == 0x3A:  # :
                return _integer(line)
            if kind == 0x2B:  # +
                return line
            if kind == 0x2D:  # -
                return server_error(line.decode(errors='replace'))
            if kind != 0x2A:  # *
                raise InvalidResponse(f'an answer begins with the byte {kind}')
            count = _integer(line)
            if count < 0:
                return None
            if count == 0:
                return []
            self._arrays.append((count, []))

    def _bulk(self, size: int, begin: int) -> Any:
        """Return the text of a number of bytes that begins at an index."""
        if size < 0:
            self._start = begin
            return None
        if len(self._buffer) < begin + size + 2:
            return INCOMPLETE
        self._start = begin + size + 2
        return bytes(self._buffer[begin : begin + size])


def _integer(line: bytes) -> int:
    try:
        return int(line)
    except ValueError:
        raise InvalidResponse(f'{line[:20]!r} is not an integer') from None


def pack_in_python(arguments: Sequence[Argument]) -> bytes:
    """Encode a command: its name and its arguments."""
    parts = [b'*%d\r\n' % len(arguments)]
    for argument in arguments:
        if isinstance(argument, int):
            argument = b'%d' % argument
        elif isinstance(argument, str):
            argument = argument.encode()
        parts.append(b'$%d\r\n%b\r\n' % (len(argument), argument))
    return b''.join(parts)


#: Encode a command: a tuple of its name and its arguments.
# NOTE: the type of hiredis is that of a tuple with one item.
pack: Callable[[tuple[Argument, ...]], bytes] = (
    pack_in_python if hiredis is None else hiredis.pack_command  # type: ignore[assignment]
)
