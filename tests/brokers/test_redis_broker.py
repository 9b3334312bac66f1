"""The Redis broker: URLs, secrets, limits, TLS, databases, and expiry of keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import logging
from pathlib import Path
import socket
import subprocess

import pytest
import redis
from support.audience import send_controls
from support.processes import free_port
from support.processes import wait_until
from support.redis_server import RedisServer

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.base import PresenceEntry
from falcon_channels.brokers.urls import open_broker
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import OptionsError
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder
from falcon_channels.testing.recorder import eventually

pytestmark = pytest.mark.xdist_group('redis')

LOG = LogSettings(size=100, ttl_s=60.0, meta_ttl_s=600.0)
ITEM = Publication(data=b'1')


@pytest.fixture(scope='module')
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp('redis'))
    yield server
    server.stop()


async def test_every_key_of_the_broker_expires(server: RedisServer) -> None:
    """Every key expires when it is not used, and contains no plain names."""
    broker = open_broker(f'{server.url}/5')
    await broker.start(Recorder())
    await broker.subscribe('empty', LOG)
    await broker.publish('news', ITEM, LOG, idempotency_key='k')
    await broker.control(b'hello')
    await broker.revoke('news', 'ann', 60)
    info = ClientInfo(user='ann', client='c')
    await broker.add_presence([PresenceEntry('news', info)], 60)
    await broker.close()
    with redis.Redis(port=server.port, db=5) as client:
        keys = client.keys()
        assert 11 == len(keys)
        assert [] == [key for key in keys if client.pttl(key) < 0]
        assert [] == [key for key in keys if b'news' in key or b'ann' in key]
        client.flushdb()


async def test_databases_and_prefixes_are_separate(server: RedisServer) -> None:
    """Brokers with another database or prefix share nothing, also in pub/sub."""
    brokers, recorders = [], []
    for rest in ('/6', '/7', '/7?prefix=other'):
        broker, recorder = open_broker(server.url + rest), Recorder()
        await broker.start(recorder)
        await broker.subscribe('news', LOG)
        brokers.append(broker)
        recorders.append(recorder)
    for number, broker in enumerate(brokers):
        await broker.publish('news', Publication(data=b'%d' % number), LOG)
        await broker.control(b'%d' % number)
    for number, recorder in enumerate(recorders):
        await recorder.until(
            lambda recorder=recorder: recorder.controls and recorder.publications,  # type: ignore[misc]
            'its own messages',
        )
        assert [b'%d' % number] == recorder.controls
        assert [b'%d' % number] == recorder.data_of('news')
    for broker in brokers:
        await broker.close()


async def test_control_messages_sent_while_the_link_is_lost_arrive_in_order(
    server: RedisServer,
) -> None:
    """Control messages arrive once and in order, while connections end."""
    url = f'{server.url}?prefix=controls&probe_s=0.2'
    one, two = open_broker(url), open_broker(url)
    recorder = Recorder()
    await one.start(Recorder())
    await two.start(recorder)
    sending = asyncio.create_task(send_controls(one))
    with redis.Redis(port=server.port) as client:
        for _ in range(5):
            client.execute_command('CLIENT', 'KILL', 'TYPE', 'pubsub')
            await recorder.until(
                lambda: 'restored' in recorder.links, 'the link is back'
            )
            recorder.links.clear()
    sending.cancel()
    (sent,) = await asyncio.gather(sending)
    await recorder.until(lambda: sent <= len(recorder.controls), 'the last message')
    assert [b'%d' % n for n in range(sent)] == recorder.controls[:sent]
    assert len(recorder.controls) <= sent + 1
    await one.close()
    await two.close()


@pytest.mark.parametrize(
    ('name', 'links'),
    [('{!control}', []), ('{bmV3cw}', []), ('{!probe}:*', ['lost', 'restored'])],
)
async def test_malformed_message_of_another_program_ends_no_announcements(
    server: RedisServer,
    name: str,
    links: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A message that cannot be decoded is logged, and later messages arrive."""
    broker = open_broker(f'{server.url}?prefix=malformed&probe_s=0.2')
    recorder = Recorder()
    await broker.start(recorder)
    await broker.subscribe('news', LOG)
    with redis.Redis(port=server.port) as client:
        [found] = client.pubsub_channels(f'malformed:{name}')
        client.publish(found, 'p7 x malformed')

    async def is_noticed() -> bool:
        return bool(caplog.records) and links == recorder.links

    await eventually(is_noticed, 'the log line, and the link')
    await broker.publish('news', ITEM, LOG)
    await broker.control(b'hello')
    await recorder.until(
        lambda: recorder.publications and recorder.controls, 'the later messages'
    )
    assert [b'1'] == recorder.data_of('news')
    assert [b'hello'] == recorder.controls
    assert ('an unexpected error' if links else 'cannot decode') in caplog.text
    await broker.close()


async def test_call_that_cannot_be_encoded_fails_alone(server: RedisServer) -> None:
    """If an argument cannot be encoded, only its call fails; others are executed."""
    broker = open_broker(server.url)
    await broker.start(Recorder())
    unencodable = broker.has_user('news', '\ud800')
    refused, published = await asyncio.gather(
        unencodable, broker.publish('news', ITEM, LOG), return_exceptions=True
    )
    assert isinstance(refused, UnicodeEncodeError)
    assert not isinstance(published, BaseException)
    await broker.close()


async def test_start_without_server_names_its_port_and_no_password() -> None:
    """Without a server, starting fails in time, and no password is shown."""
    port = free_port()
    broker = open_broker(f'redis://:s3cret@127.0.0.1:{port}?timeout_s=1')
    with pytest.raises(BrokerUnavailableError, match=str(port)) as caught:
        await broker.start(Recorder())
    assert 's3cret' not in str(caught.value)
    with pytest.raises(BrokerUnavailableError, match='not open'):
        await broker.publish('news', ITEM, LOG)
    await broker.close()


@pytest.mark.parametrize(
    ('scheme', 'hint'), [('redis', ''), ('rediss', '; does it speak TLS?')]
)
async def test_start_with_a_silent_server_fails_and_names_its_address(
    scheme: str, hint: str
) -> None:
    """If the server accepts and does not answer, starting fails in time."""
    with socket.socket() as mute:
        mute.bind(('127.0.0.1', 0))
        mute.listen()
        port = mute.getsockname()[1]
        broker = open_broker(f'{scheme}://127.0.0.1:{port}?timeout_s=0.3')
        with pytest.raises(BrokerUnavailableError) as caught:
            await broker.start(Recorder())
        await broker.close()
    assert (
        f'cannot connect to Redis at 127.0.0.1:{port}: no answer within 0.3 s{hint}'
    ) == str(caught.value)


async def test_password_is_checked_and_never_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The right password works, a wrong one is refused, and none is logged."""
    caplog.set_level(logging.DEBUG)
    server = RedisServer(tmp_path, '--requirepass', 'p@ss/word')
    host = f'127.0.0.1:{server.port}'
    broker = open_broker(f'redis://:p%40ss%2Fword@{host}')
    await broker.start(Recorder())
    await broker.publish('news', ITEM, LOG)
    await broker.close()
    wrong = open_broker(f'redis://user:wr0ng@{host}')
    with pytest.raises(BrokerUnavailableError) as caught:
        await wrong.start(Recorder())
    await wrong.close()
    server.stop()
    for secret in ('p@ss', 'p%40ss', 'wr0ng'):
        assert secret not in caplog.text + str(caught.value)


async def test_remote_server_without_password_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server on another host without a password is logged."""
    broker = open_broker('redis://0.0.0.0:1?timeout_s=0.2')
    with pytest.raises(BrokerUnavailableError):
        await broker.start(Recorder())
    assert 'Redis server at 0.0.0.0:1 is used without a password' in caplog.text
    await broker.close()


async def test_tls_with_an_unknown_certificate_is_refused(tmp_path: Path) -> None:
    """rediss:// uses TLS, and refuses a certificate of an unknown authority."""
    certificate, key = tmp_path / 'cert.pem', tmp_path / 'key.pem'
    subprocess.run(
        [
            *('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt'),
            *('ec_paramgen_curve:prime256v1', '-nodes', '-days', '1', '-subj'),
            *('/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'),
            *('-keyout', str(key), '-out', str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    words = ['--tls-port', str(port), '--tls-auth-clients', 'no']
    words += ['--tls-cert-file', str(certificate), '--tls-key-file', str(key)]
    server = RedisServer(tmp_path, *words)
    url = f'rediss://127.0.0.1:{port}'
    broker = open_broker(f'{url}?ssl_ca_certs={certificate}')
    recorder = Recorder()
    await broker.start(recorder)
    await broker.subscribe('news', LOG)
    await broker.publish('news', ITEM, LOG)
    await recorder.until(lambda: recorder.publications, 'the publication')
    await broker.close()
    unaware = open_broker(url)
    with pytest.raises(BrokerUnavailableError, match='certificate verify failed'):
        await unaware.start(Recorder())
    await unaware.close()
    server.stop()


async def test_redis_unix_url_connects_to_the_unix_socket(tmp_path: Path) -> None:
    """redis+unix:// connects to a Unix socket."""
    path = tmp_path / 'redis.sock'
    server = RedisServer(tmp_path, '--unixsocket', str(path))
    await asyncio.to_thread(wait_until, path.exists, 'the socket is there')
    broker = open_broker(f'redis+unix://{path}')
    await broker.start(Recorder())
    assert 1 == (await broker.publish('news', ITEM, LOG)).position.offset
    await broker.close()
    server.stop()


async def test_full_server_fails_publishes_with_its_reason(tmp_path: Path) -> None:
    """If the server is out of memory, a publish fails, and the error says so."""
    server = RedisServer(tmp_path)
    broker = open_broker(server.url)
    await broker.start(Recorder())
    await broker.publish('news', ITEM, LOG)
    with redis.Redis(port=server.port) as client:
        client.config_set('maxmemory', '1mb')
        client.config_set('maxmemory-policy', 'noeviction')
    with pytest.raises(BrokerUnavailableError, match='maxmemory'):
        await broker.publish('news', ITEM, LOG)
    await broker.close()
    server.stop()


@pytest.mark.parametrize(
    'url',
    [
        'redis://localhost?prefix=',
        'redis://localhost?prefix={a}',
        'redis://localhost?timeout=1',
        'redis://localhost?trusted=1',
        'redis://localhost/db',
        'redis://localhost:port',
        'redis://localhost?ssl_ca_certs=x',
    ],
)
def test_url_with_an_unknown_or_invalid_option_is_refused(url: str) -> None:
    """Unknown and invalid options are errors."""
    with pytest.raises(OptionsError):
        open_broker(url)


@pytest.mark.parametrize('policy', ['noeviction', 'allkeys-lru', 'volatile-ttl'])
async def test_policy_that_removes_keys_is_warned_about_at_the_start(
    server: RedisServer, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    """Every policy but ``noeviction`` removes what must stay, and causes a warning."""
    server.ask('CONFIG', 'SET', 'maxmemory-policy', policy)
    broker = open_broker(server.url)
    await broker.start(Recorder())
    await broker.close()
    server.ask('CONFIG', 'SET', 'maxmemory-policy', 'noeviction')
    warnings = [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']
    expected = 0 if policy == 'noeviction' else 1
    assert expected == len(warnings)
    assert all(f"maxmemory-policy '{policy}'" in text for text in warnings)


@pytest.mark.parametrize('denied', ['-config', '-info +info|cluster'])
async def test_start_without_permission_to_read_the_policy_succeeds(
    server: RedisServer, caplog: pytest.LogCaptureFixture, denied: str
) -> None:
    """A user who may not read the settings of the server can use the broker."""
    server.ask(
        *('ACL', 'SETUSER', 'app', 'reset', 'on', '>pw', '~*', '&*', '+@all'),
        *denied.split(),
    )
    server.ask('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru')
    broker = open_broker(server.url.replace('//', '//app:pw@'))
    await broker.start(Recorder())
    await broker.publish('news', ITEM, LOG)
    await broker.close()
    server.ask('CONFIG', 'SET', 'maxmemory-policy', 'noeviction')
    may_read = denied == '-config'
    assert may_read == ('maxmemory-policy' in caplog.text)
