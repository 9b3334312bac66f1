"""The opening handshake: request checks, the ASGI scope, answers (RFC 6455 4.2).

The protocol core checks requests and writes most refusals. Nearly all requests are
short and well-formed, and have each decisive header once and in its usual form.
`read_usual` reads only such requests. It accepts nothing that the core would refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from collections.abc import Sequence
import functools
from http import HTTPStatus
import logging
import re
from typing import Any
from typing import NamedTuple
from urllib.parse import quote
from urllib.parse import unquote

from uvicorn.protocols.utils import is_ssl
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader
from websockets.extensions import Extension
from websockets.headers import parse_subprotocol
from websockets.http11 import MAX_LINE_LENGTH
from websockets.http11 import Request
from websockets.http11 import Response
from websockets.server import ServerProtocol
from websockets.utils import accept_key

from falcon_channels.server.context import ServerContext
from falcon_channels.server.loggers import access_logger
from falcon_channels.server.loggers import core_logger
from falcon_channels.server.request_heads import read_usual_head
from falcon_channels.transports.asgi_extensions import SERVER_WEBSOCKET_EXTENSION
from falcon_channels.websocket.handshake import as_text
from falcon_channels.websocket.handshake import check_extensions
from falcon_channels.websocket.handshake import header_name
from falcon_channels.websocket.handshake import refusal_response
from falcon_channels.websocket.handshake import VERSION

_NO_SETTINGS: dict[str, Any] = {}

#: Headers that decide about a handshake: `read_usual` accepts each at most once.
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
_CONNECTION = {b'upgrade', b'keep-alive, upgrade'}
_VERSION = VERSION.encode()
#: Sixteen bytes in base64.
_KEY = re.compile(rb'[A-Za-z0-9+/]{21}[AQgw]==')


class UpgradeRequest(NamedTuple):
    """An upgrade request that may be accepted.

    Attributes:
        target: Path and query as the client sent them.
        headers: Names in lower case, and values.
        subprotocols: Subprotocols that the client offers, in its order.
        accept: Value of the response's ``Sec-WebSocket-Accept``.
        agreed: Value of the response's ``Sec-WebSocket-Extensions``, or ``None``.
        extensions: The agreed extensions as objects of the protocol core.
    """

    target: str
    headers: list[tuple[bytes, bytes]]
    subprotocols: list[str]
    accept: str
    agreed: str | None = None
    extensions: Sequence[Extension] = ()


class HandshakeRefusedError(Exception):
    """The request is answered with `response`, and the connection is closed."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def refusal(status: HTTPStatus, text: str, **headers: str) -> HandshakeRefusedError:
    """Return the refusal of a request.

    Args:
        status: HTTP status.
        text: Body of the response.
        headers: Additional headers; underscores in names stand for hyphens.
    """
    return HandshakeRefusedError(
        refusal_response(
            status.value,
            text,
            headers=[
                ('Content-Type', 'text/plain; charset=utf-8'),
                *((name.replace('_', '-'), value) for name, value in headers.items()),
            ],
        )
    )


def read_request(context: ServerContext, data: bytes) -> UpgradeRequest:
    """Parse and check an upgrade request.

    Args:
        context: Context of the server.
        data: The whole request.

    Raises:
        HandshakeRefusedError: The request is not a valid WebSocket handshake; write
            the response of the error.
    """
    handshake = read_usual(context, data)
    return read_by_core(context, data) if handshake is None else handshake


def read_usual(context: ServerContext, data: bytes) -> UpgradeRequest | None:
    """Read an upgrade request that has the usual form.

    PERF: With the core's parser, its checks and one core object for each connection, a
    connection costs 50 % more (benchmarks/connections.py).

    SECURITY: The core and the HTTP parsers would read each accepted request in the same
    way. Requests that two parsers could read differently, and malformed requests, are
    left to them. Only one limit differs: the core refuses lines over 8 KiB. Here longer
    lines are accepted, because other HTTP requests may have larger cookies, too.

    Args:
        context: Context of the server.
        data: Bytes, such as the first ones of a connection.

    Returns:
        ``None`` if `data` is not one whole request of this form. `read_by_core` or an
        HTTP parser has to decide then.
    """
    if not data.endswith(b'\r\n\r\n'):
        return None
    head = read_usual_head(data, b'GET ')
    if head is None:
        return None
    target, pairs = head
    decisive: dict[bytes, bytes] = {}
    for name, value in pairs:
        if name in _DECISIVE_HEADERS:
            if name in decisive:
                return None
            decisive[name] = value
    if not _asks_for_websocket(decisive):
        return None
    try:
        subprotocols, agreed, extensions = _negotiate(context, decisive)
    except InvalidHeader:
        return None
    accept = accept_key(decisive[b'sec-websocket-key'].decode('ascii'))
    return UpgradeRequest(target, pairs, subprotocols, accept, agreed, extensions)


def _asks_for_websocket(decisive: dict[bytes, bytes]) -> bool:
    """Return whether the headers that decide have the values of a usual handshake."""
    get = decisive.get
    return (
        # SECURITY: reading thousands of offers would take too long.
        sum(map(len, decisive.values())) <= MAX_LINE_LENGTH
        and b'host' in decisive
        and b'content-length' not in decisive
        and b'transfer-encoding' not in decisive
        and get(b'upgrade', b'').lower() == b'websocket'
        and get(b'connection', b'').lower() in _CONNECTION
        and get(b'sec-websocket-version') == _VERSION
        and _KEY.fullmatch(get(b'sec-websocket-key', b'')) is not None
    )


def _negotiate(
    context: ServerContext, decisive: dict[bytes, bytes]
) -> tuple[list[str], str | None, Sequence[Extension]]:
    """Return the offered subprotocols, and the agreed extensions in both forms.

    Raises:
        InvalidHeader: An offer is malformed.
    """
    subprotocols: list[str] = []
    # NOTE: some clients that offer no subprotocol send an empty header.
    if offered := decisive.get(b'sec-websocket-protocol'):
        subprotocols.extend(parse_subprotocol(offered.decode('latin-1')))
    if b'sec-websocket-extensions' not in decisive:
        return subprotocols, None, ()
    offer = decisive[b'sec-websocket-extensions'].decode('latin-1')
    if context.extensions is None:
        check_extensions([offer])
        return subprotocols, None, ()
    offers = Headers({'Sec-WebSocket-Extensions': offer})
    return subprotocols, *_new_core(context).process_extensions(offers)


def _new_core(context: ServerContext) -> ServerProtocol:
    return ServerProtocol(
        extensions=context.extensions, max_size=context.max_size, logger=core_logger
    )


def read_by_core(context: ServerContext, data: bytes) -> UpgradeRequest:
    """Parse and check an upgrade request with the protocol core; see `read_request`."""
    core = _new_core(context)
    core.receive_data(data)
    events = core.events_received()
    if not events or not isinstance(events[0], Request):
        # NOTE: The parser answers only requests that exceed the limits of lines and
        # headers. After other errors, such as a body, it only ends the stream.
        raise _parser_refusal(core)
    request = events[0]
    headers = request.headers
    if len(headers.get_all('Host')) != 1:
        # RFC 9112 section 3.2.
        raise refusal(HTTPStatus.BAD_REQUEST, 'Exactly one Host is needed.')
    if headers.get_all('Sec-WebSocket-Version') not in ([], [VERSION]):
        # RFC 6455 section 4.4.
        raise refusal(
            HTTPStatus.UPGRADE_REQUIRED,
            f'WebSocket version {VERSION} is needed.',
            Sec_WebSocket_Version=VERSION,
            Upgrade='websocket',
        )
    if not core.available_extensions:
        _refuse_malformed_extensions(headers)
    pairs = [
        (name.lower().encode('ascii'), value.encode('latin-1'))
        for name, value in headers.raw_items()
    ]
    _remove_empty_offers(headers)
    response = core.accept(request)
    if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        raise HandshakeRefusedError(response)
    return UpgradeRequest(
        request.path,
        pairs,
        _offered_subprotocols(headers),
        response.headers['Sec-WebSocket-Accept'],
        response.headers.get('Sec-WebSocket-Extensions'),
        core.extensions,
    )


def _remove_empty_offers(headers: Headers) -> None:
    """Remove empty `Sec-WebSocket-Protocol` headers, which the core would refuse."""
    offers = headers.get_all('Sec-WebSocket-Protocol')
    if not all(offers):
        del headers['Sec-WebSocket-Protocol']
        for offer in filter(None, offers):
            headers['Sec-WebSocket-Protocol'] = offer


def _refuse_malformed_extensions(headers: Headers) -> None:
    try:
        check_extensions(headers.get_all('Sec-WebSocket-Extensions'))
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


def _offered_subprotocols(headers: Headers) -> list[str]:
    names: list[str] = []
    try:
        for value in headers.get_all('Sec-WebSocket-Protocol'):
            names.extend(parse_subprotocol(value))
    except InvalidHeader:
        raise refusal(
            HTTPStatus.BAD_REQUEST, 'Sec-WebSocket-Protocol is malformed.'
        ) from None
    return names


def acceptance(
    handshake: UpgradeRequest,
    default_headers: Iterable[tuple[bytes, bytes]],
    headers: Iterable[tuple[bytes | str, bytes | str]],
    subprotocol: str | None,
) -> bytes:
    """Return the 101 response that accepts a handshake.

    Args:
        handshake: The request.
        default_headers: Headers of the server.
        headers: Headers of the application.
        subprotocol: The subprotocol that the application has selected, or ``None``.

    Raises:
        InvalidHeaderValue: A value of the application has illegal characters.
        ValueError: A name of the application has illegal characters.
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
        fields[header_name(name)] = as_text(value)
    return str(fields).removesuffix('\r\n')


@functools.lru_cache(maxsize=8)
def _default_lines(headers: tuple[tuple[bytes, bytes], ...]) -> str:
    """Return the lines of headers that stay the same for a second."""
    return _lines(headers)


def build_scope(
    context: ServerContext,
    transport: asyncio.Transport,
    handshake: UpgradeRequest,
    direct: object,
    *,
    client: tuple[str, int] | None,
    server: tuple[str, int | None] | None,
) -> dict[str, Any]:
    """Return the ASGI 2.4 scope of a WebSocket connection.

    Args:
        context: Context of the server.
        transport: Transport of the connection.
        handshake: Request of the connection.
        direct: Object of the extension ``falcon_channels.websocket``.
        client: Address of the client.
        server: Address of this server.
    """
    root_path = context.config.root_path
    raw_path, _, query = handshake.target.partition('?')
    return {
        'type': 'websocket',
        'asgi': context.scope_asgi,
        'http_version': '1.1',
        'scheme': 'wss' if is_ssl(transport) else 'ws',
        'server': context.shared_address(server),
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


def log_access(scope: dict[str, Any], status: int) -> None:
    """Log one handshake with uvicorn's logger for requests.

    SECURITY: Browsers cannot send headers with a WebSocket, so query strings carry
    tokens. The log shows that there was a query string, but not its content.

    Args:
        scope: ASGI scope of the connection.
        status: HTTP status of the answer.
    """
    if not access_logger.isEnabledFor(logging.INFO):
        return
    client = scope.get('client')
    path = quote(scope['path'])
    access_logger.info(
        '%s - "%s %s HTTP/%s" %d',
        f'{client[0]}:{client[1]}' if client else '',
        'WebSocket',
        f'{path}?[redacted]' if scope['query_string'] else path,
        '1.1',
        status,
    )
