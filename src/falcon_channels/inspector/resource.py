"""The inspector over HTTP: the page, the login and the API.

All requests of the API are ``POST {path}/api/{method}`` with a JSON body. User ids and
channel names are therefore not in the logs of proxies. The page sends the key once, in
the body of the method ``login``, and gets a cookie; see `sessions`.

SECURITY: another site could try to send requests with the cookie of a person. The
browser therefore sends the cookie only from pages of the same site
(``SameSite=Strict``), and only to the API of the inspector. Scripts cannot read it.
Each request also needs the content type of JSON, which a form cannot send. Requests
with the ``Origin`` of another site are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
import logging
from typing import Any

import falcon
import falcon.asgi
import msgspec

from falcon_channels.app_routes import add_routes
from falcon_channels.app_routes import check_path
from falcon_channels.app_routes import Responders
from falcon_channels.inspector.live_tail import LiveTails
from falcon_channels.inspector.live_tail import MAX_LIVE_TAILS
from falcon_channels.inspector.methods import InspectorMethods
from falcon_channels.inspector.methods import METHODS_WITH_EVENT
from falcon_channels.inspector.methods import READ_METHODS
from falcon_channels.inspector.methods import WRITE_METHODS
from falcon_channels.inspector.page import InspectorPage
from falcon_channels.inspector.page import set_safe_headers
from falcon_channels.inspector.recent_events import RecentEvents
from falcon_channels.inspector.sessions import InspectorSessions
from falcon_channels.inspector.sessions import LoginLimit
from falcon_channels.inspector.sessions import Session
from falcon_channels.inspector.sessions import SESSION_S
from falcon_channels.inspector.surveys import InspectorSurveys
from falcon_channels.node import Node
from falcon_channels.origin import request_origin_error
from falcon_channels.server_api.resource import read_json_body

_logger = logging.getLogger('falcon_channels')

COOKIE = 'falcon_channels_inspector'
#: Largest request in bytes. Test messages are the largest requests.
_MAX_BODY_BYTES = 1048576
#: Longest key in characters. Longer ones are refused without a comparison.
_MAX_KEY_CHARACTERS = 1024
#: Values of Sec-Fetch-Site in requests from other sites.
_OTHER_SITES = ('cross-site', 'same-site')


class _Login(msgspec.Struct, forbid_unknown_fields=True):
    key: str


class _Tail(msgspec.Struct, forbid_unknown_fields=True):
    channel: str


class _Target(msgspec.Struct):
    """The fields of a request that are logged. The payload is not logged."""

    user: str = ''
    client: str = ''
    channel: str = ''


class InspectorResource:
    """Falcon resource of the API of the inspector.

    Args:
        node: Node of this process.
        sessions: Sessions, which check keys and cookies.
        recent_events: Refusals and closes of this process.
    """

    def __init__(
        self, node: Node, sessions: InspectorSessions, recent_events: RecentEvents
    ) -> None:
        self._methods = InspectorMethods(node, InspectorSurveys(node, recent_events))
        self._node = node
        self._sessions = sessions
        self._limit = LoginLimit()
        self._tails = LiveTails(node)

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, method: str
    ) -> None:
        """Call a method of the API, or log in or out."""
        set_safe_headers(resp)
        _check_origin(req)
        body = await read_json_body(req, _MAX_BODY_BYTES)
        resp.content_type = falcon.MEDIA_JSON
        if method == 'login':
            self._login(req, resp, body)
            return
        session = self._find_session(req)
        if method == 'session':
            # NOTE: the page sends this request first. A browser would log a response
            #   with status 401 as an error. Without a session, the result is ``null``.
            media = None if session is None else _session_media(session)
            resp.data = msgspec.json.encode({'result': media})
            return
        if session is None:
            raise falcon.HTTPUnauthorized(
                description='log in with a key', challenges=['falcon-channels']
            )
        if method == 'logout':
            resp.unset_cookie(COOKIE, same_site='Strict')
            answer: dict[str, Any] = {'result': {}}
        elif method == 'tail':
            await self._tail(resp, body, session)
            return
        elif method in READ_METHODS:
            answer = await self._methods.call(method, body, req)
        elif method in WRITE_METHODS:
            if not session.can_write:
                raise falcon.HTTPForbidden(
                    description='this session may only read: log in with a key of '
                    'write_keys'
                )
            if method not in METHODS_WITH_EVENT:
                _log_change(method, body)
            answer = await self._methods.call(method, body, req)
        else:
            raise falcon.HTTPNotFound(description=f'there is no method {method[:80]!r}')
        resp.data = msgspec.json.encode(answer)

    async def _tail(
        self, resp: falcon.asgi.Response, body: bytes, session: Session
    ) -> None:
        """Answer with the publications of a channel, as server-sent events."""
        try:
            channel = msgspec.json.decode(body, type=_Tail).channel
        except (ValueError, RecursionError) as ex:
            raise falcon.HTTPBadRequest(description=str(ex)) from None
        if self._tails.is_full:
            raise falcon.HTTPServiceUnavailable(
                description=f'this process has {MAX_LIVE_TAILS} live tails: close '
                'another one first'
            )
        resp.content_type = 'text/event-stream'
        resp.set_header('X-Accel-Buffering', 'no')
        resp.sse = await self._tails.open(channel, session.expires_at)

    def _login(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, body: bytes
    ) -> None:
        address = req.remote_addr
        wait_s = self._limit.wait_s(address)
        if wait_s:
            raise falcon.HTTPTooManyRequests(
                description='too many wrong keys: try again later', retry_after=wait_s
            )
        try:
            key = msgspec.json.decode(body, type=_Login).key
        except (ValueError, RecursionError):
            raise falcon.HTTPBadRequest(
                description='send {"key": "..."} to log in'
            ) from None
        token = self._sessions.login(key) if len(key) <= _MAX_KEY_CHARACTERS else None
        session = None if token is None else self._sessions.find(token)
        if token is None or session is None:
            self._limit.note_failure(address)
            _logger.warning('inspector: refused a wrong key from %s', address)
            raise falcon.HTTPUnauthorized(
                description='this key is not valid', challenges=['falcon-channels']
            )
        _logger.info(
            'inspector: a login from %s may %s',
            address,
            'read and write' if session.can_write else 'read',
        )
        # NOTE: a proxy may have added a prefix to the path, which is unknown here. The
        #   cookie therefore has no path. Browsers then use the folder of this request,
        #   which is the folder of the API.
        resp.set_cookie(
            COOKIE,
            token,
            max_age=SESSION_S,
            secure=req.scheme == 'https',
            http_only=True,
            same_site='Strict',
        )
        resp.data = msgspec.json.encode({'result': _session_media(session)})

    def _find_session(self, req: falcon.asgi.Request) -> Session | None:
        for token in req.get_cookie_values(COOKIE) or ():
            session = self._sessions.find(token)
            if session is not None:
                return session
        return None


def _check_origin(req: falcon.asgi.Request) -> None:
    """Refuse requests from other sites, and requests with a key in the URL.

    Raises:
        falcon.HTTPForbidden: The request comes from another site.
        falcon.HTTPBadRequest: The Host header cannot be trusted, or the URL has a key.
    """
    reason = request_origin_error(req, ())
    site = req.get_header('Sec-Fetch-Site')
    if reason is None and site in _OTHER_SITES:
        reason = f'the request comes from another site (Sec-Fetch-Site: {site})'
    if reason is not None:
        _logger.warning('inspector: refused a request: %s', reason)
        if reason.startswith('Host'):
            raise falcon.HTTPBadRequest(description=reason)
        raise falcon.HTTPForbidden(description=reason)
    if req.has_param('key') or req.has_param('api_key'):
        # SECURITY: URLs are stored in logs, browser histories and Referer headers,
        #   where an attacker can read them.
        raise falcon.HTTPBadRequest(
            description='a key in the URL is not accepted, and is no longer secret: '
            'replace it, and type it into the page'
        )


def _log_change(method: str, body: bytes) -> None:
    """Log a change, with its user, connection and channel."""
    try:
        target = msgspec.json.decode(body, type=_Target)
    except (ValueError, RecursionError):
        return  # the method refuses the body
    _logger.info(
        'inspector: %s, user %.80r, client %.80r, channel %.80r',
        method,
        target.user,
        target.client,
        target.channel,
    )


def _session_media(session: Session) -> dict[str, Any]:
    return {'can_write': session.can_write, 'expires_at': session.expires_at}


def mount_inspector(
    node: Node,
    app: falcon.asgi.App[Any, Any],
    path: str,
    keys: str | Sequence[str],
    write_keys: str | Sequence[str],
) -> None:
    """Add the inspector to an app; see `Channels.add_inspector`.

    Raises:
        OptionsError: The path or a key is not valid, or the path is taken.
    """
    path = check_path('path', path, '/_channels')
    sessions = InspectorSessions(keys, write_keys)
    recent_events = RecentEvents()
    page = InspectorPage(path)
    routes = {
        path: page,
        f'{path}/': Responders(page, 'slash'),
        f'{path}/assets/{{name}}': Responders(page, 'asset'),
        f'{path}/api/{{method}}': InspectorResource(node, sessions, recent_events),
    }
    add_routes(app, routes, method='add_inspector', argument='path')
    node.events.listen(recent_events.on_event)
