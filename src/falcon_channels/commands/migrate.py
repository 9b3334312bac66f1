"""``falcon-channels migrate``: creates the schema in a PostgreSQL database."""

from __future__ import annotations

import argparse
import os
import sys

from falcon_channels.brokers.url_options import check_scheme
from falcon_channels.brokers.url_options import POSTGRES_SCHEMES
from falcon_channels.brokers.urls import open_broker
from falcon_channels.errors import ChannelsError

_VARIABLE = 'DATABASE_URL'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    # SECURITY: every user of the host can read the command lines of others, and so a
    #   password in the URL. The environment variable hides it.
    parser.add_argument(
        'url',
        nargs='?',
        metavar='URL',
        help='URL as passed to Channels. Prefer the environment variable '
        f'{_VARIABLE}, because other users of the host can read the command line.',
    )


def migrate(args: argparse.Namespace) -> int:
    """Create or update the schema; return the exit code."""
    url = args.url or os.environ.get(_VARIABLE)
    if not url:
        print(  # noqa: T201 - output of a command
            f'falcon-channels migrate needs a URL as argument or in {_VARIABLE}',
            file=sys.stderr,
        )
        return 2
    try:
        check_scheme(url, POSTGRES_SCHEMES)
        # NOTE: without psycopg, this error names the extra to install.
        open_broker(url)
        from falcon_channels.brokers.postgres.migration import migrate as apply

        done = apply(url)
    except ChannelsError as ex:
        print(f'falcon-channels migrate: {ex}', file=sys.stderr)  # noqa: T201 - output of a command
        return 1
    print(done)  # noqa: T201 - output of a command
    return 0
