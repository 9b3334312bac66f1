"""Who somebody is: a name in a signed cookie, or the key of a bot.

There are no passwords here. Where people have to log in, replace `Identify`: whatever
puts a `Member` into ``req.context.member`` is a login to the rest of the chat.
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
from falcon_channels_chat.bodies import read_json
from falcon_channels_chat.words import person_name

COOKIE = 'chat_session'
MAX_AGE_S = 30 * 24 * 60 * 60
#: A session older than this is signed again when its page is opened.
RENEW_AFTER_S = 24 * 60 * 60
BOT_KEY_AGE_S = 365 * 24 * 60 * 60

_SAFE_METHODS = ('GET', 'HEAD', 'OPTIONS')

Audience = Literal['session', 'bot']


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who may take part.

    Attributes:
        id: Never changes; what others cannot make up. A part of the name of a
            channel, so without ``:`` and ``/``.
        name: What others see.
        since_ms: Unix time in milliseconds at which the session began.
    """

    id: str
    name: str
    since_ms: int


class Signer:
    """Signs and reads sessions and keys of bots.

    Args:
        secret: At least 32 characters.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def sign(self, member: Member, audience: Audience, max_age_s: int) -> str:
        """Return a token for a member."""
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
        """Return whom a token is for and when it was signed; ``None``: not ours."""
        try:
            # SECURITY: one algorithm, and an audience, so that neither an unsigned
            #   token nor one that was made for something else is taken.
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
        """Return a key with which a bot of this name may post for a year."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        # NOTE: no id of a session has a full stop, so that this one is nobody else's.
        bot = Member(
            id=f'bot.{digest[:16]}', name=name, since_ms=time.time_ns() // 1_000_000
        )
        return self.sign(bot, 'bot', BOT_KEY_AGE_S)


class Identify:
    """Middleware: who a request comes from, and whether a page of ours sent it.

    Sets ``req.context.member`` (a `Member`, or ``None``) and
    ``req.context.signed_s``, the Unix time of its cookie.
    """

    def __init__(self, signer: Signer, origin: OriginCheck) -> None:
        self._signer = signer
        self._origin = origin

    async def process_request(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Identify the sender of an HTTP request."""
        by_cookie = self._identify(req)
        if req.method in _SAFE_METHODS:
            return
        # SECURITY: cookies come along when another site's page posts here (CSRF);
        #   browsers say in Origin which page it was, and always do so for a POST.
        self._origin.check(req)
        if by_cookie and req.get_header('Origin') is None:
            raise falcon.HTTPForbidden(description='An Origin header is missing.')

    async def process_request_ws(
        self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket
    ) -> None:
        """Identify the sender of a WebSocket handshake."""
        self._identify(req)

    def _identify(self, req: falcon.asgi.Request) -> bool:
        """Set the context; return whether a cookie said who it is."""
        req.context.member = None
        req.context.signed_s = 0
        scheme, _, key = (req.get_header('Authorization') or '').partition(' ')
        if scheme.lower() == 'bearer':
            found = self._signer.read(key, 'bot')
            if found is None:
                raise falcon.HTTPUnauthorized(description='That key is not valid.')
            req.context.member = found[0]
            return False
        for token in req.get_cookie_values(COOKIE) or []:
            found = self._signer.read(token, 'session')
            if found is not None:
                req.context.member, req.context.signed_s = found
                return True
        return False


async def need_member(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    resource: object,
    params: dict[str, Any],
) -> None:
    """Hook: let nobody in who has no name.

    Raises:
        falcon.HTTPUnauthorized: Pick a name first.
    """
    if req.context.member is None:
        raise falcon.HTTPUnauthorized(description='Pick a name first.')


class NewSession(msgspec.Struct, forbid_unknown_fields=True):
    """What a page sends to get a session: ``{"name": "Ada"}``."""

    name: str


class Session:
    """``/api/session``: who I am, pick a name, leave."""

    def __init__(self, signer: Signer, channels: Channels) -> None:
        self._signer = signer
        self._channels = channels

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Say who somebody is, ``{"id": ..., "name": ...}`` or 204."""
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
        """Give somebody a name; who has one already stays the same person."""
        name = person_name((await read_json(req, NewSession)).name)
        known = req.context.member
        if known is None:
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
        """Leave, on all tabs."""
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
