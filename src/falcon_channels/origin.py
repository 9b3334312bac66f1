"""Who may open a WebSocket from a page: the check of the Origin header.

Browsers send cookies with a WebSocket handshake to any site, and the same-origin
policy does not hold them back. What protects the user is the ``Origin`` header, which
a page cannot forge, and a server that reads it. Without the check, any page on the
web can open a WebSocket in the name of a logged-in visitor and read the answers
(cross-site WebSocket hijacking).

The rules, of RFC 6454 section 5 and RFC 6455 section 10.2:

* Same origin: the Origin must be the scheme, host and port that the handshake itself
  was sent to. Default ports are filled in, letters compare without case.
* Other origins must be listed: ``'https://example.com'`` exactly, or
  ``'https://*.example.com'`` for one or more whole labels before the name.
* ``null``, which sandboxed frames and local files send, is no origin of ours.
* No Origin header is fine: no browser sent it, so there are no stolen cookies in it.
* A handshake with two Origin headers, or without exactly one Host header, is refused:
  two readers could pick different ones.

NOTE: the scheme counts. A page that came over plain HTTP may have been written by
whoever owns the network, and must not reach the site behind TLS. The price: where a
proxy ends TLS, the server has to learn the scheme from it (``X-Forwarded-Proto``, with
the proxy's address in uvicorn's ``--forwarded-allow-ips``), or the origin is listed.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence
from ipaddress import IPv6Address
import logging
import re
from typing import NamedTuple

import falcon
import falcon.asgi

from falcon_channels.errors import OptionsError

__all__ = ['OriginCheck']

_logger = logging.getLogger('falcon_channels')

_DEFAULT_PORTS = {'http': 80, 'https': 443}
_SCHEMES = {'ws': 'http', 'wss': 'https'}

# RFC 3986 section 3.2.2 without the comma: a list of two hosts is not a host.
_AUTHORITY = r"(\[[0-9a-f:.]+\]|[a-z0-9._~%!$&'()*+;=-]+)(?::([0-9]{1,5}))?"
_HOST = re.compile(_AUTHORITY)
_ORIGIN = re.compile(rf'([a-z][a-z0-9+.-]*)://{_AUTHORITY}')

# A reason quotes what the client sent, up to so many characters.
_MAX_QUOTED_CHARACTERS = 100


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None


def _origin(scheme: str, host: str, port: str | None) -> _Origin | None:
    """Return the parts in the form that compares, or None if one is not possible."""
    number = int(port) if port else _DEFAULT_PORTS.get(scheme)
    if number is not None and not 0 < number < 65536:
        return None
    if host.startswith('['):
        try:
            host = f'[{IPv6Address(host[1:-1])}]'
        except ValueError:
            return None
    return _Origin(scheme, host, number)


def _parse(text: str) -> _Origin | None:
    match = _ORIGIN.fullmatch(text.lower()) if text.isascii() else None
    return _origin(*match.groups()) if match else None


def _parse_host(scheme: str, text: str) -> _Origin | None:
    match = _HOST.fullmatch(text.lower()) if text.isascii() else None
    return _origin(scheme, *match.groups()) if match else None


def _matches(origin: _Origin, pattern: str) -> bool:
    allowed = _parse(pattern)
    if allowed is None:
        return False
    if not allowed.host.startswith('*.'):
        return origin == allowed
    # SECURITY: whole labels only. An end that merely looks the same
    # (https://evilexample.com) has let strangers in elsewhere.
    labels = origin.host.removesuffix(allowed.host[1:])
    return (
        origin._replace(host=allowed.host) == allowed
        and labels != origin.host
        and all(labels.split('.'))
    )


def _quote(text: str) -> str:
    return ascii(text[:_MAX_QUOTED_CHARACTERS])


def check_allowed_origins(allowed: Collection[str]) -> tuple[str, ...]:
    """Check a list of allowed origins, so that a slip shows at start-up.

    Args:
        allowed: Origins such as ``'https://example.com'``, patterns such as
            ``'https://*.example.com'``, or ``'*'`` to allow every origin.

    Returns:
        The same as a tuple, for `origin_error`.

    Raises:
        OptionsError: If one of them can never match; the message names it.
    """
    if isinstance(allowed, str):
        raise OptionsError(f'allowed origins are a list of strings, not {allowed!r}')
    for pattern in allowed:
        parsed = _parse(pattern)
        wrong_star = parsed is not None and '*' in parsed.host.removeprefix('*.')
        if pattern != '*' and (parsed is None or wrong_star):
            raise OptionsError(
                f'{pattern!r} is not an origin: write scheme://host or '
                'scheme://host:port without a path, in ASCII, such as '
                "'https://example.com' or 'https://*.example.com'"
            )
    return tuple(allowed)


def origin_error(
    origins: Sequence[str],
    hosts: Sequence[str],
    scheme: str,
    allowed: Collection[str],
) -> str | None:
    """Say why a handshake must not go on, or None if it may.

    Args:
        origins: The values of all its Origin headers.
        hosts: The values of all its Host headers.
        scheme: What the client used: ``http``, ``https``, ``ws`` or ``wss``.
        allowed: Other origins than its own that may connect, checked before with
            `check_allowed_origins`; ``'*'`` allows every origin, also ``null``.

    Returns:
        A short reason, safe to log and to send. One that is about the Host header
        begins with ``Host`` (answer 400), the others with ``Origin`` (answer 403).
    """
    if not hosts:
        return 'Host header is missing'
    if len(hosts) > 1:
        return 'Host header is repeated'
    own = _parse_host(_SCHEMES.get(scheme, scheme), hosts[0])
    if own is None:
        return f'Host header is not a host: {_quote(hosts[0])}'
    if not origins:
        return None
    if len(origins) > 1:
        return 'Origin header is repeated'
    if '*' in allowed:
        return None
    origin = _parse(origins[0])
    if origin is None:
        return f'Origin is not allowed: {_quote(origins[0])}'
    if origin == own or any(_matches(origin, pattern) for pattern in allowed):
        return None
    return (
        f'Origin {_quote(origins[0])} is neither allowed nor that of this request, '
        f'{own.scheme}://{_quote(hosts[0])[1:-1]}'
    )


def request_origin_error(
    req: falcon.asgi.Request, allowed: Collection[str]
) -> str | None:
    """Say why a handshake must not go on, as `origin_error`, from its ASGI request."""
    # NOTE: not req.get_header(), which cannot tell a repeated header. But headers of
    # a scope may be an iterator, as in falcon.testing, which Falcon has read to its
    # end by now; then its dict is all there is.
    headers = [
        (bytes(name), value.decode('latin-1')) for name, value in req.scope['headers']
    ] or [(name.encode('latin-1'), value) for name, value in req.headers_lower.items()]
    return origin_error(
        [value for name, value in headers if name == b'origin'],
        [value for name, value in headers if name == b'host'],
        req.scheme,
        allowed,
    )


def log_refusal(path: str, reason: str) -> None:
    """Say in the log why a handshake was refused, which its client cannot show."""
    _logger.warning(
        'refused a handshake at %.80r: %s. Pages of other origins are listed in '
        'allowed_origins; behind a proxy the server has to learn the host and the '
        'scheme that the browser used',
        path,
        reason,
    )


class OriginCheck:
    """Middleware that refuses a WebSocket handshake from a page of another origin.

    ::

        app = falcon.asgi.App(middleware=[OriginCheck()])

    A refused handshake never reaches a responder: `falcon.HTTPForbidden` before the
    WebSocket is accepted, which the client sees as HTTP 403. Requests that are no
    WebSockets pass; they have CORS.

    Args:
        allowed: Other origins than the app's own that may connect, such as
            ``'https://example.com'`` or ``'https://*.example.com'``; ``'*'`` allows
            every origin, for endpoints that use neither cookies nor addresses to
            decide who somebody is.

    Raises:
        OptionsError: If `allowed` holds something that is not an origin.
    """

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self._allowed = check_allowed_origins(allowed)

    def check(self, req: falcon.asgi.Request) -> None:
        """Refuse a request whose Origin is not allowed; for any method.

        For handlers of form posts and the like, where cookies say who somebody is: a
        page of another site can send these as well (cross-site request forgery).

        Raises:
            falcon.HTTPForbidden: About the Origin.
            falcon.HTTPBadRequest: About the Host.
        """
        reason = request_origin_error(req, self._allowed)
        if reason is None:
            return
        log_refusal(req.path, reason)
        if reason.startswith('Host'):
            raise falcon.HTTPBadRequest(description=reason)
        raise falcon.HTTPForbidden(description=reason)

    async def process_request_ws(
        self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket
    ) -> None:
        """Refuse the handshake if its Origin is not allowed.

        Raises:
            falcon.HTTPForbidden: About the Origin.
            falcon.HTTPBadRequest: About the Host. ASGI servers but ours answer 403.
        """
        self.check(req)
