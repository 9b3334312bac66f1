"""``falcon-channels history rooms:lobby``."""

from __future__ import annotations

import argparse
from typing import Any

from falcon_channels.commands import client

#: Number of digits of the largest offset.
_MAX_DIGITS = 19


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('channel', help='name of the channel')
    parser.add_argument(
        '--limit',
        type=client.whole_number(-1),
        default=10,
        help='maximum number of publications; -1: all',
    )
    parser.add_argument(
        '--since', metavar='OFFSET:EPOCH', help='start after this position'
    )
    parser.add_argument(
        '--oldest-first', action='store_true', help='start at the oldest publication'
    )
    parser.add_argument(
        '--position', action='store_true', help='print only the current position'
    )
    client.add_api_arguments(parser)


def history(args: argparse.Namespace) -> int:
    """Print publications, oldest first, one per line; return the exit code."""
    return client.run(lambda: _history(args))


def _history(args: argparse.Namespace) -> None:
    request: dict[str, Any] = {'channel': args.channel, 'limit': args.limit}
    if args.position:
        request['limit'] = 0
    newest = args.since is None and not args.oldest_first
    if args.since is not None:
        request['since'] = parse_position(args.since)
    if newest:
        request['reverse'] = True
    page = client.ApiClient(args).call('history', client.Page, **request)
    if args.position:
        client.show_line(f'{page["offset"]}:{page["epoch"]}')
        return
    publications = page['publications']
    for publication in reversed(publications) if newest else publications:
        client.show(publication)


def parse_position(text: str) -> dict[str, Any]:
    """Parse ``OFFSET:EPOCH`` into a position for the server API.

    Raises:
        CommandError: The text does not have this form.
    """
    offset, _, epoch = text.partition(':')
    if not offset.isascii() or not offset.isdigit() or len(offset) > _MAX_DIGITS:
        raise client.CommandError(f'write a position as OFFSET:EPOCH, not {text!r:.80}')
    return {'offset': int(offset), 'epoch': epoch}
