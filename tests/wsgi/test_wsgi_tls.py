"""WebSockets under servers that terminate TLS themselves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from datetime import timedelta
from datetime import UTC
from pathlib import Path
import ssl

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
from websockets.sync.client import connect

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
    url = f'wss://localhost:{server.port}/'
    origin = f'https://localhost:{server.port}'
    with connect(url, ssl=context, origin=origin) as client:
        for message in ('hello', b'x' * (1 << 20)):
            client.send(message)
            assert message == client.recv(timeout=DEADLINE_S)
        numbers = [str(number) for number in range(500)]
        for number in numbers:
            client.send(number)
        assert numbers == [client.recv(timeout=DEADLINE_S) for _ in numbers]
        client.close(4001)
        assert 4001 == client.close_code
