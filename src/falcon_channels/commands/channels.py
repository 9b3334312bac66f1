"""``falcon-channels channels 'rooms:*'``."""

from __future__ import annotations

import argparse

from falcon_channels.commands import client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        'pattern',
        nargs='?',
        default='*',
        help='pattern of channel names, such as rooms:*',
    )
    client.add_api_arguments(parser)


def channels(args: argparse.Namespace) -> int:
    """Print channels with their number of subscribers; return the exit code."""
    return client.run(lambda: _channels(args))


def _channels(args: argparse.Namespace) -> None:
    found = client.ApiClient(args).call('channels', pattern=args.pattern)['channels']
    for name, facts in found.items():
        client.show_line(f'{facts["num_clients"]:8d} {name}')
