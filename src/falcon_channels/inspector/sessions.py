"""Keys and sessions of the inspector.

A person types a key once. The page sends it in the body of one request, and gets a
cookie with a token. The token has the form ``{rights}.{expiry}.{random}.{signature}``.
The secret of the signature is derived from the key. Each process can therefore check a
token without a shared store. If a key is removed from the configuration, all its
sessions end.
"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import hmac
import secrets
import time
from typing import NamedTuple

from falcon_channels.errors import OptionsError
from falcon_channels.server_api.resource import ApiKeys
from falcon_channels.server_api.resource import list_keys

#: Seconds after which a person must type the key again.
SESSION_S = 12 * 3600
#: Largest difference between the clocks of two servers that check the same token.
_MAX_CLOCK_DIFFERENCE_S = 300
#: Longest token in characters that is checked. Valid tokens are shorter.
_MAX_TOKEN_CHARACTERS = 200

_READ, _WRITE = 'r', 'w'


class Session(NamedTuple):
    """The rights of one login.

    Attributes:
        can_write: Whether the session may publish and change users.
        expires_at: Unix time in seconds.
    """

    can_write: bool
    expires_at: int


class _Secrets(NamedTuple):
    """The keys of one kind of right, and the secrets derived from them."""

    rights: str
    keys: ApiKeys
    by_key: dict[str, bytes]


class InspectorSessions:
    """Checks keys and tokens.

    Args:
        keys: Keys of people who may only read.
        write_keys: Keys of people who may also publish, disconnect and revoke.

    Raises:
        OptionsError: There is no key, a key is too short or not text, or a key is in
            both lists.
    """

    def __init__(
        self, keys: str | Sequence[str], write_keys: str | Sequence[str] = ()
    ) -> None:
        readers, writers = list_keys(keys), list_keys(write_keys)
        if not readers:
            raise OptionsError(
                'add_inspector needs at least one key in keys: make one with '
                'secrets.token_urlsafe(32)'
            )
        if set(readers) & set(writers):
            raise OptionsError(
                'a key is in keys and in write_keys: people who may only look need '
                'another key'
            )
        self._kinds = [
            _Secrets(rights, ApiKeys(given), {key: _derive(key) for key in given})
            for rights, given in ((_WRITE, writers), (_READ, readers))
            if given
        ]

    def login(self, key: str) -> str | None:
        """Return a token for a key, or ``None`` if the key is not valid."""
        rights, secret = '', b''
        for kind in self._kinds:
            # NOTE: all kinds are checked, so the time does not depend on the key.
            if kind.keys.accept(key):
                rights, secret = kind.rights, kind.by_key[key]
        if not rights:
            return None
        expires_at = int(time.time()) + SESSION_S
        head = f'{rights}.{expires_at}.{secrets.token_urlsafe(9)}'
        return f'{head}.{_sign(secret, head)}'

    def find(self, token: str) -> Session | None:
        """Return the session of a token, or ``None`` if the token is not valid."""
        if len(token) > _MAX_TOKEN_CHARACTERS or not token.isascii():
            return None
        head, _, signature = token.rpartition('.')
        valid = ''
        for kind in self._kinds:
            for secret in kind.by_key.values():
                if hmac.compare_digest(signature, _sign(secret, head)):
                    valid = kind.rights
        # SECURITY: a person with a key for reading can derive its secret, and sign a
        #   token that claims the right to write. The rights therefore depend on the
        #   secret that matches, and the token must claim the same rights.
        rights, _, rest = head.partition('.')
        if not valid or rights != valid:
            return None
        digits = rest.partition('.')[0]
        if not digits.isdecimal():
            return None
        # SECURITY: such a person could also sign a token that is valid for longer than
        #   a login. Such tokens are refused.
        expires_at, now = int(digits), time.time()
        if not now < expires_at <= now + SESSION_S + _MAX_CLOCK_DIFFERENCE_S:
            return None
        return Session(can_write=valid == _WRITE, expires_at=expires_at)


def _derive(key: str) -> bytes:
    return hmac.digest(key.encode(), b'falcon-channels inspector session', 'sha256')


def _sign(secret: bytes, head: str) -> str:
    return hmac.new(secret, head.encode(), hashlib.sha256).hexdigest()


class LoginLimit:
    """Limits the failed logins of this process, per address and in total.

    Args:
        per_address: Failed logins in a minute after which an address must wait.
        in_total: Failed logins in a minute after which all addresses must wait. This
            also limits the number of stored addresses.
    """

    _WINDOW_S = 60.0

    def __init__(self, per_address: int = 5, in_total: int = 100) -> None:
        self._per_address = per_address
        self._in_total = in_total
        self._failures: dict[str, int] = {}
        self._began_s = time.monotonic()

    def wait_s(self, address: str) -> int:
        """Return the seconds until an address may try a key, or 0 if it may try now."""
        left_s = self._began_s + self._WINDOW_S - time.monotonic()
        if left_s <= 0:
            self._failures.clear()
            self._began_s = time.monotonic()
            return 0
        if (
            self._failures.get(address, 0) < self._per_address
            and sum(self._failures.values()) < self._in_total
        ):
            return 0
        return int(left_s) + 1

    def note_failure(self, address: str) -> None:
        """Count a failed login."""
        self._failures[address] = self._failures.get(address, 0) + 1
