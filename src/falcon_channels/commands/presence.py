"""``falcon-channels presence rooms:lobby``."""

from __future__ import annotations

import argparse

import msgspec

from falcon_channels.commands import client


class _Stats(msgspec.Struct):
    num_clients: int
    num_users: int


class _Client(msgspec.Struct):
    user: str
    client: str


class _Answer(msgspec.Struct):
    presence: dict[str, _Client]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('channel', help='name of the channel')
    parser.add_argument('--count', action='store_true', help='print only the numbers')
    client.add_api_arguments(parser)


def presence(args: argparse.Namespace) -> int:
    """Print the subscribers, one connection per line; return the exit code."""
    return client.run(lambda: _presence(args))


def _presence(args: argparse.Namespace) -> None:
    api = client.ApiClient(args)
    if args.count:
        client.show(api.call('presence_stats', _Stats, channel=args.channel))
        return
    subscribers = api.call('presence', _Answer, channel=args.channel)['presence']
    for info in sorted(
        subscribers.values(), key=lambda info: (info['user'], info['client'])
    ):
        client.show(info)
