"""``falcon-channels connections ann``."""

from __future__ import annotations

import argparse
from typing import Any

from falcon_channels.commands import client
from falcon_channels.commands import targets


class _Answer(targets.Counts):
    connections: dict[str, dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        'user',
        nargs='?',
        help="id of the user; '' for anonymous clients (default: all users)",
    )
    parser.add_argument('--channel', default='', help='only subscribers of a channel')
    targets.add_client_argument(parser)
    parser.add_argument(
        '--limit',
        type=client.whole_number(0),
        default=100,
        help='maximum number of connections, at most 1000',
    )
    parser.add_argument('--count', action='store_true', help='print only the numbers')
    client.add_api_arguments(parser)


def connections(args: argparse.Namespace) -> int:
    """Print the connections of all processes, oldest first, one per line."""
    return client.run(lambda: _connections(args))


def _connections(args: argparse.Namespace) -> None:
    answer = client.ApiClient(args).call(
        'connections',
        _Answer,
        user=args.user,
        channel=args.channel,
        client=args.client,
        limit=0 if args.count else args.limit,
    )
    total = answer['total']
    if args.count:
        client.show({'total': total, 'num_nodes': answer['num_nodes']})
        return
    found = answer['connections'].values()
    for facts in found:
        client.show(facts)
    if len(found) < total:
        client.say(
            f'{len(found)} of {total} connections are shown; increase --limit (at most '
            '1000), or give a user or --channel'
        )
