"""``falcon-channels revoke ann rooms:lobby``."""

from __future__ import annotations

import argparse
from typing import Any

from falcon_channels.commands import client
from falcon_channels.commands import targets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('user', help='id of the user')
    parser.add_argument('channel', help='name of the channel')
    parser.add_argument(
        '--ttl-s',
        type=client.duration,
        help='seconds for which it holds (default: NodeOptions.revoke_ttl_s of the '
        'app)',
    )
    client.add_api_arguments(parser)


def revoke(args: argparse.Namespace) -> int:
    """End subscriptions of a user to a channel, and refuse new ones."""
    return client.run(lambda: _revoke(args))


def _revoke(args: argparse.Namespace) -> None:
    api = client.ApiClient(args)
    counts = targets.count_targets(api, user=args.user, channel=args.channel)
    request: dict[str, Any] = {'user': args.user, 'channel': args.channel}
    if args.ttl_s is not None:
        request['ttl_s'] = args.ttl_s
    api.call('revoke', client.NoFields, **request)
    client.show({**request, **counts})
