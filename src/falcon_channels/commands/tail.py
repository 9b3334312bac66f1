"""``falcon-channels tail rooms:lobby``: prints publications as they arrive.

It repeatedly requests the publications after the last position. It needs only the
server API of the application, and misses nothing that the history still contains.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from falcon_channels.commands import client
from falcon_channels.commands.history import parse_position
from falcon_channels.protocol.codes import UNRECOVERABLE_POSITION

#: Maximum number of publications of one request.
_PAGE_SIZE = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('channel', help='name of the channel')
    parser.add_argument(
        '--lines',
        type=int,
        default=10,
        help='number of old publications to print first (default 10)',
    )
    parser.add_argument(
        '--since', metavar='OFFSET:EPOCH', help='start after this position'
    )
    parser.add_argument('--data', action='store_true', help='print only the payloads')
    parser.add_argument(
        '--interval-s',
        type=float,
        default=0.5,
        help='seconds between two requests (default 0.5)',
    )
    client.add_api_arguments(parser)


def tail(args: argparse.Namespace) -> int:
    """Print publications, one per line, until Ctrl-C or the end of the channel."""
    return client.run(lambda: _Tail(args).run())


class _Tail:
    def __init__(self, args: argparse.Namespace) -> None:
        self._api = client.ApiClient(args)
        self._channel: str = args.channel
        self._only_data: bool = args.data
        self._interval_s: float = max(args.interval_s, 0.05)
        self._end: dict[str, Any] | None = None
        self._lines: int = max(args.lines, 0)
        self._position = None if args.since is None else parse_position(args.since)

    def run(self) -> None:
        # NOTE: an error before the first answer is a mistake of the user and ends the
        #   command. After it, the server may be restarting, so the command waits.
        if self._position is None:
            self._print_latest()
        unreachable = False
        while True:
            try:
                while self._print_new():
                    pass
                if self._end is not None:
                    self._stop(self._end['error'])
                    return
                if unreachable:
                    client.say('the server is back')
                unreachable = False
            except client.UnreachableError as ex:
                if not unreachable:
                    client.say(f'{ex}; waiting')
                unreachable = True
            time.sleep(self._interval_s)

    def _print_latest(self) -> None:
        page = self._history(limit=self._lines, reverse=True)
        for publication in reversed(page['publications']):
            self._show(publication)
        self._position = {'offset': page['offset'], 'epoch': page['epoch']}

    def _print_new(self) -> bool:
        """Print new publications; return whether there may be more."""
        assert self._position is not None
        try:
            page = self._history(limit=_PAGE_SIZE, since=self._position)
        except client.ApiCallError as ex:
            if ex.code != UNRECOVERABLE_POSITION.code:
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
        more = bool(top < page['offset'])
        self._end = None if more else page.get('end')
        return more

    def _stop(self, error: str) -> None:
        """Report the end of the channel.

        Raises:
            CommandError: The channel has failed.
        """
        if error:
            raise client.CommandError(f'the channel has failed: {error}')
        client.say('the channel is finished')

    def _history(self, **request: Any) -> Any:
        return self._api.call('history', channel=self._channel, **request)

    def _show(self, publication: dict[str, Any]) -> None:
        if 'end' in publication and publication['data'] is None:
            return
        client.show(publication['data'] if self._only_data else publication)
