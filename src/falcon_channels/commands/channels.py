"""``falcon-channels channels 'rooms:*'``."""

from __future__ import annotations

import argparse

import msgspec

from falcon_channels.commands import client


class _Channel(msgspec.Struct):
    num_clients: int


class _Answer(msgspec.Struct):
    channels: dict[str, _Channel]


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
    answer = client.ApiClient(args).call('channels', _Answer, pattern=args.pattern)
    for name, facts in answer['channels'].items():
        client.show_line(f'{facts["num_clients"]:8d} {name}')
