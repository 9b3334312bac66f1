"""The opening handshake: request checks, the ASGI scope, refusals (RFC 6455 4.2)."""

from __future__ import annotations

import asyncio
import functools
from http import HTTPStatus
from typing import Any
from typing import TYPE_CHECKING
from urllib.parse import quote
from urllib.parse import unquote

from uvicorn.protocols.utils import get_local_addr
from uvicorn.protocols.utils import is_ssl
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader
from websockets.headers import parse_extension
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.http11 import Response
from websockets.server import ServerProtocol

from falcon_channels.server.sockets import remote_address
from falcon_channels.transports.direct import EXTENSION

if TYPE_CHECKING:
    from falcon_channels.server.context import ServerContext


#: Headers that many clients send alike. Each pair is kept once for all of them.
#: SECURITY: None that may hold a secret: those must not outlive their connection.
_SHARED_HEADERS = {
    'accept-encoding',
    'accept-language',
    'cache-control',
    'connection',
    'host',
    'origin',
    'pragma',
    'sec-fetch-dest',
    'sec-fetch-mode',
    'sec-fetch-site',
    'sec-websocket-extensions',
    'sec-websocket-version',
    'upgrade',
    'user-agent',
}
_MAX_SHARED = 256
_NO_SETTINGS: dict[str, Any] = {}


class HandshakeRefusedError(Exception):
    """The request is answered with `response`, and the connection closed."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def refusal(
    core: ServerProtocol, status: HTTPStatus, text: str, **headers: str
) -> HandshakeRefusedError:
    """Return the refusal of a request; underscores in names stand for hyphens."""
    response = core.reject(status, f'{text}\n')
    for name, value in headers.items():
        response.headers[name.replace('_', '-')] = value
    return HandshakeRefusedError(response)


def read_request(core: ServerProtocol, data: bytes) -> tuple[Request, Response]:
    """Parse and check an upgrade request.

    Args:
        core: A fresh sans-I/O core.
        data: The whole request.

    Returns:
        The request, and the 101 response that will accept it.

    Raises:
        HandshakeRefusedError: It is no proper WebSocket handshake.
    """
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
        raise refusal(core, HTTPStatus.BAD_REQUEST, 'Exactly one Host is needed.')
    if headers.get_all('Sec-WebSocket-Version') not in ([], ['13']):
        # RFC 6455 section 4.4.
        raise refusal(
            core,
            HTTPStatus.UPGRADE_REQUIRED,
            'WebSocket version 13 is needed.',
            Sec_WebSocket_Version='13',
            Upgrade='websocket',
        )
    if not core.available_extensions:
        # NOTE: The core reads an offer only where it has something to agree to.
        _check_extensions(core, headers)
    response = core.accept(request)
    if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        raise HandshakeRefusedError(response)
    return request, response


def _check_extensions(core: ServerProtocol, headers: Headers) -> None:
    """Refuse an offer of extensions that is no list of them (RFC 6455 section 9.1)."""
    try:
        for value in headers.get_all('Sec-WebSocket-Extensions'):
            parse_extension(value)
    except InvalidHeader:
        raise refusal(
            core, HTTPStatus.BAD_REQUEST, 'Sec-WebSocket-Extensions is malformed.'
        ) from None


def _parser_refusal(core: ServerProtocol) -> HandshakeRefusedError:
    written = b''.join(core.data_to_send())
    if written.startswith(b'HTTP/1.1 414'):
        return refusal(
            core, HTTPStatus.REQUEST_URI_TOO_LONG, 'The request target is too long.'
        )
    if written.startswith(b'HTTP/1.1 431'):
        return refusal(
            core,
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            'A header is too long, or there are too many.',
        )
    return refusal(core, HTTPStatus.BAD_REQUEST, 'Not a WebSocket handshake request.')


def requested_subprotocols(core: ServerProtocol, headers: Headers) -> list[str]:
    """Return the subprotocols that the client offers, in its order.

    Raises:
        HandshakeRefusedError: The header does not hold a list of tokens.
    """
    names: list[str] = []
    try:
        for value in headers.get_all('Sec-WebSocket-Protocol'):
            names.extend(parse_subprotocol(value))
    except InvalidHeader:
        raise refusal(
            core, HTTPStatus.BAD_REQUEST, 'Sec-WebSocket-Protocol is malformed.'
        ) from None
    return names


def build_scope(
    context: ServerContext,
    transport: asyncio.Transport,
    request: Request,
    subprotocols: list[str],
    direct: object,
) -> dict[str, Any]:
    """Return the ASGI 2.4 scope of a WebSocket connection.

    Args:
        direct: The object of the extension ``falcon_channels.direct``.
    """
    root_path = context.config.root_path
    raw_path, _, query = request.path.partition('?')
    return {
        'type': 'websocket',
        'asgi': context.scope_asgi,
        'http_version': '1.1',
        'scheme': 'wss' if is_ssl(transport) else 'ws',
        'server': _server_address(context, transport),
        'client': remote_address(transport),
        'root_path': root_path,
        'path': root_path + unquote(raw_path),
        'raw_path': (root_path + raw_path).encode('ascii'),
        'query_string': query.encode('ascii'),
        'headers': [
            _shared_header(name, value)
            if name in _SHARED_HEADERS and len(value) <= _MAX_SHARED
            else (name.encode('ascii'), value.encode('latin-1'))
            for name, value in request.headers.raw_items()
        ],
        'subprotocols': subprotocols,
        'state': context.app_state.copy(),
        'extensions': {
            'websocket.http.response': _NO_SETTINGS,
            EXTENSION: {'websocket': direct},
        },
    }


@functools.lru_cache(maxsize=1024)
def _shared_header(name: str, value: str) -> tuple[bytes, bytes]:
    return name.encode('ascii'), value.encode('latin-1')


def _server_address(
    context: ServerContext, transport: asyncio.Transport
) -> tuple[str, int | None] | None:
    """Return the server's address, nearly always the one that the last scope had."""
    address = get_local_addr(transport)
    if address != context.scope_server:
        context.scope_server = address
    return context.scope_server


def log_access(context: ServerContext, scope: dict[str, Any], status: int) -> None:
    """Log one handshake where uvicorn logs requests.

    SECURITY: Browsers cannot send headers with a WebSocket, so query strings carry
    tokens: that there was one is logged, and not what it held.
    """
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
