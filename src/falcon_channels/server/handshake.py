"""The opening handshake: request checks, the ASGI scope, answers (RFC 6455 4.2).

The sans-I/O core judges requests and words its refusals. What nearly every request is
(short, of well-formed lines, each header that decides given once and in the usual
words) is read by `read_usual` instead, which takes nothing that the core would refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from collections.abc import Sequence
import email.utils
import functools
from http import HTTPStatus
import logging
import re
from typing import Any
from typing import NamedTuple
from typing import TYPE_CHECKING
from urllib.parse import quote
from urllib.parse import unquote

from uvicorn.protocols.utils import is_ssl
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader
from websockets.extensions import Extension
from websockets.headers import parse_extension
from websockets.headers import parse_subprotocol
from websockets.http11 import MAX_LINE_LENGTH
from websockets.http11 import MAX_NUM_HEADERS
from websockets.http11 import Request
from websockets.http11 import Response
from websockets.server import ServerProtocol
from websockets.utils import accept_key

from falcon_channels.server.context import core_logger
from falcon_channels.transports.asgi_extensions import SERVER_WEBSOCKET_EXTENSION

if TYPE_CHECKING:
    from falcon_channels.server.context import ServerContext


#: Headers that many clients send alike. Each pair is kept once for all of them.
#: SECURITY: None that may hold a secret: those must not outlive their connection.
_SHARED_HEADERS = {
    b'accept-encoding',
    b'accept-language',
    b'cache-control',
    b'connection',
    b'host',
    b'origin',
    b'pragma',
    b'sec-fetch-dest',
    b'sec-fetch-mode',
    b'sec-fetch-site',
    b'sec-websocket-extensions',
    b'sec-websocket-version',
    b'upgrade',
    b'user-agent',
}
_MAX_SHARED = 256
_NO_SETTINGS: dict[str, Any] = {}

#: Headers that decide over a handshake: `read_usual` takes each of them once.
_DECISIVE_HEADERS = {
    b'connection',
    b'content-length',
    b'host',
    b'origin',
    b'sec-websocket-extensions',
    b'sec-websocket-key',
    b'sec-websocket-protocol',
    b'sec-websocket-version',
    b'transfer-encoding',
    b'upgrade',
}
#: What `read_usual` takes, a part of what RFC 9110 section 5 and RFC 9112 section 3
#: allow: names of small letters, values without line ends and other control
#: characters, targets of visible ASCII.
_NAME_BYTES = b"!#$%&'*+-.0123456789^_`abcdefghijklmnopqrstuvwxyz|~"
_VALUE_BYTES = bytes([9, *range(32, 127), *range(128, 256)])
_TARGET_BYTES = bytes(range(33, 127))
_CONNECTION = {b'upgrade', b'keep-alive, upgrade'}
#: Sixteen bytes in base64.
_KEY = re.compile(rb'[A-Za-z0-9+/]{21}[AQgw]==')
#: Method and version around a target, and the line's end.
_REQUEST_LINE_BYTES = len(b'GET  HTTP/1.1\r\n')


class Handshake(NamedTuple):
    """An upgrade request that may be accepted.

    Attributes:
        target: Path and query as they were sent.
        headers: Names in small letters, and values.
        subprotocols: What the client offers, in its order.
        accept: The answer's ``Sec-WebSocket-Accept``.
        agreed: The answer's ``Sec-WebSocket-Extensions``, or ``None``.
        extensions: The same, to be used.
    """

    target: str
    headers: list[tuple[bytes, bytes]]
    subprotocols: list[str]
    accept: str
    agreed: str | None = None
    extensions: Sequence[Extension] = ()


class HandshakeRefusedError(Exception):
    """The request is answered with `response`, and the connection closed."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def refusal(status: HTTPStatus, text: str, **headers: str) -> HandshakeRefusedError:
    """Return the refusal of a request; underscores in names stand for hyphens."""
    body = f'{text}\n'.encode()
    fields = Headers(
        [
            ('Date', email.utils.formatdate(usegmt=True)),
            ('Connection', 'close'),
            ('Content-Length', str(len(body))),
            ('Content-Type', 'text/plain; charset=utf-8'),
        ]
    )
    for name, value in headers.items():
        fields[name.replace('_', '-')] = value
    return HandshakeRefusedError(Response(status.value, status.phrase, fields, body))


def read_request(context: ServerContext, data: bytes) -> Handshake:
    """Parse and check an upgrade request.

    Args:
        context: Of the server.
        data: The whole request.

    Raises:
        HandshakeRefusedError: It is no proper WebSocket handshake.
    """
    parts = _split_request(data)
    handshake = None if parts is None else read_usual(context, *parts)
    return read_by_core(context, data) if handshake is None else handshake


def _split_request(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]] | None:
    """Return target and headers of a request in the form that uvicorn writes."""
    if len(data) > MAX_LINE_LENGTH:
        return None
    first, *lines = data.split(b'\r\n')
    if (
        not first.startswith(b'GET ')
        or not first.endswith(b' HTTP/1.1')
        or lines[-2:] != [b'', b'']
    ):
        return None
    headers = []
    for line in lines[:-2]:
        # NOTE: A line without a colon has no name then, which is refused.
        name, colon, value = line.partition(b':')
        headers.append((name if colon else b'', value.strip(b' \t')))
    return first[4:-9], headers


def read_usual(
    context: ServerContext, target: bytes, headers: list[tuple[bytes, bytes]]
) -> Handshake | None:
    """Read an upgrade request that is like nearly all of them.

    PERF: With the core's parser, its checks and an object of it for each connection, a
    connection costs half as much again (benchmarks/connections.py).

    SECURITY: What is taken here the core would take, and read alike: everything that
    two readers could see differently, and every mistake, is left to it.

    Args:
        context: Of the server.
        target: Path and query, of a GET request of HTTP/1.1.
        headers: Names and values; there may be blanks around a value.

    Returns:
        ``None`` where the core has to decide.
    """
    if not _is_well_formed(target, headers):
        return None
    decisive: dict[bytes, bytes] = {}
    pairs = []
    for name, value in headers:
        stripped = value.strip(b' \t')
        if name in _DECISIVE_HEADERS:
            if name in decisive:
                return None
            decisive[name] = stripped
        pairs.append(_pair(name, stripped))
    get = decisive.get
    key = get(b'sec-websocket-key', b'')
    if (
        b'host' not in decisive
        or b'content-length' in decisive
        or b'transfer-encoding' in decisive
        or get(b'upgrade', b'').lower() != b'websocket'
        or get(b'connection', b'').lower() not in _CONNECTION
        or get(b'sec-websocket-version') != b'13'
        or not _KEY.fullmatch(key)
    ):
        return None
    try:
        subprotocols, agreed, extensions = _take_offers(context, decisive)
    except InvalidHeader:
        return None
    accept = accept_key(key.decode('ascii'))
    path = target.decode('ascii')
    return Handshake(path, pairs, subprotocols, accept, agreed, extensions)


def _is_well_formed(target: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    """Say whether lines of these are short and few, and have no odd bytes."""
    names = [name for name, _ in headers]
    all_names = b''.join(names)
    all_values = b''.join([value for _, value in headers])
    # NOTE: No line is too long where all together are not.
    size = _REQUEST_LINE_BYTES + len(target) + len(all_names) + len(all_values)
    return (
        size + 4 * len(headers) <= MAX_LINE_LENGTH
        and len(headers) <= MAX_NUM_HEADERS
        and all(names)
        and not all_names.translate(None, _NAME_BYTES)
        and not all_values.translate(None, _VALUE_BYTES)
        and not target.translate(None, _TARGET_BYTES)
        and target.startswith(b'/')
    )


def _take_offers(
    context: ServerContext, decisive: dict[bytes, bytes]
) -> tuple[list[str], str | None, Sequence[Extension]]:
    """Return the subprotocols offered, and the extensions agreed to.

    Raises:
        InvalidHeader: An offer is malformed.
    """
    subprotocols: list[str] = []
    if b'sec-websocket-protocol' in decisive:
        offer = decisive[b'sec-websocket-protocol'].decode('latin-1')
        subprotocols.extend(parse_subprotocol(offer))
    if b'sec-websocket-extensions' not in decisive:
        return subprotocols, None, ()
    offer = decisive[b'sec-websocket-extensions'].decode('latin-1')
    if context.extensions is None:
        parse_extension(offer)
        return subprotocols, None, ()
    offers = Headers({'Sec-WebSocket-Extensions': offer})
    return subprotocols, *_new_core(context).process_extensions(offers)


def _new_core(context: ServerContext) -> ServerProtocol:
    return ServerProtocol(
        extensions=context.extensions, max_size=context.max_size, logger=core_logger
    )


def read_by_core(context: ServerContext, data: bytes) -> Handshake:
    """Let the core parse and judge an upgrade request; see `read_request`."""
    core = _new_core(context)
    core.receive_data(data)
    events = core.events_received()
    if not events or not isinstance(events[0], Request):
        # NOTE: What the parser refuses it answers only for the limits of lines and
        # headers; a body, for one, leaves nothing but an end of stream.
        raise _parser_refusal(core)
    request = events[0]
    headers = request.headers
    if len(headers.get_all('Host')) != 1:
        # RFC 9112 section 3.2.
        raise refusal(HTTPStatus.BAD_REQUEST, 'Exactly one Host is needed.')
    if headers.get_all('Sec-WebSocket-Version') not in ([], ['13']):
        # RFC 6455 section 4.4.
        raise refusal(
            HTTPStatus.UPGRADE_REQUIRED,
            'WebSocket version 13 is needed.',
            Sec_WebSocket_Version='13',
            Upgrade='websocket',
        )
    if not core.available_extensions:
        # NOTE: The core reads an offer only where it has something to agree to.
        _check_extensions(headers)
    response = core.accept(request)
    if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        raise HandshakeRefusedError(response)
    return Handshake(
        request.path,
        [
            _pair(name.encode('ascii'), value.encode('latin-1'))
            for name, value in headers.raw_items()
        ],
        _requested_subprotocols(headers),
        response.headers['Sec-WebSocket-Accept'],
        response.headers.get('Sec-WebSocket-Extensions'),
        core.extensions,
    )


def _check_extensions(headers: Headers) -> None:
    """Refuse an offer of extensions that is no list of them (RFC 6455 section 9.1)."""
    try:
        for value in headers.get_all('Sec-WebSocket-Extensions'):
            parse_extension(value)
    except InvalidHeader:
        raise refusal(
            HTTPStatus.BAD_REQUEST, 'Sec-WebSocket-Extensions is malformed.'
        ) from None


def _parser_refusal(core: ServerProtocol) -> HandshakeRefusedError:
    written = b''.join(core.data_to_send())
    if written.startswith(b'HTTP/1.1 414'):
        return refusal(
            HTTPStatus.REQUEST_URI_TOO_LONG, 'The request target is too long.'
        )
    if written.startswith(b'HTTP/1.1 431'):
        return refusal(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            'A header is too long, or there are too many.',
        )
    return refusal(HTTPStatus.BAD_REQUEST, 'Not a WebSocket handshake request.')


def _requested_subprotocols(headers: Headers) -> list[str]:
    names: list[str] = []
    try:
        for value in headers.get_all('Sec-WebSocket-Protocol'):
            names.extend(parse_subprotocol(value))
    except InvalidHeader:
        raise refusal(
            HTTPStatus.BAD_REQUEST, 'Sec-WebSocket-Protocol is malformed.'
        ) from None
    return names


def _pair(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    if name in _SHARED_HEADERS and len(value) <= _MAX_SHARED:
        return _shared_pair(name, value)
    return name, value


@functools.lru_cache(maxsize=1024)
def _shared_pair(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return name, value


def acceptance(
    handshake: Handshake,
    default_headers: Iterable[tuple[bytes, bytes]],
    headers: Iterable[tuple[bytes | str, bytes | str]],
    subprotocol: str | None,
) -> bytes:
    """Return the 101 that accepts a handshake.

    Args:
        handshake: Which.
        default_headers: Of the server.
        headers: Of the application.
        subprotocol: What the application has selected, if anything.

    Raises:
        InvalidHeaderValue: A value of the application has illegal characters.
    """
    text = (
        'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n'
        f'Connection: Upgrade\r\nSec-WebSocket-Accept: {handshake.accept}\r\n'
    )
    if handshake.agreed is not None:
        text += f'Sec-WebSocket-Extensions: {handshake.agreed}\r\n'
    text += _default_lines(tuple(default_headers))
    if headers:
        text += _lines(headers)
    if subprotocol:
        text += _lines([('Sec-WebSocket-Protocol', subprotocol)])
    return f'{text}\r\n'.encode('latin-1')


def _lines(headers: Iterable[tuple[bytes | str, bytes | str]]) -> str:
    fields = Headers()
    for name, value in headers:
        fields[as_text(name)] = as_text(value)
    return str(fields).removesuffix('\r\n')


@functools.lru_cache(maxsize=8)
def _default_lines(headers: tuple[tuple[bytes, bytes], ...]) -> str:
    """Return headers that stay the same for a second."""
    return _lines(headers)


def as_text(value: bytes | str) -> str:
    """Return a header's name or value as text."""
    return value if isinstance(value, str) else value.decode('latin-1')


def build_scope(
    context: ServerContext,
    transport: asyncio.Transport,
    handshake: Handshake,
    direct: object,
    *,
    client: tuple[str, int] | None,
    server: tuple[str, int | None] | None,
) -> dict[str, Any]:
    """Return the ASGI 2.4 scope of a WebSocket connection.

    Args:
        context: Of the server.
        transport: Of the connection.
        handshake: Its request.
        direct: The object of the extension ``falcon_channels.websocket``.
        client: Address of the other end.
        server: Address of this end.
    """
    root_path = context.config.root_path
    raw_path, _, query = handshake.target.partition('?')
    if server != context.scope_server:
        # NOTE: Kept once, for it is nearly always the one that the last scope had.
        context.scope_server = server
    return {
        'type': 'websocket',
        'asgi': context.scope_asgi,
        'http_version': '1.1',
        'scheme': 'wss' if is_ssl(transport) else 'ws',
        'server': context.scope_server,
        'client': client,
        'root_path': root_path,
        'path': root_path + unquote(raw_path),
        'raw_path': (root_path + raw_path).encode('ascii'),
        'query_string': query.encode('ascii'),
        'headers': handshake.headers,
        'subprotocols': handshake.subprotocols,
        'state': context.app_state.copy(),
        'extensions': {
            'websocket.http.response': _NO_SETTINGS,
            SERVER_WEBSOCKET_EXTENSION: {'websocket': direct},
        },
    }


def log_access(context: ServerContext, scope: dict[str, Any], status: int) -> None:
    """Log one handshake where uvicorn logs requests.

    SECURITY: Browsers cannot send headers with a WebSocket, so query strings carry
    tokens: that there was one is logged, and not what it held.
    """
    if not context.access_logger.isEnabledFor(logging.INFO):
        return
    client = scope.get('client')
    path = quote(scope['path'])
    context.access_logger.info(
        '%s - "%s %s HTTP/%s" %d',
        f'{client[0]}:{client[1]}' if client else '',
        'WebSocket',
        f'{path}?[redacted]' if scope['query_string'] else path,
        '1.1',
        status,
    )
