"""``falcon-channels migrate``: makes the schema in a PostgreSQL database."""

from __future__ import annotations

import argparse
import os
import sys

from falcon_channels.brokers.postgres.migration import migrate as make_or_renew
from falcon_channels.errors import ChannelsError

_VARIABLE = 'DATABASE_URL'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    # SECURITY: a URL on the command line is seen by everybody on the host.
    parser.add_argument(
        'url',
        nargs='?',
        metavar='URL',
        help='as given to Channels; better in the environment variable '
        f'{_VARIABLE}, for other users of the host see the command line',
    )


def migrate(args: argparse.Namespace) -> int:
    """Make the schema, or renew it; return the exit code."""
    url = args.url or os.environ.get(_VARIABLE)
    if not url:
        print(  # noqa: T201 - a command talks to its user
            f'falcon-channels migrate needs a URL, or one in {_VARIABLE}',
            file=sys.stderr,
        )
        return 2
    try:
        done = make_or_renew(url)
    except ChannelsError as ex:
        print(f'falcon-channels migrate: {ex}', file=sys.stderr)  # noqa: T201 - as above
        return 1
    print(done)  # noqa: T201 - as above
    return 0
