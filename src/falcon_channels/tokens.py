"""Tokens: JSON Web Tokens that say who connects, and what a user may subscribe to.

An application that knows its users by a session needs none of this: the handshake
carries the cookie. Tokens are for clients that got their rights elsewhere.

A *connection token* has ``sub`` (the user's id, ``''`` for somebody anonymous) and
``exp``, and may have ``info`` (public), ``meta`` (for the server alone), ``channels``
and ``subs`` (server-side subscriptions) and ``expire_at``. A *subscription token* has
``sub``, ``channel``, ``exp``, and may have ``info`` and ``expire_at``. Times are Unix
times in seconds.

SECURITY: what a token says about itself is not believed. Each key is bound to its
algorithm before any token is seen, so that ``none``, an HMAC made with a public key
and all their relatives fail in one comparison; ``kid`` only ever picks among the keys
that were given here, and no header leads to a look-up outside. Signatures are verified
by PyJWT; claims are then read strictly: a time is a number, not text that looks like
one.
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
_UNTIL_NEVER = 0


def _jwt() -> Any:
    try:
        import jwt
    except ImportError as ex:
        raise ExtraMissingError('Tokens', 'tokens') from ex
    return jwt


class TokenKey:
    """A key and the algorithm it is for; the two are never separated.

    Args:
        key: Secret for HS256 and its relatives; for the others a PEM text, public to
            verify or private to sign.
        algorithm: The only one that this key is used with.
        kid: The key's id, for rotation; a token that names an id is tried with that
            key and with keys that have none.
        issuer: Use the key only for tokens with this ``iss``.
        allow_short: Take an HMAC secret that is shorter than its hash (RFC 7518
            section 3.2). Such a secret can be guessed from one token.

    Raises:
        OptionsError: Not a key for this algorithm.
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
                f'a secret of {len(material)} bytes for {algorithm}, which needs '
                f"{wanted_bytes}: make one with python -c 'import secrets; "
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
        # NOTE: a signer of its own, in which no other algorithm is known.
        self._jws: Any = jwt.PyJWS(algorithms=[algorithm])
        self._short = False

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any], *, issuer: str = '') -> TokenKey:
        """Return the public key in a JSON Web Key (RFC 7517).

        Args:
            jwk: Its ``alg`` says the algorithm; without one it follows from the kind of
                key, RS256 for RSA.
            issuer: Use the key only for tokens with this ``iss``.

        Raises:
            OptionsError: A kind of key that is not taken, or a secret one.
        """
        jwt = _jwt()
        kind = jwk.get('kty')
        default = {'RSA': 'RS256', 'OKP': 'EdDSA'}.get(str(kind)) or _CURVES.get(
            str(jwk.get('crv'))
        )
        algorithm = jwk.get('alg', default)
        family = {'RSA': 'RS', 'EC': 'ES', 'OKP': 'Ed'}.get(str(kind))
        # SECURITY: a set of public keys has no secrets; one that has is published.
        if family is None or not str(algorithm).startswith(family) or 'd' in jwk:
            raise OptionsError(
                f'a JSON Web Key of kind {kind!r} for {algorithm!r}: '
                'public RSA, EC and OKP keys are taken'
            )
        found = cls.__new__(cls)
        found._setup(str(algorithm), str(jwk.get('kid', '')), issuer)
        try:
            found._material = jwt.PyJWK(dict(jwk), str(algorithm)).key
        except (jwt.PyJWTError, TypeError, ValueError) as ex:
            raise OptionsError(f'not a JSON Web Key: {ex}') from None
        return found

    def verified(self, token: str) -> bytes | None:
        """Return the payload of a token that this key has signed, else ``None``."""
        jwt = _jwt()
        try:
            with self._quiet():
                whole = self._jws.decode_complete(
                    token, self._material, algorithms=[self.algorithm]
                )
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError):
            # NOTE: beside PyJWT's own errors: what its JSON parser raises for
            #   headers that are nested too deep, or have a number of 5000 digits.
            return None
        payload: bytes = whole['payload']
        return payload

    def signed(self, claims: Mapping[str, Any]) -> str:
        """Return a token with these claims.

        Raises:
            OptionsError: It is a public key.
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
        """Silence the warning for a short secret, which was asked for here."""
        if not self._short:
            return contextlib.nullcontext()
        return warnings.catch_warnings(
            action='ignore', category=_jwt().InsecureKeyLengthWarning
        )

    def __repr__(self) -> str:
        return f'<TokenKey {self.algorithm} kid={self.kid!r} issuer={self.issuer!r}>'


class TokenSubscription(msgspec.Struct, frozen=True):
    """A server-side subscription that a connection token asks for.

    Attributes:
        info: Public facts about the subscription, any JSON value.
        data: What the client is told when it is subscribed, any JSON value.
    """

    info: Any = None
    data: Any = None


class ConnectionToken(msgspec.Struct, frozen=True):
    """What a valid connection token says.

    Attributes:
        user: The user's id, ``''`` for somebody anonymous.
        expires_at: When the connection ends unless it is refreshed, or ``None``.
        info: Public facts about the user, any JSON value.
        meta: What only the server sees, any JSON value.
        channels: Server-side subscriptions by channel.
    """

    user: str
    expires_at: float | None = None
    info: Any = None
    meta: Any = None
    channels: dict[str, TokenSubscription] = msgspec.field(default_factory=dict)


class SubscriptionToken(msgspec.Struct, frozen=True):
    """What a valid subscription token says.

    Attributes:
        user: Whose; the subscription must be refused to anybody else.
        channel: To which channel, and no other.
        expires_at: When the subscription ends unless it is refreshed, or ``None``.
        info: Public facts about the subscription, any JSON value.
    """

    user: str
    channel: str
    expires_at: float | None = None
    info: Any = None


# Unix time: until the year 9999, so that no arithmetic on it can fail.
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
        keys: One or several. To rotate, give the new key and the old one until the
            last token of the old one has expired; give them different ``kid``.
        issuer: The ``iss`` that every token must have, or ``None`` for any.
        audience: The ``aud`` that every token must name, or ``None`` for any.
        require_exp: Refuse tokens that never expire.
        leeway_s: How many seconds another computer's clock may be wrong.

    Raises:
        OptionsError: No key.
    """

    def __init__(
        self,
        keys: TokenKey | Sequence[TokenKey],
        *,
        issuer: str | None = None,
        audience: str | None = None,
        require_exp: bool = True,
        leeway_s: float = 0.0,
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
        """Return a verifier for a JSON Web Key Set that was read beforehand.

        Args:
            jwks: ``{"keys": [...]}``. Keys for encryption are passed over.
            issuer: Whose keys these are: ids of keys are unique per issuer only.
            options: As for `TokenVerifier`.

        Raises:
            OptionsError: A key that cannot be used.
        """
        keys = [
            TokenKey.from_jwk(jwk, issuer=issuer)
            for jwk in jwks.get('keys', ())
            if jwk.get('use', 'sig') == 'sig'
        ]
        return cls(keys, issuer=issuer, **options)

    def connection(self, token: str, *, now_s: float | None = None) -> ConnectionToken:
        """Return what a connection token says.

        Args:
            token: As the client sent it.
            now_s: Unix time; by default the clock's.

        Raises:
            TokenExpiredError: It was valid: the client should fetch a new one.
            TokenInvalidError: It is none of ours.
        """
        claims = self._verify(token, _ConnectionClaims, now_s)
        if claims.channel is not None:
            raise TokenInvalidError('a subscription token in the place of a connection')
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
        """Return what a subscription token says; compare its user and channel.

        Args:
            token: As the client sent it.
            now_s: Unix time; by default the clock's.

        Raises:
            TokenExpiredError: It was valid: the client should fetch a new one.
            TokenInvalidError: It is none of ours.
        """
        claims = self._verify(token, _SubscriptionClaims, now_s)
        if claims.client:
            raise TokenInvalidError('tokens for one connection only are not taken')
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
            raise TokenInvalidError(f'claims that cannot be read: {ex}') from None
        for issuer in (key.issuer, self._issuer):
            if issuer and issuer != claims.iss:
                raise TokenInvalidError('a token of another issuer')
        audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if self._audience is not None and self._audience not in audience:
            raise TokenInvalidError('a token for another audience')
        now = time.time() if now_s is None else now_s
        for start_s in (claims.nbf, claims.iat):
            if start_s is not None and start_s > now + self._leeway_s:
                raise TokenInvalidError('a token that is not valid yet')
        if claims.exp is None and self._require_exp:
            raise TokenInvalidError('a token without an end')
        if claims.exp is not None and claims.exp <= now - self._leeway_s:
            raise TokenExpiredError('an expired token')
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
        raise TokenInvalidError('a token that no key of ours has signed')


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
        key: A secret or a private key.
        user: The user's id, ``''`` for somebody anonymous.
        ttl_s: Seconds until it expires, or ``None`` for a token that never does.
        info: Public facts about the user, any JSON value.
        meta: What only the server sees, any JSON value.
        channels: Server-side subscriptions.
        claims: More claims, such as ``aud`` or ``expire_at``.
    """
    optional = {'info': info, 'meta': meta, 'channels': list(channels) or None}
    return _signed(key, {'sub': user}, optional, ttl_s, claims)


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
        key: A secret or a private key.
        user: The user's id, as in the connection token.
        channel: The one channel.
        ttl_s: Seconds until it expires, or ``None`` for a token that never does.
        info: Public facts about the subscription, any JSON value.
        claims: More claims, such as ``aud`` or ``expire_at``.
    """
    required = {'sub': user, 'channel': channel}
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
    """Return when what the token gave ends; ``expire_at`` of 0 means never."""
    if claims.expire_at is None:
        return claims.exp
    return None if claims.expire_at == _UNTIL_NEVER else claims.expire_at


def _value(value: Any, in_base64: str) -> Any:
    """Return a JSON value that is given as it is, or as JSON in base64."""
    if not in_base64:
        return value
    try:
        return msgspec.json.decode(base64.b64decode(in_base64, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise TokenInvalidError('a claim in base64 that is not JSON') from None
