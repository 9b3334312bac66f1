"""Keys that sign and verify JSON Web Tokens.

SECURITY: an attacker controls the header of a forged token. Each key is therefore bound
to its algorithm before any token is read. Tokens with ``none``, or with an HMAC made
with a public key, are refused because their algorithm differs. PyJWT does the
cryptography.
"""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
from contextlib import AbstractContextManager
from typing import Any
from typing import Literal
import warnings

import msgspec

from falcon_channels.checks import check_type
from falcon_channels.errors import ExtraMissingError
from falcon_channels.errors import OptionsError

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


def load_jwt() -> Any:
    """Return the module `jwt` of PyJWT, which is optional.

    Raises:
        ExtraMissingError: PyJWT is not installed.
    """
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
        jwt = load_jwt()
        if not isinstance(key, str | bytes):
            raise OptionsError(
                f'a key is text or bytes, not {type(key).__name__}: if it comes from '
                'the environment, set its variable'
            )
        check_type('algorithm', algorithm, str)
        check_type('kid', kid, str)
        check_type('issuer', issuer, str)
        check_type('allow_short', allow_short, bool)
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
        jwt = load_jwt()
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
        jwt = load_jwt()
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
        jwt = load_jwt()
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
        jwt = load_jwt()
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
            action='ignore', category=load_jwt().InsecureKeyLengthWarning
        )

    def __repr__(self) -> str:
        return f'<TokenKey {self.algorithm} kid={self.kid!r} issuer={self.issuer!r}>'
