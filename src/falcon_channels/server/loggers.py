"""Loggers of the server classes, and how ``falcon-channels serve`` prints them."""

from __future__ import annotations

from collections.abc import Iterator
import logging

#: Logger of the protocol core.
#: SECURITY: At DEBUG the core logs headers and payloads, which hold secrets. It
#: therefore has a logger of its own, which logs warnings and errors only.
core_logger = logging.getLogger('falcon_channels.server.websockets')
core_logger.setLevel(logging.WARNING)

#: uvicorn's logger for errors and for the life of the server.
server_logger = logging.getLogger('uvicorn.error')

#: uvicorn's logger for requests.
access_logger = logging.getLogger('uvicorn.access')

#: Loggers that ``falcon-channels serve`` prints with time, level and name. uvicorn
#: configures its own loggers.
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
    """Print the loggers of Falcon and of this package with time, level and name.

    NOTE: the application is loaded later. It can set another level, or add handlers to
    these loggers or to the root logger. Only its handlers then print the records.

    Args:
        level: Lowest level that is printed, also below WARNING, Python's default.
    """
    handler = _DefaultHandler()
    for name in _PRINTED:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        for earlier in list(logger.handlers):
            if isinstance(earlier, _DefaultHandler):
                logger.removeHandler(earlier)
        logger.addHandler(handler)
