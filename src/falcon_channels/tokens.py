"""JSON Web Tokens that identify a client and allow subscriptions.

An application that identifies its users by an HTTP session needs no tokens, because the
handshake carries the cookie. Tokens are for clients that another service identifies.

A *connection token* has ``sub`` (the user's id, ``''`` for an anonymous user) and
``exp``. It may have ``info`` (public), ``meta`` (only for the server), ``channels`` and
``subs`` (server-side subscriptions) and ``expire_at``. A *subscription token* has
``sub``, ``channel`` and ``exp``, and may have ``info`` and ``expire_at``. Times are
Unix times in seconds.

SECURITY: an attacker controls the header of a forged token. Each key is therefore bound
to its algorithm before any token is read. Tokens with ``none``, or with an HMAC made
with a public key, are refused because their algorithm differs. ``kid`` only selects
among the given keys, and no header causes an external look-up. PyJWT verifies
signatures. Claims are decoded strictly: a time must be a number, not text that looks
like one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
from contextlib import AbstractContextManager
import time
from typing import Annotated
from typing import Any
from typing import Literal
from typing import TypeVar
import warnings

import msgspec

from falcon_channels.checks import check_user
from falcon_channels.errors import ExtraMissingError
from falcon_channels.errors import OptionsError
from falcon_channels.errors import TokenExpiredError
from falcon_channels.errors import TokenInvalidError

__all__ = [
    'Algorithm',
    'ConnectionToken',
    'SubscriptionToken',
    'TokenKey',
    'TokenSubscription',
    'TokenVerifier',
    'make_connection_token',
    'make_subscription_token',
]

#: Names of the algorithms that can sign a token.
Algorithm = Literal[
    'HS256',
    'HS384',
    'HS512',
    'RS256',
    'RS384',
    'RS512',
    'ES256',
    'ES384',
    'ES512',
    'EdDSA',
]

_HMAC_BYTES = {'HS256': 32, 'HS384': 48, 'HS512': 64}
_CURVES = {'P-256': 'ES256', 'P-384': 'ES384', 'P-521': 'ES512'}
_MAX_TOKEN_CHARACTERS = 16_384
_NEVER_EXPIRES = 0


def _jwt() -> Any:
    try:
        import jwt
    except ImportError as ex:
        raise ExtraMissingError('Tokens', 'tokens') from ex
    return jwt


class TokenKey:
    """A key together with its only algorithm.

    Args:
        key: Secret for HS256, HS384 and HS512. For the other algorithms a key in PEM
            format: public to verify, private to sign.
        algorithm: Algorithm of the key (default ``'HS256'``).
        kid: Id of the key, for rotation (default none). A token with an id is verified
            with the key of that id and with keys without an id.
        issuer: Issuer (``iss``) whose tokens the key verifies (default: any).
        allow_short: Whether to accept an HMAC secret shorter than its hash (RFC 7518
            section 3.2; default ``False``). An attacker can guess it from one token.

    Raises:
        OptionsError: The key is not valid for this algorithm.
        ExtraMissingError: PyJWT is not installed.
    """

    _material: Any

    def __init__(
        self,
        key: str | bytes,
        algorithm: Algorithm = 'HS256',
        *,
        kid: str = '',
        issuer: str = '',
        allow_short: bool = False,
    ) -> None:
        jwt = _jwt()
        material = key.encode() if isinstance(key, str) else key
        wanted_bytes = _HMAC_BYTES.get(algorithm, 0)
        if len(material) < wanted_bytes and not (allow_short and material):
            raise OptionsError(
                f'a secret of {len(material)} bytes is too short for {algorithm}, '
                f"which needs {wanted_bytes}: make one with python -c 'import secrets; "
                f"print(secrets.token_urlsafe({wanted_bytes}))'"
            )
        self._setup(algorithm, kid, issuer)
        self._short = len(material) < wanted_bytes
        try:
            self._material = jwt.get_algorithm_by_name(algorithm).prepare_key(material)
        except (jwt.PyJWTError, NotImplementedError, TypeError, ValueError) as ex:
            raise OptionsError(f'not a key for {algorithm}: {ex}') from None

    def _setup(self, algorithm: str, kid: str, issuer: str) -> None:
        jwt = _jwt()
        self.algorithm = algorithm
        self.kid = kid
        self.issuer = issuer
        # NOTE: each key has its own PyJWS object, which supports no other algorithm.
        self._jws: Any = jwt.PyJWS(algorithms=[algorithm])
        self._short = False

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any], *, issuer: str = '') -> TokenKey:
        """Return the public key in a JSON Web Key (RFC 7517).

        Args:
            jwk: The key. Its ``alg`` is the algorithm; without it, the algorithm
                follows from the key type (RS256 for RSA).
            issuer: Issuer (``iss``) whose tokens the key verifies (default: any).

        Raises:
            OptionsError: The key type is not supported, or the key is private.
        """
        jwt = _jwt()
        kind = jwk.get('kty')
        default = {'RSA': 'RS256', 'OKP': 'EdDSA'}.get(str(kind)) or _CURVES.get(
            str(jwk.get('crv'))
        )
        algorithm = jwk.get('alg', default)
        family = {'RSA': 'RS', 'EC': 'ES', 'OKP': 'Ed'}.get(str(kind))
        # SECURITY: anyone can read a key set, so a private key in it is compromised.
        if family is None or not str(algorithm).startswith(family) or 'd' in jwk:
            raise OptionsError(
                f'a JSON Web Key of kind {kind!r} for {algorithm!r}: '
                'public RSA, EC and OKP keys are supported'
            )
        found = cls.__new__(cls)
        found._setup(str(algorithm), str(jwk.get('kid', '')), issuer)
        try:
            found._material = jwt.PyJWK(dict(jwk), str(algorithm)).key
        except (jwt.PyJWTError, TypeError, ValueError) as ex:
            raise OptionsError(f'not a JSON Web Key: {ex}') from None
        return found

    def verified(self, token: str) -> bytes | None:
        """Return the payload of a token if this key has signed it, else ``None``."""
        jwt = _jwt()
        try:
            with self._quiet():
                whole = self._jws.decode_complete(
                    token, self._material, algorithms=[self.algorithm]
                )
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError):
            # NOTE: PyJWT does not catch the errors of its JSON parser, such as for
            #   deeply nested headers or for a number of 5000 digits.
            return None
        payload: bytes = whole['payload']
        return payload

    def signed(self, claims: Mapping[str, Any]) -> str:
        """Return a token with these claims.

        Raises:
            OptionsError: The key is public and cannot sign.
        """
        jwt = _jwt()
        headers = {'kid': self.kid} if self.kid else None
        try:
            with self._quiet():
                token: str = self._jws.encode(
                    msgspec.json.encode(claims),
                    self._material,
                    algorithm=self.algorithm,
                    headers=headers,
                )
                return token
        except (AttributeError, TypeError, ValueError, jwt.PyJWTError) as ex:
            raise OptionsError(f'this key cannot sign: {ex}') from None

    def _quiet(self) -> AbstractContextManager[Any]:
        """Return a context that hides the warning about a short secret, if allowed."""
        if not self._short:
            return contextlib.nullcontext()
        return warnings.catch_warnings(
            action='ignore', category=_jwt().InsecureKeyLengthWarning
        )

    def __repr__(self) -> str:
        return f'<TokenKey {self.algorithm} kid={self.kid!r} issuer={self.issuer!r}>'


class TokenSubscription(msgspec.Struct, frozen=True):
    """A server-side subscription in a connection token.

    Attributes:
        info: Public data about the subscription, any JSON value.
        data: Data sent to the client with the subscription, any JSON value.
    """

    info: Any = None
    data: Any = None


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
    """

    user: str
    channel: str
    expires_at: float | None = None
    info: Any = None


# Unix time up to the year 9999, so that arithmetic with it cannot fail.
_Time = Annotated[float, msgspec.Meta(ge=0, le=253402300799)]


class _Claims(msgspec.Struct, kw_only=True):
    sub: str = ''
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


class _ConnectionClaims(_Claims):
    meta: Any = None
    channels: list[str] = []
    subs: dict[str, _SubClaim] = {}
    channel: str | None = None


class _SubscriptionClaims(_Claims):
    channel: str
    client: str = ''


_ClaimsT = TypeVar('_ClaimsT', bound=_Claims)


class TokenVerifier:
    """Verifies connection and subscription tokens.

    ::

        verifier = TokenVerifier(TokenKey(os.environ['TOKEN_SECRET']))

    Args:
        keys: One or several keys. To rotate, pass the new key and the old key with
            different ``kid`` until the last token of the old key has expired.
        issuer: ``iss`` that every token must have, or ``None`` for any (default).
        audience: ``aud`` that every token must contain, or ``None`` for any (default).
        require_exp: Whether to refuse tokens that never expire (default ``True``).
        leeway_s: Tolerated clock difference between computers in seconds (default 5).

    Raises:
        OptionsError: There is no key.
    """

    def __init__(
        self,
        keys: TokenKey | Sequence[TokenKey],
        *,
        issuer: str | None = None,
        audience: str | None = None,
        require_exp: bool = True,
        leeway_s: float = 5.0,
    ) -> None:
        self._keys = (keys,) if isinstance(keys, TokenKey) else tuple(keys)
        if not self._keys:
            raise OptionsError('a token verifier needs a key')
        self._issuer = issuer
        self._audience = audience
        self._require_exp = require_exp
        self._leeway_s = leeway_s

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

    def connection(self, token: str, *, now_s: float | None = None) -> ConnectionToken:
        """Verify a connection token and return its content.

        Args:
            token: Token from the client.
            now_s: Unix time in seconds (default: the current time).

        Raises:
            TokenExpiredError: The token has expired. The client should fetch a new one.
            TokenInvalidError: The token is not valid. Refuse the client.
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
        """
        claims = self._verify(token, _SubscriptionClaims, now_s)
        if claims.client:
            raise TokenInvalidError('tokens with the claim "client" are not supported')
        return SubscriptionToken(
            user=claims.sub,
            channel=claims.channel,
            expires_at=_expires_at(claims),
            info=_value(claims.info, claims.b64info),
        )

    def _verify(
        self, token: str, kind: type[_ClaimsT], now_s: float | None
    ) -> _ClaimsT:
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise TokenInvalidError(
                f'a token of {len(token)} characters exceeds {_MAX_TOKEN_CHARACTERS}'
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
        jwt = _jwt()
        try:
            kid = jwt.get_unverified_header(token).get('kid', '')
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise TokenInvalidError('not a token') from None
        for key in self._keys:
            if kid and key.kid and kid != key.kid:
                continue
            payload = key.verified(token)
            if payload is not None:
                return key, payload
        raise TokenInvalidError('the token is not signed by any of the keys')


def make_connection_token(
    key: TokenKey,
    user: str,
    *,
    ttl_s: float | None = 600.0,
    info: Any = None,
    meta: Any = None,
    channels: Sequence[str] = (),
    **claims: Any,
) -> str:
    """Return a token with which `user` may connect.

    Args:
        key: Key with a secret, or a private key.
        user: Id of the user, ``''`` for an anonymous user.
        ttl_s: Seconds until it expires (default 600), or ``None`` for never.
        info: Public data about the user, any JSON value.
        meta: Data that only the server sees, any JSON value.
        channels: Channels of server-side subscriptions (default none).
        claims: Further claims, such as ``aud`` or ``expire_at``.

    Raises:
        InvalidValueError: The user is not text.
    """
    optional = {'info': info, 'meta': meta, 'channels': list(channels) or None}
    return _signed(key, {'sub': check_user(user)}, optional, ttl_s, claims)


def make_subscription_token(
    key: TokenKey,
    user: str,
    channel: str,
    *,
    ttl_s: float | None = 600.0,
    info: Any = None,
    **claims: Any,
) -> str:
    """Return a token with which `user` may subscribe to `channel`.

    Args:
        key: Key with a secret, or a private key.
        user: Id of the user, as in the connection token.
        channel: Name of the channel.
        ttl_s: Seconds until it expires (default 600), or ``None`` for never.
        info: Public data about the subscription, any JSON value.
        claims: Further claims, such as ``aud`` or ``expire_at``.

    Raises:
        InvalidValueError: The user is not text.
    """
    required = {'sub': check_user(user), 'channel': channel}
    return _signed(key, required, {'info': info}, ttl_s, claims)


def _signed(
    key: TokenKey,
    required: Mapping[str, Any],
    optional: Mapping[str, Any],
    ttl_s: float | None,
    more: Mapping[str, Any],
) -> str:
    now_s = int(time.time())
    claims = {**required, 'iat': now_s}
    if key.issuer:
        claims['iss'] = key.issuer
    if ttl_s is not None:
        claims['exp'] = int(now_s + ttl_s)
    claims.update(
        (name, value) for name, value in optional.items() if value is not None
    )
    return key.signed({**claims, **more})


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
        return msgspec.json.decode(base64.b64decode(in_base64, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise TokenInvalidError('a base64 claim is not JSON') from None
