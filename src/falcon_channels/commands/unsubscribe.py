"""``falcon-channels unsubscribe ann rooms:lobby``."""

from __future__ import annotations

import argparse

from falcon_channels.commands import client
from falcon_channels.commands import targets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    targets.add_target_arguments(parser)
    parser.add_argument('channel', help='name of the channel')
    client.add_api_arguments(parser)


def unsubscribe(args: argparse.Namespace) -> int:
    """End subscriptions of a user to a channel; return the exit code."""
    return client.run(lambda: _unsubscribe(args))


def _unsubscribe(args: argparse.Namespace) -> None:
    targets.check_target(args)
    api = client.ApiClient(args)
    counts = targets.count_targets(
        api, user=args.user, client=args.client, channel=args.channel
    )
    api.call(
        'unsubscribe',
        client.NoFields,
        user=args.user,
        client=args.client,
        channel=args.channel,
    )
    client.show({'user': args.user, 'channel': args.channel, **counts})
