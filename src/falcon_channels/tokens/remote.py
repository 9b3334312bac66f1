"""Keys of an issuer, fetched from a URL as a JSON Web Key Set (RFC 7517).

* The application sets the URL. Nothing in a token changes it, and redirects are not
  followed.
* A set is used for at most `max_age_s`. After `refresh_s`, it is fetched again while
  the old set is still used. If that fails, the old set is used until it is too old.
* A token with an unknown key causes a fetch, because the issuer may have a new key. The
  number of fetches is limited, and callers share the fetch in progress.
* A fetch is limited in time and size. It runs in a thread, because the standard library
  has no other HTTP client. The event loop never waits longer than `timeout_s`.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
import logging
import math
import ssl
import threading
import time
from typing import Any
from typing import NamedTuple
import urllib.error
import urllib.parse
import urllib.request

import msgspec

from falcon_channels.checks import check_seconds
from falcon_channels.checks import check_type
from falcon_channels.errors import OptionsError
from falcon_channels.tokens.keys import load_jwt
from falcon_channels.tokens.keys import TokenKey

_logger = logging.getLogger('falcon_channels')

_MAX_BYTES = 262_144
_MAX_KEYS = 100
_CHUNK_BYTES = 16_384
#: Seconds between two attempts while the key set cannot be fetched.
_RETRY_S = 5.0
#: Seconds after which a fetch in progress no longer prevents another one.
_ABANDON_S = 60.0
_LOOPBACK = ('localhost', '127.0.0.1', '::1')


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


class _Fetched(NamedTuple):
    """The keys of a set, and the monotonic time of their fetch in seconds."""

    keys: tuple[TokenKey, ...]
    at_s: float


class RemoteKeySet:
    """The keys of an issuer, which are fetched when they are needed.

    ::

        keys = RemoteKeySet(
            'https://id.example/.well-known/jwks.json', issuer='https://id.example'
        )
        channels.add_endpoints(app, tokens=TokenVerifier(keys, audience='chat'))

    Args:
        url: URL of the key set (``jwks_uri``), with the scheme ``https``. For this
            computer, ``http`` is allowed too.
        issuer: Issuer (``iss``) whose tokens the keys verify.
        refresh_s: Seconds after which the set is fetched again (default 300).
        unknown_key_s: Minimum number of seconds between two fetches for tokens with
            unknown keys (default 30).
        max_age_s: Seconds after which a set that cannot be fetched again is not used
            any more (default 3600).
        timeout_s: Seconds for which a client waits for a fetch (default 3). An SDK
            gives up after 5.
        allow_http: Whether to allow a URL with ``http`` (default ``False``). Anyone on
            the path can then replace the keys.

    Raises:
        OptionsError: An argument is wrong.
        ExtraMissingError: PyJWT is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        issuer: str,
        refresh_s: float = 300.0,
        unknown_key_s: float = 30.0,
        max_age_s: float = 3600.0,
        timeout_s: float = 3.0,
        allow_http: bool = False,
    ) -> None:
        load_jwt()
        check_type('url', url, str)
        check_type('issuer', issuer, str)
        # SECURITY: the text 'false' of a variable in the environment is true.
        check_type('allow_http', allow_http, bool)
        parts = urllib.parse.urlsplit(url)
        secure = parts.scheme == 'https' or (
            parts.scheme == 'http' and (allow_http or parts.hostname in _LOOPBACK)
        )
        if not secure or not parts.hostname:
            raise OptionsError(
                f'{url!r} is not an https URL: anyone on the path to an http URL can '
                'replace the keys. If the path is safe, set allow_http=True'
            )
        if not issuer:
            raise OptionsError('issuer is empty: set it to the "iss" of the tokens')
        for name, seconds in (
            ('refresh_s', refresh_s),
            ('unknown_key_s', unknown_key_s),
            ('max_age_s', max_age_s),
            ('timeout_s', timeout_s),
        ):
            check_seconds(name, seconds)
        if max_age_s < refresh_s:
            raise OptionsError(
                f'max_age_s of {max_age_s} is below refresh_s of {refresh_s}'
            )
        self.url = url
        self._issuer = issuer
        self._refresh_s = refresh_s
        self._unknown_key_s = unknown_key_s
        self._max_age_s = max_age_s
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._fetched = _Fetched((), -math.inf)
        self._fetching: Future[bool] | None = None
        self._started_s = -math.inf
        self._failed = False

    @property
    def keys(self) -> tuple[TokenKey, ...]:
        """The keys; empty if they were not fetched yet or are too old."""
        keys, at_s = self._fetched
        return keys if time.monotonic() - at_s < self._max_age_s else ()

    def refresh_if_due(self) -> None:
        """Begin to fetch the set again if it is old; the old one is used meanwhile."""
        if time.monotonic() - self._fetched.at_s > self._refresh_s:
            self._start()

    async def fetch(self) -> bool:
        """Fetch the set, unless that was tried a short time ago.

        Returns:
            Whether the set was fetched now. If not, a key that is still unknown may be
            in the newest set.
        """
        fetching = self._start()
        if fetching is None:
            return False
        await asyncio.wait([asyncio.wrap_future(fetching)], timeout=self._timeout_s)
        return fetching.done() and fetching.result()

    def _start(self) -> Future[bool] | None:
        """Return the fetch in progress, or begin one if the last is old enough."""
        now_s = time.monotonic()
        with self._lock:
            since_s = now_s - self._started_s
            running = self._fetching is not None and not self._fetching.done()
            if running and since_s < _ABANDON_S:
                return self._fetching
            pause_s = self._unknown_key_s
            if self._failed:
                pause_s = min(_RETRY_S, pause_s)
            if since_s < pause_s:
                return None
            self._started_s = now_s
            fetching = self._fetching = Future()
        # NOTE: a daemon thread, because a server that does not answer must not keep the
        #   process alive.
        threading.Thread(
            target=self._run,
            args=(fetching, now_s),
            name='falcon_channels key set',
            daemon=True,
        ).start()
        return fetching

    def _run(self, fetching: Future[bool], started_s: float) -> None:
        keys: tuple[TokenKey, ...] = ()
        try:
            keys = self._parse(_download(self.url, self._timeout_s))
            problem = '' if keys else 'the set has no key that can be used'
        except Exception as ex:
            # NOTE: urllib and http.client raise many kinds of errors. Each one means
            #   that the set could not be fetched, and is logged below.
            problem = str(ex) or type(ex).__name__
        with self._lock:
            if problem and not self._failed:
                _logger.warning(
                    'cannot fetch the key set %s: %s; %s',
                    self.url,
                    problem,
                    f'the keys of {started_s - self._fetched.at_s:.0f} s ago are used'
                    if self._fetched.keys
                    else 'clients with its tokens cannot connect',
                )
            elif not problem and self._failed:
                _logger.info('the key set %s can be fetched again', self.url)
            self._failed = bool(problem)
            if keys and started_s > self._fetched.at_s:
                self._fetched = _Fetched(keys, started_s)
        fetching.set_result(not problem)

    def _parse(self, body: bytes) -> tuple[TokenKey, ...]:
        """Return the usable keys of a set; log those that cannot be used."""
        keys = []
        found = msgspec.json.decode(body, type=_KeySet).keys
        if len(found) > _MAX_KEYS:
            _logger.warning(
                'the key set %s has %d keys; only the first %d are used',
                self.url,
                len(found),
                _MAX_KEYS,
            )
        for jwk in found[:_MAX_KEYS]:
            if jwk.get('use', 'sig') != 'sig':
                continue
            try:
                keys.append(TokenKey.from_jwk(jwk, issuer=self._issuer))
            except OptionsError as ex:
                _logger.info('a key of %s is not used: %s', self.url, ex)
        return tuple(keys)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects.

    SECURITY: a redirect could lead to an address without TLS, or to another host.
    """

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """Follow no redirect; the status is an error."""


def _download(url: str, timeout_s: float) -> bytes:
    """Return the body of a small resource.

    Raises:
        OSError: It cannot be downloaded in time, or it is too large.
    """
    deadline_s = time.monotonic() + timeout_s
    opener = urllib.request.build_opener(
        _NoRedirects,
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
    )
    request = urllib.request.Request(url, headers={'Accept': 'application/json'})
    with opener.open(request, timeout=timeout_s) as response:
        body = b''
        # NOTE: the timeout of a socket applies to each read. A server that sends one
        #   byte at a time would therefore never exceed it.
        while chunk := response.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > _MAX_BYTES:
                raise OSError(f'it has more than {_MAX_BYTES} bytes')
            if time.monotonic() > deadline_s:
                raise OSError(f'it did not arrive within {timeout_s} s')
        return body
