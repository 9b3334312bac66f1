"""WebSockets under servers that terminate TLS themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import contextlib
from datetime import datetime
from datetime import timedelta
from datetime import UTC
from pathlib import Path
import socket
import ssl
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
import pytest
from support.processes import ServerProcess
from support.wsgi import CASES
from support.wsgi import DEADLINE_S
from support.wsgi import HERE
from websockets.asyncio.client import connect
from websockets.typing import Origin

from falcon_channels.wsgi.stream import Stream

COMMANDS = {case.name: case.command for case in CASES}

pytestmark = pytest.mark.server


@pytest.fixture(scope='module')
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a self-signed certificate of localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'localhost')])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName('localhost')]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp('tls') / 'localhost.pem'
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(params=['gunicorn-gthread', 'gunicorn-gevent'])
def server(
    request: pytest.FixtureRequest, certificate: Path
) -> Iterator[ServerProcess]:
    command = (
        *(*COMMANDS[request.param], '--certfile', str(certificate)),
        *('--keyfile', str(certificate)),
    )
    with ServerProcess(command, env={'PYTHONPATH': str(HERE)}) as server:
        yield server


def test_tls_passes_large_and_many_messages_and_closes(
    server: ServerProcess, certificate: Path
) -> None:
    """Messages are echoed over TLS, and the close is clean and prompt."""
    context = ssl.create_default_context(cafile=str(certificate))
    asyncio.run(talk(server.port, context))


async def talk(port: int, context: ssl.SSLContext) -> None:
    """Exchange messages and close.

    NOTE: Not by the blocking client, which reads and writes one TLS socket in two
    threads at once.
    """
    origin = Origin(f'https://localhost:{port}')
    async with (
        asyncio.timeout(2 * DEADLINE_S),
        connect(f'wss://localhost:{port}/', ssl=context, origin=origin) as client,
    ):
        for message in ('hello', b'x' * (1 << 20)):
            await client.send(message)
            assert message == await client.recv()
        numbers = [str(number) for number in range(500)]
        for number in numbers:
            await client.send(number)
        assert numbers == [await client.recv() for _ in numbers]
        await client.close(4001)
        assert 4001 == client.close_code


def test_two_threads_use_one_tls_socket_at_once(certificate: Path) -> None:
    """A thread receives all bytes while another one sends.

    Without a lock, the reader saw the end of the stream, or the sender waited for ever.
    """
    num_bytes, piece = 20_000_000, bytes(50_000)
    received: list[int] = []

    def receive(stream: Stream) -> None:
        count = 0
        while count < num_bytes and (data := stream.recv(16_384, 5.0)):
            count += len(data)
        received.append(count)

    def send(stream: Stream) -> None:
        for _ in range(num_bytes // len(piece)):
            stream.send_all(piece, 5.0)

    for _ in range(3):
        with contextlib.ExitStack() as stack:
            streams = [Stream(sock, ours=True) for sock in tls_pair(certificate)]
            for stream in streams:
                stack.callback(stream.close)
            with ThreadPoolExecutor(4) as pool:
                calls = [pool.submit(receive, stream) for stream in streams]
                calls += [pool.submit(send, stream) for stream in streams]
            for call in calls:
                call.result()
    assert [num_bytes] * 6 == received


def test_tls_stream_that_ended_writing_still_waits_and_decrypts(
    certificate: Path,
) -> None:
    """After a close handshake, a client that stays uses no processor time.

    The reader asked the socket again and again, and got encrypted bytes.
    """
    ours, client = tls_pair(certificate)
    with client, contextlib.closing(Stream(ours, ours=True)) as stream:
        stream.end_writing()
        used_s = time.thread_time()
        with pytest.raises(TimeoutError):
            stream.recv(100, 0.5)
        assert time.thread_time() - used_s < 0.1
        client.sendall(b'late')
        assert b'late' == stream.recv(100, DEADLINE_S)


def test_server_that_answers_after_the_end_gets_an_error_that_it_knows(
    certificate: Path,
) -> None:
    """Some servers send a response when the WebSocket has ended.

    They ignore a broken connection. An error of TLS was a traceback in their log.
    """
    ours, client = tls_pair(certificate)
    with ours, client:
        stream = Stream(ours)
        stream.end_writing()
        client.close()
        assert b'' == stream.recv(100, DEADLINE_S)
        stream.close()
        with pytest.raises(BrokenPipeError):
            ours.sendall(b'HTTP/1.1 200 OK')


def tls_pair(certificate: Path) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Return both ends of a TLS connection."""
    ours, theirs = socket.socketpair()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate))
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(server.wrap_socket, ours, server_side=True)
        connected = client.wrap_socket(theirs, server_hostname='localhost')
        return accepted.result(), connected
