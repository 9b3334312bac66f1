"""The command ``falcon-channels serve``: uvicorn with our classes and a drain."""

from __future__ import annotations

import argparse
from collections.abc import Generator
import contextlib
import ipaddress
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
from weakref import WeakKeyDictionary
from weakref import WeakSet

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
from uvicorn.supervisors.multiprocess import SIGNALS

from falcon_channels.errors import ChannelsError
from falcon_channels.logs import json_log_config
from falcon_channels.server.app_loading import call_factory
from falcon_channels.server.app_loading import check_app
from falcon_channels.server.app_loading import is_factory
from falcon_channels.server.app_loading import load_object
from falcon_channels.server.context import ServerContext
from falcon_channels.server.garbage_collection import run_collector_less_often
from falcon_channels.server.loggers import access_logger
from falcon_channels.server.loggers import print_library_logs
from falcon_channels.server.loggers import server_logger
from falcon_channels.server.options import ServerOptions
from falcon_channels.server.sockets import remove_unused_socket
from falcon_channels.server.sockets import SocketFile
from falcon_channels.transports.asgi_extensions import MAX_MESSAGE_BYTES
from falcon_channels.transports.asgi_extensions import START_ERROR
from falcon_channels.transports.server_process import announce_workers
from falcon_channels.websocket import limits
from falcon_channels.websocket.middleware import warn_of_http_middleware

_WS = 'falcon_channels.server.protocol:WebSocketProtocol'
#: Variable of the environment with the addresses of the proxies.
_PROXIES = 'FORWARDED_ALLOW_IPS'
_HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'

#: Seconds between a failed start of a worker and the next attempt.
_RETRY_S = 2
#: Maximum time until the replacement of a worker is ready; the worker serves meanwhile.
_READY_TIMEOUT_S = 60
#: Time between two looks at a worker that starts or stops.
_LOOK_S = 0.1
#: Signals that stop the workers.
_STOPS = (signal.SIGINT, signal.SIGTERM)

#: Falcon's default; another value was chosen by the application.
_FALCON_RECEIVE_QUEUE = 4


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
        """Import the application, and prepare it; see `prepare_app`.

        Raises:
            OptionsError: There is no application of this name.
        """
        app, name = load_object(self.app), str(self.app)
        if self._is_factory or is_factory(app):
            if not self._is_factory:
                server_logger.warning(
                    '%s is a function that returns an app: start it with --factory',
                    name,
                )
            app, name = call_factory(app, name), f'the result of {name}'
        check_app(app, name)
        prepare_app(app)
        return _without_root_path(app, self.root_path)


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


def _without_root_path(app: Any, root_path: str) -> Any:
    """Remove the root path from the path of each request of an application.

    NOTE: in ASGI, a path begins with the root path. Falcon compares the whole path with
    its routes. Without this function, no route would match.
    """
    if not root_path:
        return app
    raw_root_path = root_path.encode()

    # PERF: this is not a coroutine function, because its coroutine would stay in memory
    #   as long as the connection (benchmarks/idle_memory.py).
    def call(scope: dict[str, Any], receive: Any, send: Any) -> Any:
        if 'path' in scope:
            scope['path'] = scope['path'].removeprefix(root_path)
            scope['raw_path'] = scope['raw_path'].removeprefix(raw_root_path)
        return app(scope, receive, send)

    return call


def prepare_app(app: object) -> None:
    """Turn off the receive queue of a Falcon app, and warn about its middleware."""
    drop_receive_queue(app)
    if isinstance(app, falcon.asgi.App):
        warn_of_http_middleware(app)


def drop_receive_queue(app: object) -> None:
    """Make a Falcon app receive from the server without a task in between.

    Falcon moves messages through a queue, so that a handler that only sends can detect
    that the client has left. Its documentation advises ``max_receive_queue = 0`` for
    servers that raise if an application sends to such a client. This server does. A
    value that the application has chosen stays.

    PERF: Saves half of the cost of an echo (benchmarks/echo.py).
    """
    if (
        isinstance(app, falcon.asgi.App)
        and app.ws_options.max_receive_queue == _FALCON_RECEIVE_QUEUE
    ):
        app.ws_options.max_receive_queue = 0


class ChannelsServer(Server):
    """uvicorn's server: the first signal drains it, the second one ends it at once."""

    _first_signal: int | None = None
    _socket_file: SocketFile | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle SIGHUP, too, while the server runs.

        NOTE: A service manager that reloads, or a terminal that is closed, would end
        the process without a drain. If SIGHUP is ignored (``nohup``), it stays ignored.
        """
        in_thread = threading.current_thread() is not threading.main_thread()
        with super().capture_signals():
            if in_thread or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
                yield
                return
            before = signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, and listen."""
        uds = self.config.uds
        try:
            await super().startup(sockets)
        except OSError as ex:
            if uds is None:
                raise
            server_logger.error('cannot listen on the UNIX socket %r: %s', uds, ex)
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        if uds is not None and sockets is None:
            self._socket_file = SocketFile(uds)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin the drain, even if no client is connected, and stop.

        NOTE: a responder can still run although its client has left.
        """
        if self._socket_file is not None:
            self._socket_file.remove()
        ServerContext.begin_drain_of(
            self.config, self.server_state, self.lifespan.state
        )
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called with each signal: stop, or end at once.

        NOTE: Ctrl-C reaches a worker twice, as SIGINT from the terminal and as SIGTERM
        from its parent. In a worker, only a repetition of the same signal counts as the
        second one.

        NOTE: uvicorn does not end while the application starts or stops. Without a
        handler, the signal ends the process.
        """
        if self.should_exit and (
            not self.config.use_subprocess or sig == self._first_signal
        ):
            self.force_exit = True
            # A third signal needs no handler.
            signal.signal(sig, signal.SIG_DFL)
            if not self.started or getattr(self.lifespan, 'stopping', False):
                os.kill(os.getpid(), sig)
        if not self.should_exit:
            self._first_signal = sig
        self.should_exit = True


class Workers(Multiprocess):
    """uvicorn's worker processes; a second signal ends them at once.

    Args:
        config: The configuration.
        sockets: Listening sockets, which the workers share.

    Attributes:
        failed: Whether the workers have ended because none of them could start.
    """

    failed = False
    #: Whether a worker has been ready. If a later worker cannot start, the reason may
    #: be temporary.
    _served = False

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        #: Monotonic times at which workers that failed are started again.
        self._retry_at: WeakKeyDictionary[Process, float] = WeakKeyDictionary()
        #: Workers that have been ready.
        self._ready: WeakSet[Process] = WeakSet()
        #: Workers that stop while the others serve.
        self._retired: list[Process] = []

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have ended.

        NOTE: uvicorn ends all workers if a replacement cannot start, for example while
        the broker is unavailable. Here the other workers keep their connections.

        NOTE: if the application calls ``sys.exit``, or the process is killed while it
        starts, it has another exit code. uvicorn would start it without a pause.
        """
        for index, process in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            retry_at = self._retry_at.get(process)
            if retry_at is None:
                if process.is_alive(self.config.timeout_worker_healthcheck):
                    self._look_if_ready(process)
                    continue
                process.kill()  # it may hang
                process.join()
                if process.exitcode == STARTUP_FAILURE or process not in self._ready:
                    self._retry_later(process)
                    continue
                server_logger.info('Child process [%s] died', process.pid)
            elif time.monotonic() < retry_at:
                continue
            self.processes[index] = Process(self.config, self.sockets)
            self.processes[index].start()

    def _look_if_ready(self, process: Process) -> bool:
        """Return whether a worker is or has been ready."""
        if process not in self._ready:
            if not process.is_ready():
                return False
            self._ready.add(process)
            self._served = True
        return True

    def _retry_later(self, process: Process) -> None:
        """Schedule another start of a worker that could not start, or give up."""
        pid, code = process.pid, process.exitcode or 0
        others_serve = self._served and any(
            item.process.is_alive() for item in self.processes
        )
        if others_serve or code < 0:  # a signal has killed it
            self._retry_at[process] = time.monotonic() + _RETRY_S
            server_logger.error(
                'Child process [%s] failed to start; retrying in %d s', pid, _RETRY_S
            )
            return
        server_logger.error(
            'Child process [%s] failed to start, stopping the parent process.', pid
        )
        self.failed = True
        self.should_exit.set()

    def restart_all(self) -> None:
        """Replace the workers one by one, until a signal stops them.

        NOTE: uvicorn handles no signal meanwhile, and gives a new worker 5 s to start.
        A worker that drains could delay the stop by minutes.
        """
        for index in range(len(self.processes)):
            new = Process(self.config, self.sockets)
            new.start()
            if not self._wait_until_ready(new):
                new.kill()
                new.join()
                if not self.should_exit.is_set():
                    server_logger.error(
                        'The new child process [%s] is not ready; the others stay',
                        new.pid,
                    )
                return
            old, self.processes[index] = self.processes[index], new
            self._retire(old)
            while old.process.is_alive() and not self._must_stop():
                time.sleep(_LOOK_S)
            if self.should_exit.is_set():
                return

    def handle_ttou(self) -> None:
        """Called at SIGTTOU: stop one worker, unless it is the last one.

        NOTE: uvicorn handles no signal until that worker has ended.
        """
        if self.processes_num > 1:
            self.processes_num -= 1
            self._retire(self.processes.pop())
        else:
            super().handle_ttou()

    def _retire(self, process: Process) -> None:
        """Stop a worker, and do not wait for it."""
        process.terminate()
        self._retired = [item for item in self._retired if item.process.is_alive()]
        self._retired.append(process)

    def _wait_until_ready(self, process: Process) -> bool:
        """Wait for a new worker; return False if it ends, or if the workers stop."""
        give_up_at = time.monotonic() + _READY_TIMEOUT_S
        while not self._must_stop() and time.monotonic() < give_up_at:
            if not process.process.is_alive():
                return False
            if self._look_if_ready(process):
                return True
            time.sleep(_LOOK_S)
        return False

    def handle_signals(self) -> None:
        """Handle the signals that have arrived, one by one.

        NOTE: uvicorn goes through a copy of the queue. It would fail at a signal that a
        restart has handled meanwhile; see `_must_stop`.

        NOTE: while the workers stop, no signal may start or stop one. Nothing would
        stop a new worker, and the parent would wait for it for ever.
        """
        while self.signal_queue:
            number = self.signal_queue.pop(0)
            if self.should_exit.is_set() and number not in _STOPS:
                continue
            handle = getattr(self, f'handle_{SIGNALS[number].lower()}', None)
            if handle is not None:
                handle()

    def _must_stop(self) -> bool:
        """Handle the signals that stop the workers, and keep the workers alive."""
        for number in _STOPS:
            while number in self.signal_queue:
                self.signal_queue.remove(number)
                self._stop()
        self.keep_subprocess_alive()
        return self.should_exit.is_set()

    def handle_int(self) -> None:
        """Called at SIGINT: stop, or end at once."""
        self._stop()

    def handle_term(self) -> None:
        """Called at SIGTERM: stop, or end at once."""
        self._stop()

    def _stop(self) -> None:
        if self.should_exit.is_set():
            for process in self._all():
                process.process.kill()
        self.should_exit.set()

    def _all(self) -> list[Process]:
        """Return all workers, also those that stop."""
        return self.processes + self._retired

    def join_all(self) -> None:
        """Wait until the workers have ended; handle a second signal meanwhile."""
        while any(process.process.is_alive() for process in self._all()):
            time.sleep(0.05)
            self.handle_signals()
        super().join_all()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('app', help='ASGI application, as module:attribute')
    parser.add_argument(
        '--factory', action='store_true', help='APP is a function that returns the app'
    )
    parser.add_argument(
        '--app-dir', type=_folder, default='.', help='folder to import it from'
    )
    place = parser.add_argument_group('address')
    place.add_argument('--host', default='127.0.0.1', help='address to listen on')
    place.add_argument(
        '--port', type=_port, default=8000, help='TCP port; 0: any free port'
    )
    place.add_argument(
        '--uds',
        type=_socket_path,
        metavar='PATH',
        help='UNIX socket to listen on instead',
    )
    place.add_argument(
        '--root-path',
        type=_root_path,
        default='',
        help='prefix that a proxy removes from each path, such as /api',
    )
    place.add_argument(
        '--forwarded-allow-ips',
        type=_addresses,
        metavar='LIST',
        help='addresses of proxies whose X-Forwarded-* headers are trusted; without '
        f'it, those of the variable {_PROXIES}, or 127.0.0.1 and ::1',
    )
    process = parser.add_argument_group('processes')
    process.add_argument(
        '--workers', type=_positive, default=1, help='number of processes'
    )
    process.add_argument(
        '--reload', action='store_true', help='restart when a file changes'
    )
    process.add_argument(
        '--drain-timeout',
        type=_seconds,
        default=ServerOptions().drain_timeout_s,
        metavar='SECONDS',
        help='maximum time to close all connections when the server stops',
    )
    process.add_argument(
        '--stop-timeout',
        type=_positive,
        default=60,
        metavar='SECONDS',
        help='maximum time for the whole stop, including requests',
    )
    tls = parser.add_argument_group('TLS')
    tls.add_argument('--ssl-certfile', metavar='PATH')
    tls.add_argument('--ssl-keyfile', metavar='PATH')
    tls.add_argument('--ssl-ca-certs', metavar='PATH')
    tls.add_argument('--ssl-verify-client', action='store_true')
    ws = parser.add_argument_group('WebSockets')
    ws.add_argument(
        '--ws-max-size',
        type=_positive,
        default=limits.MAX_MESSAGE_BYTES,
        help='maximum size of a message in bytes',
    )
    ws.add_argument(
        '--ws-max-fragments',
        type=_positive,
        default=limits.MAX_FRAGMENTS,
        help='maximum number of frames of one message',
    )
    ws.add_argument(
        '--ws-ping-interval',
        type=_seconds,
        default=25.0,
        help='seconds between pings; 0: no pings',
    )
    ws.add_argument(
        '--ws-ping-timeout',
        type=_seconds,
        default=10.0,
        help='seconds without an answer to a ping before the connection is closed',
    )
    ws.add_argument(
        '--ws-deflate', action='store_true', help='negotiate permessage-deflate'
    )
    ws.add_argument(
        '--ws-max-per-peer', type=_positive, help='maximum connections per address'
    )
    ws.add_argument(
        '--ws-first-message-timeout',
        type=_seconds_above_0,
        metavar='SECONDS',
        help='longest time from the accept to the first message; without it, no limit',
    )
    parser.add_argument(
        '--limit-concurrency', type=_positive, help='maximum connections'
    )
    parser.add_argument('--log-level', choices=sorted(LOG_LEVELS), default='info')
    parser.add_argument('--no-access-log', action='store_true')
    parser.add_argument(
        '--log-json', action='store_true', help='print the log as JSON, one line each'
    )


def serve(args: argparse.Namespace) -> int:
    """Serve until stopped; return the exit code."""
    if args.workers > 1 and args.reload:
        print('--workers and --reload exclude each other', file=sys.stderr)  # noqa: T201 - output of a command
        return 2
    mistake = _tls_mistake(args) or _proxy_mistake(args)
    if mistake:
        print(mistake, file=sys.stderr)  # noqa: T201 - output of a command
        return 2
    sys.path.insert(0, args.app_dir)
    config = _config(args)
    server = ChannelsServer(config)
    if config.should_reload:
        with _listening_socket(config) as sock:
            ChangeReload(config, server.run, [sock]).run()
        return 0
    if config.workers > 1:
        with _listening_socket(config) as sock:
            workers = Workers(config, [sock])
            workers.run()
        return STARTUP_FAILURE if workers.failed else 0
    server.run()
    return 0 if server.started else STARTUP_FAILURE


def _tls_mistake(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the arguments for TLS, or ``None``.

    SECURITY: Without a certificate, the server would serve plain HTTP, and would check
    no client.
    """
    others = {
        '--ssl-keyfile': args.ssl_keyfile,
        '--ssl-ca-certs': args.ssl_ca_certs,
        '--ssl-verify-client': args.ssl_verify_client,
    }
    given = [name for name, value in others.items() if value]
    if given and not args.ssl_certfile:
        return (
            f'{given[0]} is given without --ssl-certfile: without it, there is no TLS'
        )
    if args.ssl_verify_client and not args.ssl_ca_certs:
        return (
            '--ssl-verify-client needs --ssl-ca-certs: the authorities of the clients'
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        if args.ssl_certfile:
            context.load_cert_chain(args.ssl_certfile, args.ssl_keyfile)
    except OSError as ex:  # ssl.SSLError is one, too
        files = ' and '.join(filter(None, (args.ssl_certfile, args.ssl_keyfile)))
        return f'the certificate or its key cannot be loaded from {files}: {ex}'
    try:
        if args.ssl_ca_certs:
            context.load_verify_locations(args.ssl_ca_certs)
    except OSError as ex:
        return (
            'the certificates of --ssl-ca-certs cannot be loaded from '
            f'{args.ssl_ca_certs}: {ex}'
        )
    return None


def _proxy_mistake(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the variable that names the proxies, or ``None``."""
    if args.forwarded_allow_ips is None:
        try:
            _addresses(os.environ.get(_PROXIES, ''))
        except argparse.ArgumentTypeError as ex:
            return f'{_PROXIES}: {ex}'
    return None


@contextlib.contextmanager
def _listening_socket(config: Config) -> Generator[socket.socket, None, None]:
    """Bind the socket that child processes share."""
    if config.uds is None:
        yield config.bind_socket()
        return
    remove_unused_socket(config.uds)
    sock = config.bind_socket()
    file = SocketFile(config.uds)
    try:
        yield sock
    finally:
        file.remove()


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
        log_json=args.log_json,
        access_log=not args.no_access_log,
        interface='asgi3',
    )


def _addresses(text: str) -> str:
    """Check a list of trusted addresses.

    NOTE: uvicorn compares other texts with the address of the peer. They trust nobody,
    and nothing says so.
    """
    for item in filter(None, map(str.strip, text.split(','))):
        if item == '*':
            continue
        try:
            ipaddress.ip_network(item)
        except ValueError as ex:
            reason = f': {ex}' if 'host bits' in str(ex) else ''
            raise argparse.ArgumentTypeError(
                f'{item!r} is not an IP address or network such as 10.0.0.0/8{reason}; '
                'names of hosts are not looked up'
            ) from None
    return text


def _folder(text: str) -> str:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f'{text!r} is not a folder')
    return text


def _number(text: str) -> int:
    # NOTE: with the original error, argparse prints the name of the private function.
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number') from None


def _port(text: str) -> int:
    value = _number(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f'{value} is not a port; use 0 to 65535')
    return value


def _socket_path(text: str) -> str:
    folder = os.path.dirname(text) or '.'
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(
            f'{text!r} cannot be a socket: {folder!r} is not a folder; create it first'
        )
    return text


def _root_path(text: str) -> str:
    if text and not text.startswith('/'):
        raise argparse.ArgumentTypeError(f'{text!r} must begin with a slash')
    return text.rstrip('/')


def _positive(text: str) -> int:
    value = _number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{value} is too small; use at least 1')
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a number of seconds'
        ) from None
    if not 0 <= value < 86400:
        raise argparse.ArgumentTypeError(
            f'{value:g} s is out of range; use 0 to 86399 seconds'
        )
    return value


def _seconds_above_0(text: str) -> float:
    value = _seconds(text)
    if not value:
        raise argparse.ArgumentTypeError(
            f'{text} s would close each connection; leave the option out for no limit'
        )
    return value
