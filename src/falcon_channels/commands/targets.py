"""Arguments and output of the commands that act on connections of a user.

A command is sent to all processes, which act on it later. Nobody counts what they have
done. The commands therefore print how many connections matched just before.
"""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from falcon_channels.commands import client


class Counts(msgspec.Struct):
    """The numbers in the result of ``connections``."""

    total: int
    num_nodes: int


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that choose connections."""
    parser.add_argument('user', help='id of the user')
    add_client_argument(parser)
    parser.add_argument(
        '--anonymous',
        action='store_true',
        help="required to act on all anonymous clients, whose user is ''",
    )


def add_client_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the argument that chooses one connection."""
    parser.add_argument(
        '--client', default='', metavar='ID', help='only the connection with this id'
    )


def check_target(args: argparse.Namespace) -> None:
    """Refuse an empty user, such as that of a variable that a script did not set.

    Raises:
        CommandError: The user is empty, and neither a client nor ``--anonymous`` is
            given. Or ``--anonymous`` is given with a user.
    """
    if args.user and args.anonymous:
        raise client.CommandError(
            f"with --anonymous, the user is '', not {args.user!r}: give one of them"
        )
    if not args.user and not args.client and not args.anonymous:
        raise client.CommandError(
            'the user is empty, which means all anonymous clients: add --anonymous if '
            'you mean them'
        )


def count_targets(api: client.ApiClient, **query: Any) -> dict[str, int]:
    """Return ``{"num_connections": 2, "num_nodes": 1}`` for connections that match.

    Args:
        api: Client of the server API.
        query: Fields of the method ``connections``.
    """
    answer = api.call('connections', Counts, **query, limit=0)
    return {
        'num_connections': answer['total'],
        'num_nodes': answer['num_nodes'],
    }
