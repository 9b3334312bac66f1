"""``falcon-channels explain rooms:lobby 42 --user ann``."""

from __future__ import annotations

import argparse

import msgspec

from falcon_channels.commands import client
from falcon_channels.commands import targets


class _Explanation(msgspec.Struct):
    verdict: str
    text: str
    node: str
    connection: str


class _Answer(msgspec.Struct):
    answers: list[_Explanation]


class _Recorded(msgspec.Struct):
    num_nodes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('channel', nargs='?', help='name of the channel')
    parser.add_argument(
        'offset',
        nargs='?',
        type=client.whole_number(0),
        help='offset of the publication',
    )
    parser.add_argument(
        '--user', required=True, help='id of the user; "" for anonymous users'
    )
    targets.add_client_argument(parser)
    parser.add_argument(
        '--epoch', default='', help='epoch of the log in which it has this offset'
    )
    parser.add_argument(
        '--json', action='store_true', help='print each answer with its evidence'
    )
    parser.add_argument(
        '--record-s',
        type=client.duration_or_zero,
        metavar='SECONDS',
        help='record the deliveries to the user from now on, and explain nothing; 0 '
        'ends this',
    )
    client.add_api_arguments(parser)


def explain(args: argparse.Namespace) -> int:
    """Print one answer per line; return the exit code."""
    return client.run(lambda: _explain(args))


def _explain(args: argparse.Namespace) -> None:
    if args.record_s is not None:
        # NOTE: a recording has no smaller scope. An argument that was ignored would
        #   promise one.
        if args.channel is not None or args.client or args.epoch:
            raise client.CommandError(
                '--record-s records all connections and channels of the user: name no '
                'channel, --client or --epoch'
            )
        result = client.ApiClient(args).call(
            'record_user', _Recorded, user=args.user, for_s=args.record_s
        )
        client.show(result)
        return
    if args.offset is None:
        raise client.CommandError(
            'name a channel and an offset, such as rooms:lobby 42'
        )
    answers = client.ApiClient(args).call(
        'explain',
        _Answer,
        channel=args.channel,
        offset=args.offset,
        user=args.user,
        client=args.client,
        epoch=args.epoch,
    )['answers']
    for answer in answers:
        if args.json:
            client.show(answer)
            continue
        # NOTE: a connection or a node has an id; the user as a whole has none.
        subject = [answer['connection'] and f'connection {answer["connection"]}']
        subject.append(answer['node'] and f'node {answer["node"]}')
        where = ', '.join(filter(None, subject)) or f'user {args.user}'
        client.show_line(f'{answer["verdict"]}: {answer["text"]} ({where})')
