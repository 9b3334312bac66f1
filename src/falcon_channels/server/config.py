"""uvicorn's configuration with our classes and logs."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
from typing import Any

from uvicorn.config import Config
from uvicorn.config import LOG_LEVELS
from uvicorn.config import STARTUP_FAILURE
from uvicorn.lifespan.on import LifespanOn

from falcon_channels.errors import ChannelsError
from falcon_channels.logs import json_log_config
from falcon_channels.server.app_loading import load_app
from falcon_channels.server.garbage_collection import run_collector_less_often
from falcon_channels.server.loggers import access_logger
from falcon_channels.server.loggers import print_library_logs
from falcon_channels.server.loggers import server_logger
from falcon_channels.server.options import ServerOptions
from falcon_channels.transports.asgi_extensions import MAX_MESSAGE_BYTES
from falcon_channels.transports.asgi_extensions import START_ERROR
from falcon_channels.transports.server_process import announce_workers

_WS = 'falcon_channels.server.protocol:WebSocketProtocol'
_HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'


class ChannelsConfig(Config):
    """uvicorn's configuration, with `server_options`; it also prepares the app.

    Args:
        args: Positional arguments of uvicorn's configuration.
        server_options: Limits of the WebSocket class; the defaults if ``None``.
        log_json: Whether to print all records as JSON, one object a line.
        factory: Whether the application is a function that returns it.
        kwargs: Keyword arguments of uvicorn's configuration.
    """

    def __init__(
        self,
        *args: Any,
        server_options: ServerOptions | None = None,
        log_json: bool = False,
        factory: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault('ws', _WS)
        kwargs.setdefault('http', _HTTP)
        self.server_options = server_options or ServerOptions()
        self.log_json = log_json
        # NOTE: uvicorn does not see this option, because `load_app` calls the factory.
        self._is_factory = factory
        if log_json:
            level = _level_number(kwargs.get('log_level'))
            kwargs['log_config'] = json_log_config(level)
        super().__init__(*args, **kwargs)

    def configure_logging(self) -> None:
        """Set up logging: uvicorn's without query strings, Falcon's and ours.

        NOTE: with `log_json`, warnings of Python become records, too.
        """
        super().configure_logging()
        access_logger.addFilter(hide_query_string)
        if self.log_json:
            logging.captureWarnings(True)
        elif self.log_config is not None:
            print_library_logs(_level_number(self.log_level))

    def load(self) -> None:
        """Load the application, or end this process.

        NOTE: An application that cannot be loaded ends a worker in the same way as a
        failed start does. uvicorn would otherwise start the worker again and again.
        """
        if self.workers > 1 and multiprocessing.parent_process() is not None:
            # NOTE: SIGHUP may reach all processes (`systemctl kill`, a terminal that is
            # closed). Workers ignore it, because the parent replaces them: they drain.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        announce_workers(self.workers)
        try:
            super().load()
        except ChannelsError as ex:
            server_logger.error('Error loading ASGI app: %s', ex)
            sys.exit(STARTUP_FAILURE)
        except Exception:
            server_logger.exception('Error loading ASGI app')
            sys.exit(STARTUP_FAILURE)
        run_collector_less_often()
        if self.lifespan_class is LifespanOn:
            self.lifespan_class = ChannelsLifespan

    def load_app(self) -> Any:
        """Import the application, and prepare it; see `app_loading`.

        Raises:
            OptionsError: There is no application of this name.
        """
        return load_app(self.app, self.root_path, factory=self._is_factory)


def _level_number(level: str | int | None) -> int:
    """Return the number of a level in uvicorn's configuration."""
    if isinstance(level, str):
        return LOG_LEVELS[level.lower()]
    return logging.INFO if level is None else level


class ChannelsLifespan(LifespanOn):
    """uvicorn's side of the lifespan; it logs the reason of a failed start."""

    #: Whether the application is told that the server has stopped.
    stopping = False

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.state[MAX_MESSAGE_BYTES] = config.ws_max_size

    async def shutdown(self) -> None:
        """Wait until the application has stopped."""
        self.stopping = True
        await super().shutdown()

    async def send(self, message: Any) -> None:
        """Process an event of the application."""
        if message['type'] == 'lifespan.startup.failed' and START_ERROR in self.state:
            message = {**message, 'message': self.state[START_ERROR]}
        await super().send(message)


def hide_query_string(record: logging.LogRecord) -> bool:
    """Remove the query string from an access log line (a `logging` filter).

    SECURITY: Browsers cannot send headers with EventSource or WebSocket, so the query
    strings of both carry tokens.
    """
    args = record.args
    if isinstance(args, tuple) and len(args) == 5 and isinstance(args[2], str):
        path, mark, _ = args[2].partition('?')
        if mark:
            record.args = (*args[:2], f'{path}?[redacted]', *args[3:])
    return True
