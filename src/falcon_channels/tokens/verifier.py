"""Verifies JSON Web Tokens, and reads their claims."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import time
from typing import Annotated
from typing import Any
from typing import TypeVar

import msgspec

from falcon_channels.checks import check_seconds
from falcon_channels.checks import check_type
from falcon_channels.checks import MAX_ID_CHARACTERS
from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import KeysUnavailableError
from falcon_channels.errors import OptionsError
from falcon_channels.errors import TokenExpiredError
from falcon_channels.errors import TokenInvalidError
from falcon_channels.filters import check_depth
from falcon_channels.filters import TagFilter
from falcon_channels.json_decoding import decode_base64
from falcon_channels.tokens.keys import load_jwt
from falcon_channels.tokens.keys import TokenKey
from falcon_channels.tokens.remote import RemoteKeySet

#: Largest number of characters of a token.
MAX_TOKEN_CHARACTERS = 16_384
_NEVER_EXPIRES = 0


class TokenSubscription(msgspec.Struct, frozen=True):
    """A server-side subscription in a connection token.

    Attributes:
        info: Public data about the subscription, any JSON value.
        data: Data sent to the client with the subscription, any JSON value.
        filter: Condition on the tags of the publications that the client receives, or
            ``None``.
    """

    info: Any = None
    data: Any = None
    filter: TagFilter | None = None


class ConnectionToken(msgspec.Struct, frozen=True):
    """The content of a valid connection token.

    Attributes:
        user: Id of the user, ``''`` for an anonymous user.
        expires_at: Unix time at which the connection expires, or ``None``.
        info: Public data about the user, any JSON value.
        meta: Data that only the server sees, any JSON value.
        channels: Server-side subscriptions by channel.
    """

    user: str
    expires_at: float | None = None
    info: Any = None
    meta: Any = None
    channels: dict[str, TokenSubscription] = msgspec.field(default_factory=dict)


class SubscriptionToken(msgspec.Struct, frozen=True):
    """The content of a valid subscription token.

    Attributes:
        user: Id of the user; refuse the subscription to any other user.
        channel: The only channel that the token is for.
        expires_at: Unix time at which the subscription expires, or ``None``.
        info: Public data about the subscription, any JSON value.
        filter: Condition on the tags of the publications that the client receives, or
            ``None``.
    """

    user: str
    channel: str
    expires_at: float | None = None
    info: Any = None
    filter: TagFilter | None = None


# Unix time up to the year 9999, so that arithmetic with it cannot fail.
_Time = Annotated[float, msgspec.Meta(ge=0, le=253402300799)]


class _Claims(msgspec.Struct, kw_only=True):
    sub: Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARACTERS)] = ''
    exp: _Time | None = None
    nbf: _Time | None = None
    iat: _Time | None = None
    iss: str = ''
    aud: str | list[str] = ''
    info: Any = None
    b64info: str = ''
    expire_at: _Time | None = None


class _SubClaim(msgspec.Struct):
    info: Any = None
    b64info: str = ''
    data: Any = None
    b64data: str = ''
    server_tags_filter: TagFilter | None = None


class _ConnectionClaims(_Claims):
    meta: Any = None
    channels: list[str] = []
    subs: dict[str, _SubClaim] = {}
    channel: str | None = None


class _SubscriptionClaims(_Claims):
    channel: str
    client: str = ''
    server_tags_filter: TagFilter | None = None


_ClaimsT = TypeVar('_ClaimsT', bound=_Claims)


class TokenVerifier:
    """Verifies connection and subscription tokens.

    ::

        verifier = TokenVerifier(TokenKey(os.environ['TOKEN_SECRET']))

    With a `RemoteKeySet`, await `prepare` before you verify a token. The endpoints do
    this.

    Args:
        keys: One or several keys, or key sets that are fetched. To replace a key, pass
            the new key and the old key with different ``kid``. Remove the old key when
            its last token has expired.
        issuer: ``iss`` that every token must have, or ``None`` for any (default).
        audience: ``aud`` that every token must contain, or ``None`` for any (default).
        require_exp: Whether to refuse tokens that never expire (default ``True``).
        leeway_s: Tolerated clock difference between computers in seconds (default 5).

    Raises:
        OptionsError: There is no key, or a key has another type.
    """

    def __init__(
        self,
        keys: TokenKey | RemoteKeySet | Sequence[TokenKey | RemoteKeySet],
        *,
        issuer: str | None = None,
        audience: str | None = None,
        require_exp: bool = True,
        leeway_s: float = 5.0,
    ) -> None:
        given: tuple[Any, ...] = (keys,)
        if isinstance(keys, Iterable) and not isinstance(keys, str | bytes):
            given = tuple(keys)
        if not given:
            raise OptionsError('a token verifier needs a key')
        for key in given:
            if not isinstance(key, TokenKey | RemoteKeySet):
                # SECURITY: the value can be a secret, which must not get into a log.
                raise OptionsError(
                    'a key of a token verifier is a TokenKey or a RemoteKeySet, not '
                    f'{type(key).__name__}: write TokenVerifier(TokenKey(secret))'
                )
        check_type('issuer', issuer, (str, type(None)))
        check_type('audience', audience, (str, type(None)))
        check_type('require_exp', require_exp, bool)
        self._keys = [key for key in given if isinstance(key, TokenKey)]
        self._remote = [key for key in given if isinstance(key, RemoteKeySet)]
        self._issuer = issuer
        self._audience = audience
        self._require_exp = require_exp
        self._leeway_s: float = check_seconds('leeway_s', leeway_s, zero=True)

    @classmethod
    def from_jwks(
        cls, jwks: Mapping[str, Any], *, issuer: str, **options: Any
    ) -> TokenVerifier:
        """Return a verifier for a JSON Web Key Set that the application has loaded.

        Args:
            jwks: ``{"keys": [...]}``. Keys for encryption are ignored.
            issuer: Issuer of the keys, because key ids are unique only per issuer.
            options: Further arguments of `TokenVerifier`.

        Raises:
            OptionsError: A key cannot be used.
        """
        keys = [
            TokenKey.from_jwk(jwk, issuer=issuer)
            for jwk in jwks.get('keys', ())
            if jwk.get('use', 'sig') == 'sig'
        ]
        return cls(keys, issuer=issuer, **options)

    async def prepare(self, token: str) -> None:
        """Fetch the keys that a token needs, if the verifier has a `RemoteKeySet`.

        Call this before `connection` or `subscription`. It waits only if the keys were
        not fetched yet, or if the token may be signed by a newer key.

        Args:
            token: Token from the client.

        Raises:
            TokenInvalidError: The keys were fetched, and none of them signed the token.
            KeysUnavailableError: The keys cannot be fetched now. Try again later.
        """
        if not self._remote or len(token) > MAX_TOKEN_CHARACTERS:
            return
        kid = _key_id(token)
        known = bool(kid) and any(key.kid == kid for key in self._all_keys())
        if known or self._find_signer(token, kid) is not None:
            for remote in self._remote:
                remote.refresh_if_due()
            return
        # SECURITY: anyone can send tokens with invented ids. `fetch` limits how often
        #   they cause a request.
        fetched = await asyncio.gather(*(remote.fetch() for remote in self._remote))
        if self._find_signer(token, kid) is not None:
            return
        if all(fetched):
            raise TokenInvalidError('the token is not signed by any of the keys')
        raise KeysUnavailableError(
            'the token may be signed by a key that cannot be fetched now: '
            + ', '.join(remote.url for remote in self._remote)
        )

    def connection(self, token: str, *, now_s: float | None = None) -> ConnectionToken:
        """Verify a connection token and return its content.

        Args:
            token: Token from the client.
            now_s: Unix time in seconds (default: the current time).

        Raises:
            TokenExpiredError: The token has expired. The client should fetch a new one.
            TokenInvalidError: The token is not valid. Refuse the client.
            KeysUnavailableError: The keys were not fetched; see `prepare`.
        """
        claims = self._verify(token, _ConnectionClaims, now_s)
        if claims.channel is not None:
            raise TokenInvalidError(
                'a subscription token was sent instead of a connection token'
            )
        channels = {channel: TokenSubscription() for channel in claims.channels}
        for channel, claim in claims.subs.items():
            channels[channel] = TokenSubscription(
                info=_value(claim.info, claim.b64info),
                data=_value(claim.data, claim.b64data),
                filter=_checked(claim.server_tags_filter),
            )
        return ConnectionToken(
            user=claims.sub,
            expires_at=_expires_at(claims),
            info=_value(claims.info, claims.b64info),
            meta=claims.meta,
            channels=channels,
        )

    def subscription(
        self, token: str, *, now_s: float | None = None
    ) -> SubscriptionToken:
        """Verify a subscription token and return its content.

        The caller must compare its user and channel with those of the request.

        Args:
            token: Token from the client.
            now_s: Unix time in seconds (default: the current time).

        Raises:
            TokenExpiredError: The token has expired. The client should fetch a new one.
            TokenInvalidError: The token is not valid. Refuse the client.
            KeysUnavailableError: The keys were not fetched; see `prepare`.
        """
        claims = self._verify(token, _SubscriptionClaims, now_s)
        if claims.client:
            raise TokenInvalidError('tokens with the claim "client" are not supported')
        return SubscriptionToken(
            user=claims.sub,
            channel=claims.channel,
            expires_at=_expires_at(claims),
            info=_value(claims.info, claims.b64info),
            filter=_checked(claims.server_tags_filter),
        )

    def _verify(
        self, token: str, kind: type[_ClaimsT], now_s: float | None
    ) -> _ClaimsT:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise TokenInvalidError(
                f'a token of {len(token)} characters exceeds {MAX_TOKEN_CHARACTERS}'
            )
        key, payload = self._signer(token)
        try:
            claims = msgspec.json.decode(payload, type=kind)
        except (ValueError, RecursionError) as ex:
            raise TokenInvalidError(f'the claims cannot be decoded: {ex}') from None
        for issuer in (key.issuer, self._issuer):
            if issuer and issuer != claims.iss:
                raise TokenInvalidError('the token has another issuer')
        audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if self._audience is not None and self._audience not in audience:
            raise TokenInvalidError('the token is for another audience')
        now = time.time() if now_s is None else now_s
        for start_s in (claims.nbf, claims.iat):
            if start_s is not None and start_s > now + self._leeway_s:
                raise TokenInvalidError('the token is not valid yet')
        if claims.exp is None and self._require_exp:
            raise TokenInvalidError('the token has no exp')
        if claims.exp is not None and claims.exp <= now - self._leeway_s:
            raise TokenExpiredError('the token has expired')
        return claims

    def _signer(self, token: str) -> tuple[TokenKey, bytes]:
        """Return the key that signed a token, and the token's payload."""
        found = self._find_signer(token, _key_id(token))
        if found is None:
            if not all(remote.keys for remote in self._remote):
                raise KeysUnavailableError('the keys were not fetched: call prepare')
            raise TokenInvalidError('the token is not signed by any of the keys')
        return found

    def _find_signer(self, token: str, kid: str) -> tuple[TokenKey, bytes] | None:
        for key in self._all_keys():
            if kid and key.kid and kid != key.kid:
                continue
            payload = key.verified(token)
            if payload is not None:
                return key, payload
        return None

    def _all_keys(self) -> list[TokenKey]:
        if not self._remote:
            return self._keys
        return [*self._keys, *(key for remote in self._remote for key in remote.keys)]


def _key_id(token: str) -> str:
    """Return the id of the key in the header of a token, ``''`` if it has none."""
    jwt = load_jwt()
    try:
        kid = jwt.get_unverified_header(token).get('kid', '')
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise TokenInvalidError('not a token') from None
    return str(kid)


def _checked(tag_filter: TagFilter | None) -> TagFilter | None:
    if tag_filter is not None:
        try:
            check_depth(tag_filter)
        except InvalidValueError as ex:
            raise TokenInvalidError(f'server_tags_filter: {ex}') from None
    return tag_filter


def _expires_at(claims: _Claims) -> float | None:
    """Return the Unix time of expiry; ``expire_at`` of 0 means never."""
    if claims.expire_at is None:
        return claims.exp
    return None if claims.expire_at == _NEVER_EXPIRES else claims.expire_at


def _value(value: Any, in_base64: str) -> Any:
    """Return a claim that is a JSON value, or JSON encoded in base64."""
    if not in_base64:
        return value
    try:
        return msgspec.json.decode(decode_base64(in_base64))
    except (ValueError, RecursionError):
        raise TokenInvalidError('a base64 claim is not JSON') from None
