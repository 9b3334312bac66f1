"""The server API over HTTP, with which back ends publish, read and command.

It is Centrifugo's server API, ``POST {prefix}/{method}`` with a JSON body, so that
`cent` and the client libraries of other languages work. An answer has the status 200
and ``{"result": {}}`` or ``{"error": {"code": 107, "message": "..."}}``. Any other
status means that the request did not reach a method. The method ``tail`` is answered
with a stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from functools import partial
import hashlib
import hmac
import logging
from typing import Any

import falcon
import falcon.asgi
import msgspec

from falcon_channels.app_routes import add_routes
from falcon_channels.app_routes import check_path
from falcon_channels.checks import check_number
from falcon_channels.errors import OptionsError
from falcon_channels.node import Node
from falcon_channels.server_api.methods import ApiMethods
from falcon_channels.server_api.requests import ApiError
from falcon_channels.transports.direct_answers import Answer
from falcon_channels.websocket.limits import log_too_big

_logger = logging.getLogger('falcon_channels')

#: Shortest key in bytes. A key of `secrets.token_urlsafe(32)` has 43.
MIN_KEY_BYTES = 12


class ApiKeys:
    """Keys of the server API; several are valid at the same time during a change.

    Args:
        keys: One key, or several.

    Raises:
        OptionsError: There is no key, or a key is too short, not ASCII or not text.
    """

    def __init__(self, keys: str | Sequence[str]) -> None:
        given = list_keys(keys)
        if not given:
            raise OptionsError('the server API needs at least one key')
        for key in given:
            # SECURITY: errors are logged, where an attacker could read a key. The
            #   messages therefore do not contain it.
            if not key.isascii() or not key.isprintable() or ' ' in key:
                raise OptionsError(
                    'a key has characters that are not printable ASCII, or spaces: '
                    'make one with secrets.token_urlsafe(32)'
                )
            if len(key) < MIN_KEY_BYTES:
                raise OptionsError(
                    f'a key of {len(key)} bytes is shorter than {MIN_KEY_BYTES}: '
                    'make one with secrets.token_urlsafe(32)'
                )
        # SECURITY: an attacker could measure how long a comparison takes and guess the
        #   key bit by bit. Digests have the same length, so the time is constant.
        self._digests = [_digest(key) for key in given]

    def accept(self, key: str) -> bool:
        """Return whether a key is valid, in a time that does not depend on the key."""
        digest = _digest(key)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found


def list_keys(keys: str | Sequence[str]) -> list[str]:
    """Return one key or several as a list.

    Raises:
        OptionsError: A key is not text, for example because a variable of the
            environment is not set.
    """
    several = isinstance(keys, Iterable) and not isinstance(keys, str | bytes)
    given: list[Any] = list(keys) if several else [keys]
    for key in given:
        if not isinstance(key, str):
            raise OptionsError(
                f'a key is text, not {type(key).__name__}: if it comes from the '
                'environment, set its variable'
            )
    return given


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode('utf-8', 'surrogateescape')).digest()


class ApiResource:
    """Falcon resource of the server API: ``POST {prefix}/{method}``.

    Args:
        node: Node of this process.
        keys: Valid keys.
        resource: Resource of the application for the method ``rpc``, or ``None``.
        max_body_bytes: Largest request in bytes.
    """

    def __init__(
        self,
        node: Node,
        keys: ApiKeys,
        resource: object = None,
        max_body_bytes: int = 1048576,
    ) -> None:
        self._methods = ApiMethods(node, resource)
        self._keys = keys
        self.max_body_bytes = max_body_bytes

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, method: str
    ) -> None:
        """Call a method."""
        self._authorize(req)
        body = await read_json_body(
            req, self.max_body_bytes, 'or set max_body_bytes of add_api'
        )
        if method == 'tail':
            try:
                connection = await self._methods.tail(body)
            except ApiError as ex:
                answer = msgspec.json.encode({'error': ex.to_media()})
            else:
                connection.stream(req, resp)
                return
        else:
            answer = await self._call(method, req, body)
        resp.content_type = falcon.MEDIA_JSON
        resp.cache_control = ['no-store']
        resp.data = answer

    def direct_answer(
        self, params: Mapping[str, str], headers: Mapping[bytes, bytes]
    ) -> Answer | None:
        """Return the function that calls a method; see `DirectResource`.

        SECURITY: `on_post` makes the same checks. It also writes the refusals.
        """
        method = params['method']
        key = _find_key(
            _text(headers.get(b'x-api-key')), _text(headers.get(b'authorization'))
        )
        if (
            self._methods.needs_request(method)
            or not _is_json(_text(headers.get(b'content-type')))
            or b'content-encoding' in headers
            or key is None
            or not self._keys.accept(key)
        ):
            return None
        return partial(self._call, method, None)

    async def _call(
        self, method: str, req: falcon.asgi.Request | None, body: bytes
    ) -> bytes:
        return msgspec.json.encode(await self._methods.call(method, body, req))

    def _authorize(self, req: falcon.asgi.Request) -> None:
        if req.has_param('api_key'):
            # SECURITY: URLs are stored in logs, browser histories and Referer headers,
            #   where an attacker can read them.
            raise falcon.HTTPBadRequest(
                description='a key in the URL is not accepted, and is no longer '
                'secret: replace it, and send it in the header X-API-Key'
            )
        key = _find_key(req.get_header('X-API-Key'), req.auth)
        if key is None or not self._keys.accept(key):
            _logger.warning('server API: refused %r without a valid key', req.path[:80])
            raise falcon.HTTPUnauthorized(
                description='send a valid key in the header X-API-Key',
                challenges=['apikey'],
            )


def _text(value: bytes | None) -> str | None:
    """Return the value of a header as Falcon does."""
    return None if value is None else value.decode('latin-1')


def _find_key(own_header: str | None, authorization: str | None) -> str | None:
    """Return the key of a request: from ``X-API-Key``, or ``Authorization: apikey``."""
    if own_header is not None:
        return own_header
    scheme, _, rest = (authorization or '').partition(' ')
    return rest.strip() if scheme.lower() == 'apikey' else None


def _is_json(content_type: str | None) -> bool:
    kind, _, _ = (content_type or '').partition(';')
    return kind.strip().lower() == 'application/json'


async def read_json_body(
    req: falcon.asgi.Request, limit_bytes: int, remedy: str = ''
) -> bytes:
    """Return the body of a request that has the content type of JSON.

    Args:
        req: The request.
        limit_bytes: Largest body in bytes.
        remedy: Text for the caller whose body is larger: how to change the limit.

    Raises:
        falcon.HTTPUnsupportedMediaType: It has another type, or is compressed.
        falcon.HTTPContentTooLarge: It is larger.
    """
    # SECURITY: a form on an attacker's site can post without a CORS preflight
    #   request, but not with this content type.
    if not _is_json(req.content_type):
        raise falcon.HTTPUnsupportedMediaType(
            description='send Content-Type: application/json'
        )
    if req.get_header('Content-Encoding', default='identity') != 'identity':
        raise falcon.HTTPUnsupportedMediaType(
            description='compressed requests are not supported'
        )
    length = req.content_length
    if length is not None:
        if length > limit_bytes:
            raise _too_large(req, length, limit_bytes, remedy)
        # PERF: Falcon reads at most `length` bytes. This needs no asynchronous
        #   generator (benchmarks/centrifugo.py).
        return await req.stream.readall()
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in req.stream:
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise _too_large(req, size_bytes, limit_bytes, remedy)
        chunks.append(chunk)
    return b''.join(chunks)


def _too_large(
    req: falcon.asgi.Request, size_bytes: int, limit_bytes: int, remedy: str
) -> falcon.HTTPError:
    log_too_big(req.path, size_bytes, 'max_body_bytes', limit_bytes)
    return falcon.HTTPContentTooLarge(
        description=f'the request exceeds max_body_bytes of {limit_bytes}: '
        + ', '.join(filter(None, ['send smaller requests', remedy]))
    )


def mount_api(
    node: Node,
    app: falcon.asgi.App[Any, Any],
    keys: str | Sequence[str],
    prefix: str,
    resource: object,
    max_body_bytes: int,
) -> None:
    """Add the resource of the server API to an app; see `Channels.add_api`.

    Raises:
        OptionsError: The prefix, the resource or a key is not valid, or the prefix is
            taken.
        TypeError: A responder is not a coroutine function.
    """
    check_number('max_body_bytes', max_body_bytes, 1)
    prefix = check_path('prefix', prefix, '/api', root=True)
    api = ApiResource(node, ApiKeys(keys), resource, max_body_bytes)
    routes = {f'{prefix}/{{method}}': api}
    add_routes(app, routes, method='add_api', argument='prefix')
