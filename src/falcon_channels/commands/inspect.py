"""``falcon-channels inspect``: open the inspector of a running app in a browser."""

from __future__ import annotations

import argparse
import http.client
from urllib.parse import urljoin
import webbrowser

from falcon_channels.commands import client

#: Path of an inspector, unless `Channels.add_inspector` gets another one.
_PATH = '/_channels'
_DEFAULT_URL = urljoin(client.DEFAULT_URL, _PATH)
#: Challenge in the answer of an inspector to a client that has not logged in.
_CHALLENGE = 'falcon-channels'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        'url',
        nargs='?',
        help=f'address of the inspector (default: {_PATH} on the host of the '
        f'environment variable {client.URL_VARIABLE}, or {_DEFAULT_URL})',
    )
    parser.add_argument(
        '--print', action='store_true', help='print the address, and open no browser'
    )
    parser.add_argument(
        '--timeout-s',
        type=client.duration,
        default=10.0,
        help='seconds to wait for an answer',
    )


def inspect(args: argparse.Namespace) -> int:
    """Check that an inspector answers, and open it; return the exit code."""
    return client.run(lambda: _inspect(args))


def _default_url() -> str:
    """Return the address of an inspector on the host of the server API.

    Raises:
        CommandError: The environment variable has no valid URL.
    """
    api = client.checked_url(client.default_url(), client.DEFAULT_URL)
    return urljoin(api.geturl(), _PATH)


def _inspect(args: argparse.Namespace) -> None:
    url = client.checked_url(args.url or _default_url(), _DEFAULT_URL)
    address = url.geturl().rstrip('/')
    kind = (
        http.client.HTTPSConnection
        if url.scheme == 'https'
        else http.client.HTTPConnection
    )
    connection = kind(url.hostname or '', url.port, timeout=args.timeout_s)
    try:
        connection.request(
            'POST',
            f'{url.path.rstrip("/")}/api/overview',
            b'{}',
            {'Content-Type': 'application/json'},
        )
        response = connection.getresponse()
        # NOTE: another service could answer with any body. Only an inspector asks for
        #   this login.
        challenge = response.getheader('WWW-Authenticate', '')
    except (OSError, http.client.HTTPException) as ex:
        raise client.UnreachableError(
            f'no answer from {address}: {ex or type(ex).__name__}'
        ) from None
    finally:
        connection.close()
    if response.status != http.client.UNAUTHORIZED or challenge != _CHALLENGE:
        raise client.CommandError(
            f'{address} answered HTTP {response.status}, and not as an inspector: call '
            'channels.add_inspector(app, keys=...) in the app, and give its address'
        )
    # NOTE: without a browser, as on a server, the address is still of use.
    if args.print or not webbrowser.open(address):
        client.show_line(address)
