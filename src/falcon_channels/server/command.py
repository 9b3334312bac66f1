"""The command ``falcon-channels serve``: uvicorn with our classes and a drain."""

from __future__ import annotations

import argparse
from collections.abc import Generator
import contextlib
import ipaddress
import os
import socket
import ssl
import sys

from uvicorn.config import Config
from uvicorn.config import LOG_LEVELS
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import ChangeReload

from falcon_channels.server.config import ChannelsConfig
from falcon_channels.server.options import ServerOptions
from falcon_channels.server.processes import ChannelsServer
from falcon_channels.server.processes import Workers
from falcon_channels.server.sockets import remove_unused_socket
from falcon_channels.server.sockets import SocketFile
from falcon_channels.websocket import limits

#: Variable of the environment with the addresses of the proxies.
_PROXIES = 'FORWARDED_ALLOW_IPS'


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
    mistake = _stop_mistake(args) or _tls_mistake(args) or _proxy_mistake(args)
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


def _stop_mistake(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the times of a stop, or ``None``.

    The server would exit before it has closed all connections.
    """
    if args.stop_timeout > args.drain_timeout:
        return None
    return (
        f'--stop-timeout of {args.stop_timeout} s must be longer than --drain-timeout '
        f'of {args.drain_timeout:g} s, which is a part of the stop: give both'
    )


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
