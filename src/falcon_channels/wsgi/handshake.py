"""The opening handshake: checks of a WSGI environ, and the request for the core.

NOTE: Refusals are written to the socket directly, and not by `start_response`. The
connection must end after them: behind a proxy that assumes that the upgrade succeeded,
a client may have sent its next request already. WSGI does not let an application send
``Connection: close`` (PEP 3333 forbids it, waitress raises, gunicorn ignores it).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import falcon
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader
from websockets.http11 import Request

from falcon_channels.origin import log_refusal
from falcon_channels.origin import origin_error
from falcon_channels.websocket.handshake import check_extensions
from falcon_channels.websocket.handshake import VERSION

#: Headers that the protocol core reads.
_HEADERS = (
    'Connection',
    'Upgrade',
    'Sec-WebSocket-Key',
    'Sec-WebSocket-Version',
    'Sec-WebSocket-Protocol',
    'Sec-WebSocket-Extensions',
)
#: Maximum length of an error of the core that is sent to the client.
_MAX_ERROR_CHARACTERS = 100


def _tokens(environ: dict[str, Any], name: str) -> list[str]:
    """Return the comma-separated values of a header.

    Servers join repeated headers with commas, too.
    """
    value = environ.get(name)
    return [part.strip() for part in value.split(',')] if value is not None else []


def wants_websocket(environ: dict[str, Any]) -> bool:
    """Return whether a request asks for a WebSocket (RFC 6455 section 4.2.1).

    A request with ``Upgrade`` but without ``Connection: upgrade`` is an ordinary
    request (RFC 9110 section 7.8).
    """
    upgrade = [token.lower() for token in _tokens(environ, 'HTTP_UPGRADE')]
    connection = [token.lower() for token in _tokens(environ, 'HTTP_CONNECTION')]
    return 'websocket' in upgrade and 'upgrade' in connection


def check_request(
    environ: dict[str, Any], allowed_origins: Collection[str], tells_version: bool
) -> None:
    """Refuse a handshake that is not valid for any application.

    Args:
        environ: WSGI environ of the request.
        allowed_origins: Origins as in `WebSocketOptions.allowed_origins`.
        tells_version: Whether the server puts the client's HTTP version into the
            environ, as it should.

    Raises:
        falcon.HTTPError: The request is refused with 400, 403, 405, 426 or 505.
    """
    if environ['REQUEST_METHOD'] != 'GET':
        raise falcon.HTTPMethodNotAllowed(['GET'])
    if tells_version and environ.get('SERVER_PROTOCOL') != 'HTTP/1.1':
        raise falcon.HTTPError(falcon.HTTP_505, title='A WebSocket needs HTTP/1.1')
    length = environ.get('CONTENT_LENGTH')
    if length not in (None, '', '0') or 'HTTP_TRANSFER_ENCODING' in environ:
        # SECURITY: Client and server could disagree about where the body ends: a body
        # would be read as frames, or frames as a body.
        raise falcon.HTTPBadRequest(title='A WebSocket handshake has no body')
    reason = origin_error(
        _tokens(environ, 'HTTP_ORIGIN'),
        _tokens(environ, 'HTTP_HOST'),
        environ.get('wsgi.url_scheme', 'http'),
        allowed_origins,
    )
    if reason is not None:
        if log_refusal(environ.get('PATH_INFO', ''), reason).code == 400:
            raise falcon.HTTPBadRequest(title=reason)
        raise falcon.HTTPForbidden(title=reason)
    extensions = environ.get('HTTP_SEC_WEBSOCKET_EXTENSIONS')
    if extensions is not None:
        try:
            check_extensions([extensions])
        except InvalidHeader as ex:
            raise falcon.HTTPBadRequest(title=_printable(ex)) from ex
    if environ.get('HTTP_SEC_WEBSOCKET_VERSION') != VERSION:
        # RFC 6455 section 4.4.
        raise falcon.HTTPError(
            falcon.HTTP_426,
            title=f'This server speaks version {VERSION} of the WebSocket protocol',
            headers={'Sec-WebSocket-Version': VERSION},
        )


def _printable(ex: Exception) -> str:
    return ascii(str(ex)[:_MAX_ERROR_CHARACTERS])[1:-1]


def parse_request(environ: dict[str, Any]) -> Request:
    """Return the request in the form of the protocol core, which checks the rest."""
    headers = Headers()
    for name in _HEADERS:
        value = environ.get('HTTP_' + name.upper().replace('-', '_'))
        # NOTE: some clients that offer no subprotocol send an empty
        #   `Sec-WebSocket-Protocol`.
        if value is not None and (value.strip() or name != 'Sec-WebSocket-Protocol'):
            headers[name] = value
    return Request(path='/', headers=headers)


def parse_subprotocols(environ: dict[str, Any]) -> tuple[str, ...]:
    """Return the subprotocols that the client offers, in its order."""
    return tuple(filter(None, _tokens(environ, 'HTTP_SEC_WEBSOCKET_PROTOCOL')))
