"""``falcon-channels broadcast '{"text": "hello"}' rooms:lobby rooms:tea``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import msgspec

from falcon_channels.commands import client
from falcon_channels.commands.publish import add_payload_arguments
from falcon_channels.commands.publish import payload

#: Largest number of channels in a request.
_MAX_CHANNELS = 1000


class _Response(msgspec.Struct):
    result: client.Published | None = None
    error: client.ApiError | None = None


class _Answer(msgspec.Struct):
    responses: list[_Response]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_payload_arguments(parser)
    parser.add_argument('channels', nargs='+', help='names of the channels')
    client.add_api_arguments(parser)


def broadcast(args: argparse.Namespace) -> int:
    """Publish to several channels, and print one position per line."""
    return client.run(lambda: _broadcast(args))


def _broadcast(args: argparse.Namespace) -> None:
    api = client.ApiClient(args)
    request = payload(args)
    failed = 0
    for names in _batches(args.channels):
        answer = api.call('broadcast', _Answer, channels=names, **request)
        responses = answer['responses']
        if len(responses) != len(names):
            raise api.no_api(f'{len(responses)} responses for {len(names)} channels')
        for name, response in zip(names, responses, strict=True):
            result, error = response.get('result'), response.get('error')
            if (result is None) == (error is None):
                raise api.no_api(
                    f'the response for {name!r} needs a result or an error'
                )
            failed += error is not None
            shown = result if error is None else {'error': error}
            client.show({'channel': name, **shown})
    if failed:
        raise client.CommandError(
            f'{failed} of {len(args.channels)} channels did not get the publication'
        )


def _batches(channels: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(channels), _MAX_CHANNELS):
        yield channels[start : start + _MAX_CHANNELS]
