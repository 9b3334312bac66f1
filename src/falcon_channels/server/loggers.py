"""Loggers of the server classes, and how ``falcon-channels serve`` prints them."""

from __future__ import annotations

from collections.abc import Iterator
import logging
import re

from falcon_channels.websocket.quiet_logger import quiet_logger

#: Logger of the protocol core.
core_logger = quiet_logger('falcon_channels.server.websockets')

#: uvicorn's logger for errors and for the life of the server.
server_logger = logging.getLogger('uvicorn.error')

#: uvicorn's logger for requests.
access_logger = logging.getLogger('uvicorn.access')

#: uvicorn's logger for ASGI messages, at TRACE.
message_logger = logging.getLogger('uvicorn.asgi')

#: Logger of the events of ordinary operation.
event_logger = logging.getLogger('falcon_channels.events')

#: Loggers whose records ``falcon-channels serve`` prints with time, level and name.
#: uvicorn configures its own loggers.
_PRINTED = ('falcon', 'falcon_channels', 'falcon_channels_chat')
_FORMAT = '%(asctime)s %(levelname)s %(name)s: %(message)s'


class _DefaultHandler(logging.StreamHandler):  # type: ignore[type-arg] # not generic at runtime
    """Prints records to stderr, unless the application has configured handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record that no other handler gets."""
        if all(handler is self for handler in _handlers(record.name)):
            super().emit(record)


def _handlers(name: str) -> Iterator[logging.Handler]:
    """Yield the handlers that get the records of a logger."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


def print_library_logs(level: int) -> None:
    """Print records of Falcon and of this package with time, level and name.

    NOTE: the application is loaded later. It can set another level. If it adds handlers
    to these loggers or to the root logger, only its handlers print the records.
    Events of ordinary operation are printed at DEBUG only.

    Args:
        level: Lowest level that is printed, also below WARNING, Python's default.
    """
    # PERF: each connection causes at least two of these lines. One costs 15 us, and a
    #   new connection 240 us (benchmarks/connections.py).
    event_logger.setLevel(level if level <= logging.DEBUG else logging.WARNING)
    handler = _DefaultHandler()
    for name in _PRINTED:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        for earlier in list(logger.handlers):
            if isinstance(earlier, _DefaultHandler):
                logger.removeHandler(earlier)
        logger.addHandler(handler)


def log_refusal(client: tuple[str, int] | None, status: int, text: str) -> None:
    """Log that a request was refused before the application was called.

    Args:
        client: Address of the peer, or ``None`` for a UNIX socket.
        status: HTTP status of the answer.
        text: The reason, without text of the client.
    """
    address = f'{client[0]}:{client[1]}' if client else 'a UNIX socket'
    server_logger.info('refused a request of %s with %d: %s', address, status, text)


def hide_query_of_scope(record: logging.LogRecord) -> bool:
    """Remove the query string from a scope in a line at TRACE (a `logging` filter).

    SECURITY: uvicorn removes headers and bodies from these lines, but not the query
    string, which can carry a token.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(
            {**value, 'query_string': b'[redacted]'}
            if isinstance(value, dict) and value.get('query_string')
            else value
            for value in record.args
        )
    return True


_UNSAFE = re.compile(r'[^!#-\[\]-~]')


def escape_arguments(record: logging.LogRecord) -> bool:
    """Escape the text in an access log line (a `logging` filter).

    SECURITY: a trusted proxy may pass on the `X-Forwarded-For` of its client. Its value
    becomes the address. Spaces, quotes and control characters could forge log lines, or
    control the terminal of a person who reads the log.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(
            _UNSAFE.sub(_escape, value) if isinstance(value, str) else value
            for value in record.args
        )
    return True


def _escape(match: re.Match[str]) -> str:
    return (
        match[0].encode('unicode-escape').decode()
        if match[0] > '~'
        else (f'\\x{ord(match[0]):02x}')
    )


access_logger.addFilter(escape_arguments)
message_logger.addFilter(hide_query_of_scope)
