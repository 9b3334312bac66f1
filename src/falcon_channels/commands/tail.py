"""``falcon-channels tail rooms:lobby``: a channel as it is published to.

It asks for what came after the last position, again and again, so that it needs
nothing of the app but the server API, and misses nothing that history still has.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from falcon_channels.commands import client
from falcon_channels.commands.history import parse_position

#: How many publications one request asks for.
_PAGE = 500
#: Error code: the position is of another log.
_UNRECOVERABLE = 112


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('channel', help='which')
    parser.add_argument('--lines', type=int, default=10, help='how many old ones first')
    parser.add_argument('--since', metavar='OFFSET:EPOCH', help='after this position')
    parser.add_argument('--data', action='store_true', help='print the payload only')
    parser.add_argument(
        '--interval-s', type=float, default=0.5, help='seconds between two looks'
    )
    client.add_api_arguments(parser)


def tail(args: argparse.Namespace) -> int:
    """Print publications, one a line, until Ctrl-C; return the exit code."""
    return client.run(lambda: _Tail(args).run())


class _Tail:
    def __init__(self, args: argparse.Namespace) -> None:
        self._api = client.ApiClient(args)
        self._channel: str = args.channel
        self._only_data: bool = args.data
        self._interval_s: float = max(args.interval_s, 0.05)
        self._lines: int = max(args.lines, 0)
        self._position = None if args.since is None else parse_position(args.since)

    def run(self) -> None:
        # NOTE: before the first answer a mistake ends the command; after it, a server
        #   that is away for a while, as while it restarts, is waited for.
        if self._position is None:
            self._begin()
        away = False
        while True:
            try:
                while self._look():
                    pass
                if away:
                    client.say('the server is back')
                away = False
            except client.UnreachableError as ex:
                if not away:
                    client.say(f'{ex}; waiting')
                away = True
            time.sleep(self._interval_s)

    def _begin(self) -> None:
        page = self._history(limit=self._lines, reverse=True)
        for publication in reversed(page['publications']):
            self._show(publication)
        self._position = {'offset': page['offset'], 'epoch': page['epoch']}

    def _look(self) -> bool:
        """Print what is new; return whether there may be more."""
        assert self._position is not None
        try:
            page = self._history(limit=_PAGE, since=self._position)
        except client.ApiCallError as ex:
            if ex.code != _UNRECOVERABLE:
                raise
            client.say('the channel began anew; what came before may be lost')
            self._position = {'offset': 0, 'epoch': ''}
            return True
        publications = page['publications']
        first: int = publications[0]['offset'] if publications else page['offset'] + 1
        missed = first - self._position['offset'] - 1
        if missed > 0:
            client.say(f'{missed} publications are no longer in the history')
        for publication in publications:
            self._show(publication)
        top: int = publications[-1]['offset'] if publications else page['offset']
        self._position = {'offset': top, 'epoch': page['epoch']}
        return bool(top < page['offset'])

    def _history(self, **request: Any) -> Any:
        return self._api.call('history', channel=self._channel, **request)

    def _show(self, publication: dict[str, Any]) -> None:
        client.show(publication['data'] if self._only_data else publication)
