"""``falcon-channels publish rooms:lobby '{"text": "hello"}'``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from falcon_channels.commands import client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('channel', help='name of the channel')
    add_payload_arguments(parser)
    client.add_api_arguments(parser)


def add_payload_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments about what is published; see `payload`."""
    parser.add_argument('data', help='JSON, or - to read it from standard input')
    parser.add_argument(
        '--text', action='store_true', help='treat data as text, not as JSON'
    )
    parser.add_argument(
        '--tag',
        action='append',
        default=[],
        metavar='NAME=VALUE',
        help='label of the publication; may be repeated',
    )
    parser.add_argument(
        '--idempotency-key', default='', help='publish only once with the same key'
    )
    parser.add_argument(
        '--version',
        type=client.whole_number(1),
        help='publish nothing if the channel has this version or a higher one; from 1',
    )
    parser.add_argument(
        '--version-epoch', default='', help='name of the sequence of versions'
    )


def publish(args: argparse.Namespace) -> int:
    """Publish and print the position; return the exit code."""
    return client.run(lambda: _publish(args))


def _publish(args: argparse.Namespace) -> None:
    request = payload(args)
    api = client.ApiClient(args)
    client.show(api.call('publish', client.Published, channel=args.channel, **request))


def payload(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a request that say what is published.

    Raises:
        CommandError: The data is not JSON, or a tag is malformed.
    """
    text = sys.stdin.read() if args.data == '-' else args.data
    request: dict[str, Any] = {
        'data': text
        if args.text
        else client.parse_json(text, 'data', ', or add --text')
    }
    if args.tag:
        request['tags'] = dict(map(_tag, args.tag))
    if args.idempotency_key:
        request['idempotency_key'] = args.idempotency_key
    if args.version is not None:
        request['version'] = args.version
        request['version_epoch'] = args.version_epoch
    elif args.version_epoch:
        raise client.CommandError(
            '--version-epoch is given without --version: give a version, too'
        )
    return request


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition('=')
    if not equals:
        raise client.CommandError(f'write a tag as NAME=VALUE, not {text!r}')
    return name, value
