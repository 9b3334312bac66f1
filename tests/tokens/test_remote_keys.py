"""Keys that are fetched from a URL: when they are fetched, and how that can fail."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import hashlib
import hmac
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
import json
import logging
import threading
import time
from typing import Any
from typing import Literal

from centrifuge import Client
from centrifuge import ClientEventHandler
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from endpoint.peer import serving
import jwt
import pytest
from support.sdk_tasks import finish_tasks

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import OptionsError
from falcon_channels.errors import KeysUnavailableError
from falcon_channels.errors import TokenInvalidError
from falcon_channels.testing import CommandError
from falcon_channels.testing import DisconnectedError
from falcon_channels.testing import SimulatedSdk
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import make_subscription_token
from falcon_channels.tokens import remote as remote_module
from falcon_channels.tokens import RemoteKeySet
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier

ISSUER = 'https://id.example'

pytestmark = pytest.mark.timeout(60)


class Signer:
    """A private key of the issuer, and its public half as a JSON Web Key."""

    def __init__(self, kid: str) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        self.pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        public = jwt.algorithms.ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
        self.jwk = {**public, **({'kid': kid} if kid else {})}
        self.key = TokenKey(self.pem, 'ES256', kid=kid, issuer=ISSUER)

    def token(self, user: str = 'ann') -> str:
        return make_connection_token(self.key, user)


class KeyServer:
    """An issuer's server, whose answer a test can change."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = refuse
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.paths.append(self.path)
                with contextlib.suppress(OSError):
                    server.answer(self)

            def log_message(self, *args: Any) -> None:
                """Log nothing."""

        self._http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self._http.daemon_threads = True
        self.url = f'http://127.0.0.1:{self._http.server_port}/keys'
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def publish(self, *signers: Signer) -> None:
        """Answer with the keys of these signers from now on."""
        self.answer = body(json.dumps({'keys': [s.jwk for s in signers]}).encode())

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def body(data: bytes, status: int = 200, **headers: str) -> Any:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header('Content-Length', str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


def encode(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b'=').decode()


def refuse(request: BaseHTTPRequestHandler) -> None:
    request.send_error(500)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.stop()


class Clock:
    """The real monotonic clock, which a test can set forward."""

    def __init__(self) -> None:
        self.offset_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.offset_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(remote_module, 'time', clock)
    return clock


async def user(verifier: TokenVerifier, token: str) -> str:
    await verifier.prepare(token)
    return verifier.connection(token).user


async def finished() -> None:
    """Wait until the fetch in progress is complete."""
    async with asyncio.timeout(20):
        while any('key set' in thread.name for thread in threading.enumerate()):
            await asyncio.sleep(0.01)


# --- which keys are used -------------------------------------------------------------


async def test_keys_are_fetched_once_for_many_tokens(server: KeyServer) -> None:
    """Clients that connect together share the first fetch; later ones need none."""
    signer = Signer('a')
    server.publish(signer)
    verifier = TokenVerifier(RemoteKeySet(server.url, issuer=ISSUER, timeout_s=20.0))
    with pytest.raises(KeysUnavailableError, match='call prepare'):
        verifier.connection(signer.token())
    tokens = [signer.token(f'user{number}') for number in range(50)]
    users = await asyncio.gather(*(user(verifier, token) for token in tokens))
    assert [f'user{number}' for number in range(50)] == users
    assert 'ann' == await user(verifier, signer.token())
    assert ['/keys'] == server.paths


@pytest.mark.parametrize('header', ['jku', 'x5u', 'jwk', 'x5c'])
async def test_token_cannot_name_the_place_of_its_key(
    server: KeyServer, header: Literal['jku', 'x5u', 'jwk', 'x5c']
) -> None:
    """No header of a token causes a request, or brings a key along."""
    signer, attacker = Signer('a'), Signer('a')
    server.publish(signer)
    value: Any = {
        'jku': server.url.replace('keys', 'attack'),
        'x5u': server.url.replace('keys', 'attack'),
        'jwk': attacker.jwk,
        'x5c': ['AAAA'],
    }[header]
    claims = {'sub': 'ann', 'iss': ISSUER, 'exp': time.time() + 60}
    forged = jwt.encode(
        claims, attacker.pem, 'ES256', headers={'kid': 'a', header: value}
    )
    verifier = TokenVerifier(RemoteKeySet(server.url, issuer=ISSUER))
    with pytest.raises(TokenInvalidError, match='not signed by any'):
        await user(verifier, forged)
    assert ['/keys'] == server.paths


async def test_keys_of_a_set_verify_only_tokens_of_their_issuer_and_kind(
    server: KeyServer,
) -> None:
    """Another issuer, and an HMAC that is made with a public key, are refused."""
    signer = Signer('a')
    server.publish(signer)
    verifier = TokenVerifier(RemoteKeySet(server.url, issuer=ISSUER))
    other = TokenKey(signer.pem, 'ES256', kid='a', issuer='https://other.example')
    with pytest.raises(TokenInvalidError, match='another issuer'):
        await user(verifier, make_connection_token(other, 'ann'))
    header = {'alg': 'HS256', 'kid': 'a'}
    claims = {'sub': 'ann', 'iss': ISSUER, 'exp': time.time() + 60}
    text = f'{encode(header)}.{encode(claims)}'
    secret = json.dumps(signer.jwk).encode()
    signature = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    with pytest.raises(TokenInvalidError, match='not signed'):
        await user(verifier, f'{text}.{encode(signature)}')


async def test_static_keys_and_remote_keys_work_together(server: KeyServer) -> None:
    """A token of a static key needs no fetch."""
    signer, own = Signer('a'), TokenKey('a secret of more than thirty-two bytes')
    server.publish(signer)
    verifier = TokenVerifier([own, RemoteKeySet(server.url, issuer=ISSUER)])
    assert 'bob' == await user(verifier, make_connection_token(own, 'bob'))
    assert 'ann' == await user(verifier, signer.token())


# --- when they are fetched again -----------------------------------------------------


async def test_new_key_of_the_issuer_is_fetched_when_its_first_token_arrives(
    server: KeyServer, clock: Clock
) -> None:
    """After a rotation, the new key is accepted at once, and the old one is gone."""
    old, new = Signer('old'), Signer('new')
    server.publish(old)
    verifier = TokenVerifier(RemoteKeySet(server.url, issuer=ISSUER))
    assert 'ann' == await user(verifier, old.token())
    server.publish(new)
    clock.offset_s = 31
    assert 'ann' == await user(verifier, new.token())
    clock.offset_s = 62
    with pytest.raises(TokenInvalidError):
        await user(verifier, old.token())


@pytest.mark.parametrize('kid', ['a', ''])
async def test_key_without_an_id_is_replaced_too(
    server: KeyServer, clock: Clock, kid: str
) -> None:
    """A token whose signature matches no key without an id may be of a newer key."""
    old, new = Signer(''), Signer('')
    server.publish(old)
    verifier = TokenVerifier(RemoteKeySet(server.url, issuer=ISSUER))
    assert 'ann' == await user(verifier, old.token())
    server.publish(new)
    key = TokenKey(new.pem, 'ES256', kid=kid, issuer=ISSUER)
    token = make_connection_token(key, 'ann')
    with pytest.raises(KeysUnavailableError):
        await user(verifier, token)
    clock.offset_s = 31
    assert 'ann' == await user(verifier, token)


async def test_invented_key_ids_cause_few_requests(
    server: KeyServer, clock: Clock
) -> None:
    """A flood of tokens with unknown ids causes one request in `unknown_key_s`.

    Meanwhile the answer is temporary: the token of an honest client may have a key that
    is newer than the set.
    """
    server.publish(Signer('a'))
    verifier = TokenVerifier(RemoteKeySet(server.url, issuer=ISSUER, timeout_s=20.0))
    attacker = Signer('x')

    async def attempt(number: int) -> str:
        key = TokenKey(attacker.pem, 'ES256', kid=f'{number}', issuer=ISSUER)
        try:
            await user(verifier, make_connection_token(key, 'ann'))
        except (TokenInvalidError, KeysUnavailableError) as ex:
            return type(ex).__name__
        return 'accepted'

    answers = await asyncio.gather(*(attempt(number) for number in range(200)))
    assert 'TokenInvalidError' == answers[0]
    assert 'accepted' not in answers
    assert 1 == len(server.paths)
    assert 'KeysUnavailableError' == await attempt(200)
    assert 1 == len(server.paths)
    clock.offset_s = 31
    assert 'TokenInvalidError' == await attempt(201)
    assert 2 == len(server.paths)


async def test_old_set_is_used_while_it_is_fetched_again(
    server: KeyServer, clock: Clock
) -> None:
    """After `refresh_s`, no client waits for the new set."""
    old, new = Signer('old'), Signer('new')
    server.publish(old)
    keys = RemoteKeySet(server.url, issuer=ISSUER)
    verifier = TokenVerifier(keys)
    await user(verifier, old.token())
    go = threading.Event()

    def slow(request: BaseHTTPRequestHandler) -> None:
        go.wait(20)
        body(json.dumps({'keys': [old.jwk, new.jwk]}).encode())(request)

    server.answer = slow
    clock.offset_s = 301
    assert 'ann' == await user(verifier, old.token())
    go.set()
    assert await keys.fetch()
    assert ['old', 'new'] == [key.kid for key in keys.keys]
    assert 2 == len(server.paths)


# --- failures ------------------------------------------------------------------------


def drip(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b' ')
        time.sleep(0.05)


FAILURES: dict[str, Any] = {
    'status 500': refuse,
    'no JSON': body(b'<html>'),
    'no set': body(b'[]'),
    'no keys': body(b'{"keys": []}'),
    'no usable keys': body(b'{"keys": [{"kty": "oct", "k": "AAAA"}, {"kty": "RSA"}]}'),
    'deep': body(b'{"keys": [' + b'[' * 100_000),
    'too large': body(b' ' * 300_000),
    'redirect': body(b'', 302, Location='/elsewhere'),
    'one byte after another': drip,
    'no answer': lambda request: time.sleep(5),
    'cut off': lambda request: request.wfile.write(b'HTTP/1.1 200 OK\r\nContent-L'),
}


@pytest.mark.parametrize('failure', FAILURES)
async def test_failed_fetch_is_temporary_and_keeps_the_old_keys(
    server: KeyServer, clock: Clock, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure ends in time, is logged once, and is repaired by the next fetch."""
    signer = Signer('a')
    keys = RemoteKeySet(server.url, issuer=ISSUER, timeout_s=1.0)
    verifier = TokenVerifier(keys)
    server.answer = FAILURES[failure]
    begin_s = time.monotonic()
    with pytest.raises(KeysUnavailableError, match='cannot be fetched now'):
        await user(verifier, signer.token())
    assert time.monotonic() - begin_s < 5
    server.publish(signer)
    await finished()
    clock.offset_s += 6
    assert 'ann' == await user(verifier, signer.token())
    server.answer = FAILURES[failure]
    clock.offset_s += 301
    assert 'ann' == await user(verifier, signer.token())
    await finished()
    assert 'ann' == await user(verifier, signer.token())
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert 2 == sum('cannot fetch the key set' in r.getMessage() for r in warnings)
    clock.offset_s += 3600
    with pytest.raises(KeysUnavailableError):
        await user(verifier, signer.token())
    assert '/elsewhere' not in server.paths
    # NOTE: the deadline of the last fetch is that of the test's clock.
    await finished()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'url': 'http://id.example/keys'}, 'is not an https URL'),
        ({'url': 'file:///etc/passwd'}, 'is not an https URL'),
        ({'url': 'https:///keys'}, 'is not an https URL'),
        ({'issuer': ''}, 'issuer is empty'),
        ({'timeout_s': 0}, 'timeout_s is 0, but must be a number of seconds above 0'),
        ({'refresh_s': float('nan')}, 'refresh_s is nan'),
        ({'refresh_s': 60, 'max_age_s': 59}, 'max_age_s of 59 is below refresh_s'),
    ],
)
def test_wrong_argument_of_a_key_set_is_refused(
    arguments: dict[str, Any], words: str
) -> None:
    """A wrong argument is named when the object is created."""
    arguments = {'url': 'https://id.example/keys', 'issuer': ISSUER, **arguments}
    with pytest.raises(OptionsError, match=words):
        RemoteKeySet(**arguments)


def test_http_url_is_accepted_if_the_application_allows_it() -> None:
    """An internal service may have no TLS."""
    url = 'http://keycloak.internal:8080/keys'
    assert url == RemoteKeySet(url, issuer=ISSUER, allow_http=True).url


# --- clients -------------------------------------------------------------------------


async def test_commands_that_need_keys_fail_temporarily_without_them(
    server: KeyServer, clock: Clock
) -> None:
    """Connect, subscribe and both refreshes are answered with an error after which an
    SDK tries again."""
    old, new = Signer('old'), Signer('new')
    channels = Channels()
    channels.add_route('room', None, ChannelOptions())
    tokens = TokenVerifier(RemoteKeySet(server.url, issuer=ISSUER))

    async def error(command: Any) -> tuple[int, bool]:
        with pytest.raises(CommandError) as caught:
            await command
        return caught.value.code, caught.value.temporary

    async with channels:
        client = SimulatedSdk(channels, tokens=tokens, token=old.token())
        assert (100, True) == await error(client.__aenter__())
        server.publish(old)
        clock.offset_s += 6
        async with SimulatedSdk(channels, tokens=tokens, token=old.token()) as ann:
            later = make_subscription_token(new.key, 'ann', 'room')
            assert (100, True) == await error(ann.subscribe('room', token=later))
            await ann.subscribe(
                'room', token=make_subscription_token(old.key, 'ann', 'room')
            )
            assert (100, True) == await error(
                ann.command('sub_refresh', channel='room', token=later)
            )
            assert (100, True) == await error(ann.refresh(new.token()))
            server.publish(new)
            clock.offset_s += 31
            await ann.refresh(new.token())
            await ann.command('sub_refresh', channel='room', token=later)
            clock.offset_s += 31
            with pytest.raises(DisconnectedError, match='3500'):
                await ann.refresh(old.token())


def test_python_sdk_connects_when_the_key_server_is_back(server: KeyServer) -> None:
    """A client that connected during an outage of the issuer is not lost for ever."""
    signer = Signer('a')

    async def scenario(ws_url: str) -> None:
        connected, failed = asyncio.Event(), asyncio.Event()

        class Events(ClientEventHandler):
            async def on_connected(self, ctx: Any) -> None:
                connected.set()

            async def on_error(self, ctx: Any) -> None:
                failed.set()

        client = Client(
            f'{ws_url}/connection/websocket',
            events=Events(),
            token=signer.token(),
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.2,
        )
        await client.connect()
        await asyncio.wait_for(failed.wait(), 20)
        assert not connected.is_set()
        server.publish(signer)
        await asyncio.wait_for(connected.wait(), 20)
        await client.disconnect()
        await finish_tasks()

    keys = RemoteKeySet(server.url, issuer=ISSUER, unknown_key_s=0.1)
    with serving(Channels(), tokens=TokenVerifier(keys)) as app:
        asyncio.run(scenario(app.ws_url))
