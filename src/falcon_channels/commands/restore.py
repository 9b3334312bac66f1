"""``falcon-channels restore ann rooms:lobby``."""

from __future__ import annotations

import argparse

from falcon_channels.commands import client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('user', help='id of the user')
    parser.add_argument('channel', help='name of the channel')
    client.add_api_arguments(parser)


def restore(args: argparse.Namespace) -> int:
    """Undo a revocation; return the exit code."""
    return client.run(lambda: _restore(args))


def _restore(args: argparse.Namespace) -> None:
    request = {'user': args.user, 'channel': args.channel}
    client.ApiClient(args).call('restore', client.NoFields, **request)
    client.show(request)
