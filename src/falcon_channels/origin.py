"""The check of the Origin header: which pages may open a WebSocket.

Browsers send cookies with a WebSocket handshake to any site, and the same-origin policy
does not prevent it. A page cannot forge the ``Origin`` header, so the server must check
it. Without the check, any page on the web can open a WebSocket as a logged-in visitor.
The page can then read the answers (cross-site WebSocket hijacking).

The rules follow RFC 6454 section 5 and RFC 6455 section 10.2:

* Same origin: the Origin must have the scheme, host and port that the handshake was
  sent to. Default ports are filled in, and case is ignored.
* Other origins must be listed: ``'https://example.com'`` exactly, or
  ``'https://*.example.com'`` for one or more whole labels before the name.
* ``null``, which sandboxed frames and local files send, is never the same origin.
* A handshake without an Origin header passes. It does not come from a browser, so it
  carries no cookies of a victim.
* A handshake with two Origin headers, or without exactly one Host header, is refused.
  Two parsers could pick different headers.

NOTE: the scheme is compared, too. Anyone on the network can modify a page loaded over
plain HTTP. Such a page must not connect to a site that uses TLS. If a proxy terminates
TLS, it must forward the scheme in ``X-Forwarded-Proto``. uvicorn must trust the address
of the proxy (``--forwarded-allow-ips``). Otherwise list the origin as allowed.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence
import functools
from ipaddress import IPv6Address
import logging
import re
from typing import NamedTuple

import falcon
import falcon.asgi

from falcon_channels.errors import OptionsError
from falcon_channels.events import Event
from falcon_channels.events import log_event

__all__ = ['OriginCheck']

_DEFAULT_PORTS = {'http': 80, 'https': 443}
_SCHEMES = {'ws': 'http', 'wss': 'https'}

# RFC 3986 section 3.2.2 without the comma: a list of two hosts is not a host.
_AUTHORITY = r"(\[[0-9a-f:.]+\]|[a-z0-9._~%!$&'()*+;=-]+)(?::([0-9]{1,5}))?"
_HOST = re.compile(_AUTHORITY)
_ORIGIN = re.compile(rf'([a-z][a-z0-9+.-]*)://{_AUTHORITY}')

# Maximum number of characters of a client's header that a reason quotes.
_MAX_QUOTED_CHARACTERS = 100
#: Longest path of a refused request in an event.
_MAX_PATH_CHARACTERS = 255


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None


def _origin(scheme: str, host: str, port: str | None) -> _Origin | None:
    """Return the normalized origin, or ``None`` if a part is not valid."""
    number = int(port) if port else _DEFAULT_PORTS.get(scheme)
    if number is not None and not 0 < number < 65536:
        return None
    if host.startswith('['):
        try:
            host = f'[{IPv6Address(host[1:-1])}]'
        except ValueError:
            return None
    return _Origin(scheme, host, number)


@functools.lru_cache(maxsize=256)
def _parse(text: str) -> _Origin | None:
    match = _ORIGIN.fullmatch(text.lower()) if text.isascii() else None
    return _origin(*match.groups()) if match else None


@functools.lru_cache(maxsize=256)
def _parse_host(scheme: str, text: str) -> _Origin | None:
    match = _HOST.fullmatch(text.lower()) if text.isascii() else None
    return _origin(scheme, *match.groups()) if match else None


def _matches(origin: _Origin, pattern: str) -> bool:
    allowed = _parse(pattern)
    if allowed is None:
        return False
    if not allowed.host.startswith('*.'):
        return origin == allowed
    # SECURITY: compare whole labels. Otherwise an attacker registers a name with the
    #   same ending (https://evilexample.com).
    labels = origin.host.removesuffix(allowed.host[1:])
    return (
        origin._replace(host=allowed.host) == allowed
        and labels != origin.host
        and all(labels.split('.'))
    )


def _quote(text: str) -> str:
    return ascii(text[:_MAX_QUOTED_CHARACTERS])


def check_allowed_origins(allowed: Collection[str]) -> tuple[str, ...]:
    """Check a list of allowed origins, so that mistakes are found at start-up.

    Args:
        allowed: Origins such as ``'https://example.com'``, patterns such as
            ``'https://*.example.com'``, or ``'*'`` to allow every origin.

    Returns:
        The origins as a tuple, for `origin_error`.

    Raises:
        OptionsError: An entry can never match; the message names it.
    """
    # NOTE: a generator is empty after this check, and would allow no origin.
    if isinstance(allowed, str | bytes) or not isinstance(allowed, Collection):
        raise OptionsError(f'allowed origins are a list of strings, not {allowed!r}')
    for pattern in allowed:
        parsed = _parse(pattern) if isinstance(pattern, str) else None
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
    """Return the reason to refuse a handshake, or ``None`` if it is allowed.

    Args:
        origins: Values of all Origin headers.
        hosts: Values of all Host headers.
        scheme: Scheme of the request: ``http``, ``https``, ``ws`` or ``wss``.
        allowed: Other origins that may connect, already checked by
            `check_allowed_origins`; ``'*'`` allows every origin, also ``null``.

    Returns:
        A short reason that is safe to log and to send. It begins with ``Host`` (answer
        400) or with ``Origin`` (answer 403).
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


def request_origin_error(req: falcon.Request, allowed: Collection[str]) -> str | None:
    """Return the result of `origin_error` for a request of an ASGI or a WSGI app."""
    if not isinstance(req, falcon.asgi.Request):
        # NOTE: WSGI servers join repeated headers with commas.
        origin, host = req.env.get('HTTP_ORIGIN'), req.env.get('HTTP_HOST')
        return origin_error(
            [] if origin is None else origin.split(','),
            [] if host is None else host.split(','),
            req.scheme,
            allowed,
        )
    # NOTE: req.get_header() joins repeated headers, so read the scope instead. But its
    #   headers may be an iterator that Falcon has consumed, as in falcon.testing. Then
    #   only Falcon's dict is left.
    headers = list(req.scope['headers']) or [
        (name.encode('latin-1'), value.encode('latin-1'))
        for name, value in req.headers_lower.items()
    ]
    return origin_error(
        [value.decode('latin-1') for name, value in headers if name == b'origin'],
        [value.decode('latin-1') for name, value in headers if name == b'host'],
        req.scheme,
        allowed,
    )


def refused_connection(path: str, status: int, reason: str) -> Event:
    """Return the event of a refused request for a connection.

    Args:
        path: Path of the request, without its query string; a long one is cut.
        status: HTTP status.
        reason: Why it was refused.
    """
    facts = {'path': path[:_MAX_PATH_CHARACTERS]}
    return Event('connection_refused', code=status, reason=reason, facts=facts)


def log_refusal(path: str, reason: str) -> Event:
    """Log why a handshake was refused, because browsers do not show the reason.

    Args:
        path: Path of the request.
        reason: The reason, which `origin_error` has returned.

    Returns:
        The event, for the listeners of the node. Its code is the HTTP status: 400 if
        the Host header cannot be trusted, else 403.
    """
    status = 400 if reason.startswith('Host') else 403
    event = refused_connection(path, status, reason)
    log_event(
        event,
        logging.WARNING,
        'refused a handshake at %.80r: %s. Add other origins to allowed_origins; '
        'behind a proxy, forward the host and the scheme that the browser used',
        path,
        reason,
    )
    return event


class OriginCheck:
    """Middleware that refuses a WebSocket handshake from a page of another origin.

    ::

        app = falcon.asgi.App(middleware=[OriginCheck()])

    A refused handshake never reaches a responder. It raises `falcon.HTTPForbidden`
    before the WebSocket is accepted, and the client gets HTTP 403. Requests that are
    not WebSocket handshakes pass, because CORS protects them.

    Args:
        allowed: Other origins that may connect (default none), such as
            ``'https://example.com'`` or ``'https://*.example.com'``. ``'*'`` allows
            every origin; use it only if endpoints identify users neither by cookies nor
            by addresses.

    Raises:
        OptionsError: An entry of `allowed` is not an origin.
    """

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self._allowed = check_allowed_origins(allowed)

    def check(self, req: falcon.asgi.Request) -> None:
        """Refuse a request of any method if its Origin is not allowed.

        Call it in handlers of form posts that identify the user by a cookie. A page of
        another site can send such posts, too (cross-site request forgery).

        Raises:
            falcon.HTTPForbidden: The Origin is not allowed.
            falcon.HTTPBadRequest: The Host header is missing, repeated or not valid.
        """
        reason = request_origin_error(req, self._allowed)
        if reason is None:
            return
        if log_refusal(req.path, reason).code == 400:
            raise falcon.HTTPBadRequest(description=reason)
        raise falcon.HTTPForbidden(description=reason)

    async def process_request_ws(
        self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket
    ) -> None:
        """Refuse the handshake if its Origin is not allowed.

        Raises:
            falcon.HTTPForbidden: The Origin is not allowed.
            falcon.HTTPBadRequest: The Host header is missing, repeated or not valid.
                Other ASGI servers than ours answer 403.
        """
        self.check(req)
