"""The opening handshake: from a WSGI environ to a request, and the refusals.

NOTE: refusals are written to the socket by us, not by `start_response`. The connection
has to end after them: a client may have sent its next request behind a proxy that
takes the connection for a tunnel already. WSGI servers do not let an application say
``Connection: close`` (PEP 3333 forbids it, waitress raises, gunicorn ignores it).
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import falcon
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader
from websockets.headers import parse_extension
from websockets.http11 import Request
from websockets.http11 import Response

from falcon_channels.origin import log_refusal
from falcon_channels.origin import origin_error

_VERSION = '13'

# What the protocol core reads of a request.
_HEADERS = (
    'Connection',
    'Upgrade',
    'Sec-WebSocket-Key',
    'Sec-WebSocket-Version',
    'Sec-WebSocket-Protocol',
    'Sec-WebSocket-Extensions',
)


def _tokens(environ: dict[str, Any], name: str) -> list[str]:
    """Return the comma-separated values of a header; servers join repeated ones so."""
    value = environ.get(name)
    return [part.strip() for part in value.split(',')] if value is not None else []


def wants_websocket(environ: dict[str, Any]) -> bool:
    """Say whether a request asks for a WebSocket (RFC 6455 section 4.2.1).

    ``Upgrade`` without ``Connection: upgrade`` counts for nothing (RFC 9110 section
    7.8), then the request is an ordinary one.
    """
    upgrade = [token.lower() for token in _tokens(environ, 'HTTP_UPGRADE')]
    connection = [token.lower() for token in _tokens(environ, 'HTTP_CONNECTION')]
    return 'websocket' in upgrade and 'upgrade' in connection


def check_request(
    environ: dict[str, Any], allowed_origins: Collection[str], tells_version: bool
) -> None:
    """Refuse a handshake that is wrong whatever the application says.

    Args:
        environ: The request.
        allowed_origins: As in `WebSocketOptions.allowed_origins`.
        tells_version: Whether the server puts the client's HTTP version into the
            environ, as it should.

    Raises:
        falcon.HTTPError: 400, 403, 405, 426 or 505.
    """
    if environ['REQUEST_METHOD'] != 'GET':
        raise falcon.HTTPMethodNotAllowed(['GET'])
    if tells_version and environ.get('SERVER_PROTOCOL') != 'HTTP/1.1':
        raise falcon.HTTPError(falcon.HTTP_505, title='A WebSocket needs HTTP/1.1')
    length = environ.get('CONTENT_LENGTH')
    if length not in (None, '', '0') or 'HTTP_TRANSFER_ENCODING' in environ:
        # SECURITY: one side would take the body for frames, or frames for the body.
        raise falcon.HTTPBadRequest(title='A WebSocket handshake has no body')
    reason = origin_error(
        _tokens(environ, 'HTTP_ORIGIN'),
        _tokens(environ, 'HTTP_HOST'),
        environ.get('wsgi.url_scheme', 'http'),
        allowed_origins,
    )
    if reason is not None:
        log_refusal(environ.get('PATH_INFO', ''), reason)
    if reason is not None and reason.startswith('Host'):
        raise falcon.HTTPBadRequest(title=reason)
    if reason is not None:
        raise falcon.HTTPForbidden(title=reason)
    extensions = environ.get('HTTP_SEC_WEBSOCKET_EXTENSIONS')
    if extensions is not None:
        # RFC 6455 section 9.1; the core looks only if it has an extension to offer.
        try:
            parse_extension(extensions)
        except InvalidHeader as ex:
            raise falcon.HTTPBadRequest(title=_cut(ex)) from ex
    if environ.get('HTTP_SEC_WEBSOCKET_VERSION') != _VERSION:
        # RFC 6455 section 4.4.
        raise falcon.HTTPError(
            falcon.HTTP_426,
            title=f'This server speaks version {_VERSION} of the WebSocket protocol',
            headers={'Sec-WebSocket-Version': _VERSION},
        )


def _cut(ex: Exception) -> str:
    return ascii(str(ex)[:100])[1:-1]


def parse_request(environ: dict[str, Any]) -> Request:
    """Return the request as the protocol core wants it; it checks the rest."""
    headers = Headers()
    for name in _HEADERS:
        value = environ.get('HTTP_' + name.upper().replace('-', '_'))
        if value is not None:
            headers[name] = value
    return Request(path='/', headers=headers)


def parse_subprotocols(environ: dict[str, Any]) -> tuple[str, ...]:
    """Return the subprotocols that the client offers, in its order."""
    return tuple(filter(None, _tokens(environ, 'HTTP_SEC_WEBSOCKET_PROTOCOL')))


def refusal(
    status: int,
    text: str = '',
    *,
    headers: Iterable[tuple[str, str]] = (('Content-Type', 'text/plain'),),
    body: bytes | None = None,
) -> Response:
    """Return an HTTP response that refuses a handshake and ends the connection.

    Args:
        status: The HTTP status code.
        text: The body, by default the status's phrase.
        headers: All but those of the connection and the length.
        body: The body as bytes, instead of text.
    """
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ''
    if body is None:
        body = f'{text or phrase}\n'.encode()
    all_headers = Headers(
        [
            ('Date', formatdate(usegmt=True)),
            ('Connection', 'close'),
            ('Content-Length', str(len(body))),
        ]
    )
    for name, value in headers:
        if name.lower() not in ('connection', 'content-length', 'date'):
            all_headers[name] = value
    return Response(status, phrase, all_headers, body)
