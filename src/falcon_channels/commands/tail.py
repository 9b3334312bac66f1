"""``falcon-channels tail rooms:lobby``: prints publications as they arrive.

It subscribes with the method ``tail`` of the server API. After a lost connection it
subscribes again from its last position. What the server cannot recover is read from the
history. What the history no longer has is reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
import random
import time
from typing import Any

import msgspec

from falcon_channels.commands import client
from falcon_channels.commands.history import parse_position
from falcon_channels.protocol import codes

#: Maximum number of publications of one request.
_PAGE_SIZE = 500
#: Seconds between two heartbeats of the server.
_HEARTBEAT_S = 5
#: Shortest and longest time in seconds before the next connection.
_RETRY_S = (0.25, 5.0)
#: Errors of the server that can pass: a restart, or too many tails.
_TEMPORARY = (codes.INTERNAL.code, codes.LIMIT_EXCEEDED.code)


class _End(msgspec.Struct):
    error: str
    offset: int


class _Disconnect(msgspec.Struct):
    code: int
    reason: str
    reconnect: bool


class _Line(msgspec.Struct):
    publication: client.Publication | msgspec.UnsetType = msgspec.UNSET
    subscribed: client.Published | msgspec.UnsetType = msgspec.UNSET
    end: _End | msgspec.UnsetType = msgspec.UNSET
    disconnect: _Disconnect | msgspec.UnsetType = msgspec.UNSET
    epoch: str = ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('channel', help='name of the channel')
    parser.add_argument(
        '--lines',
        type=client.whole_number(0),
        default=10,
        help='number of old publications to print first',
    )
    parser.add_argument(
        '--since', metavar='OFFSET:EPOCH', help='start after this position'
    )
    parser.add_argument('--data', action='store_true', help='print only the payloads')
    client.add_api_arguments(parser)


def tail(args: argparse.Namespace) -> int:
    """Print publications, one per line, until Ctrl-C or the end of the channel."""
    return client.run(lambda: _Tail(args).run())


class _Tail:
    def __init__(self, args: argparse.Namespace) -> None:
        self._api = client.ApiClient(args)
        self._channel: str = args.channel
        self._only_data: bool = args.data
        self._lines: int = args.lines
        #: Position of the last publication; ``None`` for a channel without history.
        self._position = None if args.since is None else parse_position(args.since)
        self._has_been_subscribed = False
        #: Reason of the last lost connection, or ``''`` while it is connected.
        self._trouble = ''
        self._retry_s = _RETRY_S[0]

    def run(self) -> None:
        # NOTE: an error before the first answer is a mistake of the user and ends the
        #   command. After it, the server may be restarting, so the command waits.
        if self._position is None:
            self._print_latest()
        while True:
            try:
                if self._follow():
                    return
            except client.UnreachableError as ex:
                if not self._has_been_subscribed:
                    raise
                self._note_trouble(str(ex))
            except client.ApiCallError as ex:
                if not self._has_been_subscribed or ex.code not in _TEMPORARY:
                    raise
                self._note_trouble(str(ex))
            # NOTE: the time is random, so that not all tails return at once.
            time.sleep(self._retry_s * random.uniform(0.5, 1.0))
            self._retry_s = min(self._retry_s * 2, _RETRY_S[1])

    def _note_trouble(self, trouble: str) -> None:
        """Report why the connection is lost, once until it is back."""
        if not self._trouble:
            client.say(f'{trouble}; waiting')
        self._trouble = trouble

    def _print_latest(self) -> None:
        try:
            page = self._history(limit=self._lines, reverse=True)
        except client.ApiCallError as ex:
            if ex.code != codes.NOT_AVAILABLE.code:
                raise
            return  # the channel has no history
        for publication in reversed(page['publications']):
            self._show(publication)
        self._position = {'offset': page['offset'], 'epoch': page['epoch']}

    def _follow(self) -> bool:
        """Subscribe, and print what arrives; return whether the channel has ended."""
        request: dict[str, Any] = {
            'channel': self._channel,
            'heartbeat_s': _HEARTBEAT_S,
        }
        if self._position is not None:
            request['since'] = self._position
        with self._api.stream(
            'tail', _Line, silence_s=_HEARTBEAT_S, **request
        ) as lines:
            return self._print_lines(lines)

    def _print_lines(self, lines: Iterable[dict[str, Any]]) -> bool:
        for line in lines:
            if 'publication' in line:
                self._on_publication(line['publication'], line.get('epoch', ''))
            elif 'subscribed' in line:
                self._on_subscribed(line['subscribed'])
            elif 'end' in line:
                self._on_end(line['end'])
                return True
            elif 'disconnect' in line:
                end = line['disconnect']
                reason = f'the server ended the tail: {end["code"]} {end["reason"]}'
                if not end['reconnect']:
                    raise client.CommandError(reason)
                self._note_trouble(reason)
                return False
        raise AssertionError('the lines end with an exception')

    def _on_subscribed(self, begin: dict[str, Any]) -> None:
        if self._trouble:
            client.say('the server is back')
        self._trouble, self._retry_s = '', _RETRY_S[0]
        returns, self._has_been_subscribed = self._has_been_subscribed, True
        top = {'offset': begin['offset'], 'epoch': begin['epoch']}
        if not top['epoch']:
            if returns or self._position is not None:
                client.say(
                    'the channel has no history: publications in between may be lost'
                )
            self._position = None
        elif self._position is None:
            self._position = top
        elif begin.get('recovered'):
            self._position['epoch'] = top['epoch']
        elif self._position['epoch'] not in ('', top['epoch']):
            self._begin_anew(top['epoch'])
            self._fill(top['offset'])
        elif self._position['offset'] > top['offset']:
            client.say(
                f'the channel is at offset {top["offset"]}, which is before '
                f'{self._position["offset"]}'
            )
            self._position = top
        else:
            self._fill(top['offset'])

    def _begin_anew(self, epoch: str) -> None:
        client.say('the channel began anew; what came before may be lost')
        self._position = {'offset': 0, 'epoch': epoch}

    def _on_publication(self, publication: dict[str, Any], epoch: str) -> None:
        offset = publication['offset']
        if offset:
            if self._position is None:
                self._position = {'offset': offset - 1, 'epoch': epoch}
            elif self._position['epoch'] != epoch:
                self._begin_anew(epoch)
            self._fill(offset - 1)
            if offset <= self._position['offset']:
                return
            self._position['offset'] = offset
        self._show(publication)

    def _fill(self, top: int) -> None:
        """Print the publications up to offset `top` that the stream does not have."""
        assert self._position is not None
        while self._position['offset'] < top:
            try:
                page = self._history(limit=_PAGE_SIZE, since=self._position)
            except client.ApiCallError as ex:
                if ex.code != codes.UNRECOVERABLE_POSITION.code:
                    raise
                self._begin_anew('')
                continue
            publications = [p for p in page['publications'] if p['offset'] <= top]
            first: int = publications[0]['offset'] if publications else top + 1
            missed = first - self._position['offset'] - 1
            if missed > 0:
                client.say(f'{missed} publications are no longer in the history')
            for publication in publications:
                self._show(publication)
            last: int = publications[-1]['offset'] if publications else top
            self._position = {'offset': last, 'epoch': page['epoch']}

    def _on_end(self, end: dict[str, Any]) -> None:
        """Report the end of the channel.

        Raises:
            CommandError: The channel has failed.
        """
        if self._position is not None:
            # NOTE: an end without data has an offset, and no publication arrives.
            self._fill(end['offset'] - 1)
        if end['error']:
            raise client.CommandError(f'the channel has failed: {end["error"]}')
        client.say('the channel is finished')

    def _history(self, **request: Any) -> Any:
        return self._api.call('history', client.Page, channel=self._channel, **request)

    def _show(self, publication: dict[str, Any]) -> None:
        if 'end' in publication and publication['data'] is None:
            return
        client.show(publication['data'] if self._only_data else publication)
