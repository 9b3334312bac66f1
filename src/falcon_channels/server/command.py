"""``falcon-channels serve``: uvicorn with the protocol class and a graceful stop."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from collections.abc import Generator
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import ssl
import sys
import threading
import time
from types import FrameType
from typing import Any

import falcon
import falcon.asgi
from uvicorn.config import Config
from uvicorn.config import LOG_LEVELS
from uvicorn.config import STARTUP_FAILURE
from uvicorn.lifespan.on import LifespanOn
from uvicorn.server import Server
from uvicorn.supervisors import ChangeReload
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from falcon_channels.errors import ChannelsError
from falcon_channels.errors import OptionsError
from falcon_channels.server.options import ServerOptions
from falcon_channels.transports.asgi_extensions import START_ERROR
from falcon_channels.transports.asgi_extensions import WORKERS

_logger = logging.getLogger('uvicorn.error')

_WS = 'falcon_channels.server.protocol:WebSocketProtocol'
_HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'

#: How long after a worker could not start another one is.
_AGAIN_S = 2

#: What Falcon starts with; another value was chosen by the application.
_FALCON_RECEIVE_QUEUE = 4


class ChannelsConfig(Config):
    """uvicorn's configuration, with `server_options` and the app made ready.

    Args:
        server_options: Limits of the WebSocket class.
        args: As uvicorn's, and the same keywords.
    """

    def __init__(
        self, *args: Any, server_options: ServerOptions | None = None, **kwargs: Any
    ) -> None:
        kwargs.setdefault('ws', _WS)
        kwargs.setdefault('http', _HTTP)
        self.server_options = server_options or ServerOptions()
        super().__init__(*args, **kwargs)

    def configure_logging(self) -> None:
        """Set up uvicorn's logging, with query strings left out."""
        super().configure_logging()
        logging.getLogger('uvicorn.access').addFilter(hide_query_string)

    def load(self) -> None:
        """Load what the configuration names, or end this process.

        NOTE: what no import can mend ends workers as a failed start does: uvicorn would
        start them again and again.
        """
        if self.workers > 1 and multiprocessing.parent_process() is not None:
            # NOTE: a hangup may reach all processes (`systemctl kill`, a terminal that
            #   is closed). The parent replaces the workers then, which drain.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            super().load()
        except ChannelsError as ex:
            _logger.error('Error loading ASGI app: %s', ex)
            sys.exit(STARTUP_FAILURE)
        except Exception:
            _logger.exception('Error loading ASGI app')
            sys.exit(STARTUP_FAILURE)
        if self.lifespan_class is LifespanOn:
            self.lifespan_class = ChannelsLifespan

    def load_app(self) -> Any:
        """Import the application and switch off what this server makes needless."""
        app = super().load_app()
        if isinstance(app, falcon.App) and not isinstance(app, falcon.asgi.App):
            raise OptionsError(
                f'{self.app} is a WSGI app ({type(app).__name__}), and this is an ASGI '
                'server: make it a falcon.asgi.App, or serve it with gunicorn or '
                'another WSGI server (docs/wsgi.md)'
            )
        if self.factory and callable(app):
            return _FactoryWithoutReceiveQueue(app)
        drop_receive_queue(app)
        return app


class ChannelsLifespan(LifespanOn):
    """uvicorn's side of the lifespan; a start that failed is told in words."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.state[WORKERS] = config.workers

    async def send(self, message: Any) -> None:
        """Take an event of the application."""
        if message['type'] == 'lifespan.startup.failed' and START_ERROR in self.state:
            message = {**message, 'message': self.state[START_ERROR]}
        await super().send(message)


def hide_query_string(record: logging.LogRecord) -> bool:
    """Leave the query string out of an access log line (a `logging` filter).

    SECURITY: EventSource, like WebSocket, cannot send headers: tokens are in the query
    strings of both.
    """
    args = record.args
    if isinstance(args, tuple) and len(args) == 5 and isinstance(args[2], str):
        path, mark, _ = args[2].partition('?')
        if mark:
            record.args = (*args[:2], f'{path}?[redacted]', *args[3:])
    return True


class _FactoryWithoutReceiveQueue:
    def __init__(self, factory: Callable[[], Any]) -> None:
        self._factory = factory

    def __call__(self) -> Any:
        app = self._factory()
        drop_receive_queue(app)
        return app


def drop_receive_queue(app: object) -> None:
    """Let a Falcon app receive from the server without a task in between.

    Falcon pumps messages through a queue so that a handler that only sends learns that
    the client has gone; its documentation advises ``max_receive_queue = 0`` where the
    server raises on a send to such a client, as this one does. A value that the
    application has chosen stays.

    PERF: half of the cost of an echo (benchmarks/echo.py).
    """
    if (
        isinstance(app, falcon.asgi.App)
        and app.ws_options.max_receive_queue == _FALCON_RECEIVE_QUEUE
    ):
        app.ws_options.max_receive_queue = 0


class ChannelsServer(Server):
    """uvicorn's server: a first signal stops it gracefully, a second one at once."""

    _first_signal: int | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take SIGHUP, too, for as long as the server runs.

        NOTE: a service manager that reloads, or a terminal that is closed, would end
        the process without a drain. Who asked to be left alone (``nohup``) is.
        """
        elsewhere = threading.current_thread() is not threading.main_thread()
        with super().capture_signals():
            if elsewhere or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
                yield
                return
            before = signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal.

        NOTE: Ctrl-C reaches a worker twice, as SIGINT from the terminal and as SIGTERM
        from its parent: there only the same signal again is a second one.
        """
        if self.should_exit and (
            not self.config.use_subprocess or sig == self._first_signal
        ):
            self.force_exit = True
            # A third one need not be handled by anybody.
            signal.signal(sig, signal.SIG_DFL)
        if not self.should_exit:
            self._first_signal = sig
        self.should_exit = True


class Workers(Multiprocess):
    """uvicorn's worker processes; a second signal ends them at once.

    Attributes:
        failed: Whether they have ended because none of them could start.
    """

    failed = False
    #: Whether one of them has been ready: what cannot start from then on may do later.
    _served = False

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        #: When to replace a worker that could not start, by its place.
        self._due_s: dict[int, float] = {}

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have ended.

        NOTE: uvicorn ends all where one that replaces another cannot start, as while
        the broker is away. But those that live keep their connections meanwhile.
        """
        for index, process in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            # NOTE: by a signal, another one may have come to its place.
            due_s = None if process.exitcode is None else self._due_s.get(index)
            if due_s is None:
                if process.is_alive(self.config.timeout_worker_healthcheck):
                    self._served = self._served or process.is_ready()
                    continue
                process.kill()  # one that hangs, too
                process.join()
                if process.exitcode == STARTUP_FAILURE:
                    self._put_off(index)
                    continue
                _logger.info('Child process [%s] died', process.pid)
            elif time.monotonic() < due_s:
                continue
            self._due_s.pop(index, None)
            self.processes[index] = Process(self.config, self.sockets)
            self.processes[index].start()

    def _put_off(self, index: int) -> None:
        """Try a worker again that could not start, or give up."""
        pid = self.processes[index].pid
        if self._served and any(item.process.is_alive() for item in self.processes):
            self._due_s[index] = time.monotonic() + _AGAIN_S
            _logger.error(
                'Child process [%s] failed to start; again in %d s', pid, _AGAIN_S
            )
            return
        _logger.error(
            'Child process [%s] failed to start, stopping the parent process.', pid
        )
        self.failed = True
        self.should_exit.set()

    def handle_int(self) -> None:
        """Stop, or end at once."""
        self._stop()

    def handle_term(self) -> None:
        """Stop, or end at once."""
        self._stop()

    def _stop(self) -> None:
        if self.should_exit.is_set():
            for process in self.processes:
                process.process.kill()
        self.should_exit.set()

    def join_all(self) -> None:
        """Wait for the workers, and for a second signal."""
        while any(process.process.is_alive() for process in self.processes):
            time.sleep(0.05)
            self.handle_signals()
        super().join_all()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('app', help='module:attribute of the ASGI application')
    parser.add_argument('--factory', action='store_true', help='call it to get the app')
    parser.add_argument('--app-dir', default='.', help='where to import it from')
    place = parser.add_argument_group('where to listen')
    place.add_argument('--host', default='127.0.0.1', help='address')
    place.add_argument(
        '--port', type=_port, default=8000, help='TCP port; 0: a free one'
    )
    place.add_argument('--uds', metavar='PATH', help='a UNIX socket instead')
    place.add_argument('--root-path', default='', help='path prefix of the app')
    place.add_argument(
        '--forwarded-allow-ips',
        metavar='LIST',
        help='proxies whose X-Forwarded-* headers are believed (127.0.0.1,::1)',
    )
    process = parser.add_argument_group('processes')
    process.add_argument('--workers', type=_positive, default=1, help='processes')
    process.add_argument('--reload', action='store_true', help='restart on changes')
    process.add_argument(
        '--drain-timeout',
        type=_seconds,
        default=ServerOptions().drain_timeout_s,
        metavar='SECONDS',
        help='longest time to close all connections in when stopped',
    )
    process.add_argument(
        '--stop-timeout',
        type=_positive,
        default=60,
        metavar='SECONDS',
        help='longest time for the whole stop, requests included',
    )
    tls = parser.add_argument_group('TLS')
    tls.add_argument('--ssl-certfile', metavar='PATH')
    tls.add_argument('--ssl-keyfile', metavar='PATH')
    tls.add_argument('--ssl-ca-certs', metavar='PATH')
    tls.add_argument('--ssl-verify-client', action='store_true')
    ws = parser.add_argument_group('WebSockets')
    ws.add_argument(
        '--ws-max-size', type=_positive, default=1024 * 1024, help='bytes of a message'
    )
    ws.add_argument('--ws-max-fragments', type=_positive, default=1024)
    ws.add_argument(
        '--ws-ping-interval', type=_seconds, default=25.0, help='seconds; 0: no pings'
    )
    ws.add_argument('--ws-ping-timeout', type=_seconds, default=10.0, help='seconds')
    ws.add_argument(
        '--ws-deflate', action='store_true', help='negotiate permessage-deflate'
    )
    ws.add_argument(
        '--ws-max-per-peer', type=_positive, help='connections from one address'
    )
    ws.add_argument(
        '--ws-first-message-timeout',
        type=_seconds,
        metavar='SECONDS',
        help='longest silence after the accept; without it, none is too long',
    )
    parser.add_argument('--limit-concurrency', type=_positive, help='connections')
    parser.add_argument('--log-level', choices=sorted(LOG_LEVELS), default='info')
    parser.add_argument('--no-access-log', action='store_true')


def serve(args: argparse.Namespace) -> int:
    """Serve until stopped; return the exit code."""
    if args.workers > 1 and args.reload:
        print('--workers and --reload exclude each other', file=sys.stderr)  # noqa: T201 - a command talks to its user
        return 2
    if args.ssl_certfile:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                args.ssl_certfile, args.ssl_keyfile
            )
        except OSError as ex:  # ssl.SSLError is one, too
            print(f'the certificate or its key is no good: {ex}', file=sys.stderr)  # noqa: T201 - a command talks to its user
            return 2
    sys.path.insert(0, args.app_dir)
    config = _config(args)
    server = ChannelsServer(config)
    try:
        if config.should_reload:
            ChangeReload(config, server.run, [config.bind_socket()]).run()
        elif config.workers > 1:
            workers = Workers(config, [config.bind_socket()])
            workers.run()
            return STARTUP_FAILURE if workers.failed else 0
        else:
            server.run()
            return 0 if server.started else STARTUP_FAILURE
    finally:
        if config.uds and os.path.exists(config.uds):
            os.remove(config.uds)
    return 0


def _config(args: argparse.Namespace) -> ChannelsConfig:
    return ChannelsConfig(
        args.app,
        server_options=ServerOptions(
            deflate=args.ws_deflate,
            drain_timeout_s=args.drain_timeout,
            max_fragments=args.ws_max_fragments,
            max_connections_per_peer=args.ws_max_per_peer,
            first_message_timeout_s=args.ws_first_message_timeout,
        ),
        factory=args.factory,
        host=args.host,
        port=args.port,
        uds=args.uds,
        root_path=args.root_path,
        forwarded_allow_ips=args.forwarded_allow_ips,
        workers=args.workers,
        reload=args.reload,
        timeout_graceful_shutdown=args.stop_timeout,
        ssl_certfile=args.ssl_certfile,
        ssl_keyfile=args.ssl_keyfile,
        ssl_ca_certs=args.ssl_ca_certs,
        ssl_cert_reqs=ssl.CERT_REQUIRED if args.ssl_verify_client else ssl.CERT_NONE,
        ws_max_size=args.ws_max_size,
        ws_ping_interval=args.ws_ping_interval,
        ws_ping_timeout=args.ws_ping_timeout,
        limit_concurrency=args.limit_concurrency,
        log_level=args.log_level,
        access_log=not args.no_access_log,
        interface='asgi3',
    )


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError('a port is 0 to 65535')
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError('at least 1')
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 86400:
        raise argparse.ArgumentTypeError('0 to 86399 seconds')
    return value
