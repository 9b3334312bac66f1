"""``falcon-channels finish answers:42``."""

from __future__ import annotations

import argparse
from typing import Any

from falcon_channels.commands import client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('channel', help='name of the channel')
    parser.add_argument('--data', help='JSON of the last publication')
    parser.add_argument(
        '--error', default='', help='why the channel has failed, for its readers'
    )
    parser.add_argument(
        '--idempotency-key', default='', help='no error if it ended with the same key'
    )
    client.add_api_arguments(parser)


def finish(args: argparse.Namespace) -> int:
    """End a channel and print the position; return the exit code."""
    return client.run(lambda: _finish(args))


def _finish(args: argparse.Namespace) -> None:
    request: dict[str, Any] = {'channel': args.channel, 'error': args.error}
    if args.data is not None:
        request['data'] = client.parse_json(args.data, 'data')
    if args.idempotency_key:
        request['idempotency_key'] = args.idempotency_key
    client.show(client.ApiClient(args).call('finish', client.Published, **request))
