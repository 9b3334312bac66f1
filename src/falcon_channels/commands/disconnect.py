"""``falcon-channels disconnect ann``."""

from __future__ import annotations

import argparse
from typing import Any

from falcon_channels.commands import client
from falcon_channels.commands import targets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    targets.add_target_arguments(parser)
    parser.add_argument(
        '--exclude',
        action='append',
        default=[],
        metavar='ID',
        help='id of a connection that stays open; may be repeated',
    )
    parser.add_argument(
        '--code',
        type=client.whole_number(0),
        help='close code from 3000 to 4999; after 3500 to 3999 and 4500 to 4999, '
        'clients do not connect again (default: 3503)',
    )
    parser.add_argument(
        '--reason', default='', help='text for the clients, at most 123 bytes'
    )
    client.add_api_arguments(parser)


def disconnect(args: argparse.Namespace) -> int:
    """Close connections of a user; return the exit code."""
    return client.run(lambda: _disconnect(args))


def _disconnect(args: argparse.Namespace) -> None:
    targets.check_target(args)
    api = client.ApiClient(args)
    counts = targets.count_targets(api, user=args.user, client=args.client)
    for excluded in set(args.exclude):
        if args.client in ('', excluded):
            counts['num_connections'] -= targets.count_targets(
                api, user=args.user, client=excluded
            )['num_connections']
    request: dict[str, Any] = {
        'user': args.user,
        'client': args.client,
        'whitelist': args.exclude,
    }
    if args.code is not None or args.reason:
        request['disconnect'] = {'code': args.code or 0, 'reason': args.reason}
    api.call('disconnect', client.NoFields, **request)
    client.show({'user': args.user, **counts})
