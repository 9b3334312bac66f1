"""Sessions: a member is identified by a signed cookie or by the key of a bot.

There are no passwords. To add a login, replace the middleware `Identify`. The rest of
the chat only reads the `Member` in ``req.context.member``.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Any
from typing import Literal

import falcon
import falcon.asgi
import jwt
import msgspec

from falcon_channels import Channels
from falcon_channels import OriginCheck
from falcon_channels_chat.rate_limit import RequestLimit
from falcon_channels_chat.request_body import read_json
from falcon_channels_chat.validation import valid_person_name

COOKIE = 'chat_session'
#: The page names its member in this header. If the cookie of the request is that of
#: another member, the request has no session.
#: SECURITY: all tabs of a browser share the cookie. A person leaves, and the next
#:   person of this computer picks a name in another tab. Without the header, messages
#:   of the first person that wait in a tab would be sent as those of the second.
#: NOTE: the header can only take away rights. The cookie alone decides who sends.
MEMBER_HEADER = 'Chat-Member'
MAX_AGE_S = 30 * 24 * 60 * 60
#: A cookie older than this is renewed when the page is opened.
RENEW_AFTER_S = 24 * 60 * 60
BOT_KEY_AGE_S = 365 * 24 * 60 * 60

_SAFE_METHODS = ('GET', 'HEAD', 'OPTIONS')

Audience = Literal['session', 'bot']


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A person or a bot that uses the chat.

    Attributes:
        id: Unique id that never changes and that others cannot choose. It is part of
            a channel name and therefore contains no ``:`` and no ``/``.
        name: Name that the others see.
        since_ms: Unix time in milliseconds at which the session began.
    """

    id: str
    name: str
    since_ms: int


class Signer:
    """Signs and verifies session cookies and keys of bots.

    Args:
        secret: Secret of at least 32 characters.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def sign(self, member: Member, audience: Audience, max_age_s: int) -> str:
        """Return a token for a member.

        Args:
            member: The member that the token identifies.
            audience: Purpose of the token: a session cookie, or the key of a bot.
            max_age_s: Seconds until the token expires.
        """
        claims = {
            'sub': member.id,
            'name': member.name,
            'since': member.since_ms,
            'iat': int(time.time()),
            'exp': int(time.time()) + max_age_s,
            'aud': audience,
        }
        return jwt.encode(claims, self._secret, algorithm='HS256')

    def read(self, token: str, audience: Audience) -> tuple[Member, int] | None:
        """Verify a token.

        Returns:
            The member and the Unix time of the signature in seconds; ``None`` if the
            token is invalid, expired or made for another audience.
        """
        try:
            # SECURITY: an attacker may send an unsigned token, or a token that was
            #   made for another purpose. Only one algorithm and one audience are
            #   accepted, so that both are refused.
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=['HS256'],
                audience=audience,
                options={'require': ['sub', 'name', 'since', 'iat', 'exp', 'aud']},
            )
        except jwt.InvalidTokenError:
            return None
        member = Member(id=claims['sub'], name=claims['name'], since_ms=claims['since'])
        return member, int(claims['iat'])

    def bot_key(self, name: str) -> str:
        """Return a key for a bot with this name. The key is valid for one year."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        # NOTE: the id of a person never contains a full stop. A bot therefore never
        #   has the id of a person.
        bot = Member(
            id=f'bot.{digest[:16]}', name=name, since_ms=time.time_ns() // 1_000_000
        )
        return self.sign(bot, 'bot', BOT_KEY_AGE_S)


class Identify:
    """Middleware: identifies the member of a request, and checks its origin.

    Sets ``req.context.member`` (a `Member`, or ``None``) and
    ``req.context.signed_s``, the Unix time at which the cookie was signed.
    """

    def __init__(self, signer: Signer, origin: OriginCheck) -> None:
        self._signer = signer
        self._origin = origin

    async def process_request(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Identify the sender of an HTTP request, and prevent CSRF."""
        by_cookie = self._identify(req)
        if req.method in _SAFE_METHODS:
            return
        # SECURITY: a page of another site can make a browser post here with the
        #   user's cookie (CSRF). Browsers always send the origin of the page with a
        #   POST. A request with a cookie is refused if its Origin is wrong or missing.
        self._origin.check(req)
        if by_cookie and req.get_header('Origin') is None:
            raise falcon.HTTPForbidden(description='The Origin header is missing.')

    async def process_request_ws(
        self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket
    ) -> None:
        """Identify the sender of a WebSocket handshake."""
        self._identify(req)

    def _identify(self, req: falcon.asgi.Request) -> bool:
        """Set the context; return whether the member was identified by a cookie."""
        req.context.member = None
        req.context.signed_s = 0
        scheme, _, key = (req.get_header('Authorization') or '').partition(' ')
        if scheme.lower() == 'bearer':
            found = self._signer.read(key, 'bot')
            if found is None:
                raise falcon.HTTPUnauthorized(description='That key is not valid.')
            req.context.member = found[0]
            return False
        expected = req.get_header(MEMBER_HEADER)
        for token in req.get_cookie_values(COOKIE) or []:
            found = self._signer.read(token, 'session')
            if found is not None and expected in (None, found[0].id):
                req.context.member, req.context.signed_s = found
                return True
        return False


async def require_member(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    resource: object,
    params: dict[str, Any],
) -> None:
    """Hook: refuse requests without a member.

    Raises:
        falcon.HTTPUnauthorized: There is no session and no key of a bot.
    """
    if req.context.member is None:
        raise falcon.HTTPUnauthorized(description='Pick a name first.')


class NewSession(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request for a session: ``{"name": "Ada"}``."""

    name: str


class Session:
    """``/api/session``: get the own member, pick a name, leave."""

    def __init__(
        self, signer: Signer, channels: Channels, people_per_address: int
    ) -> None:
        self._signer = signer
        self._channels = channels
        self._limit = RequestLimit(0.2, 10, people_per_address)

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Return the member, ``{"id": ..., "name": ...}``; 204 if there is none."""
        member = req.context.member
        if member is None:
            resp.status = falcon.HTTP_204
            return
        if 0 < req.context.signed_s < time.time() - RENEW_AFTER_S:
            self._set_cookie(req, resp, member)
        resp.media = {'id': member.id, 'name': member.name}

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Create a session with a name. An existing session keeps its member id."""
        name = valid_person_name((await read_json(req, NewSession)).name)
        known = req.context.member
        if known is None:
            self._limit.take_address(req)
            member = Member(
                id=secrets.token_urlsafe(12),
                name=name,
                since_ms=time.time_ns() // 1_000_000,
            )
        else:
            member = msgspec.structs.replace(known, name=name)
        self._set_cookie(req, resp, member)
        resp.status = falcon.HTTP_201
        resp.media = {'id': member.id, 'name': member.name}

    async def on_delete(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Delete the cookie, and close the connections of all tabs.

        NOTE: a copy of the cookie stays valid until it expires. The server has no list
        of sessions.
        """
        resp.unset_cookie(COOKIE, path='/', same_site='Strict')
        resp.status = falcon.HTTP_204
        if req.context.member is not None:
            await self._channels.disconnect_user(req.context.member.id)

    def _set_cookie(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, member: Member
    ) -> None:
        resp.set_cookie(
            COOKIE,
            self._signer.sign(member, 'session', MAX_AGE_S),
            max_age=MAX_AGE_S,
            path='/',
            http_only=True,
            same_site='Strict',
            secure=req.scheme == 'https',
        )
