"""The formatter of the JSON log: one valid line for any record."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest

from falcon_channels.errors import OptionsError
from falcon_channels.events import Event
from falcon_channels.logs import json_log_config
from falcon_channels.logs import JsonFormatter


class Hostile:
    """Raises whatever is done with it."""

    def __str__(self) -> str:
        raise RuntimeError('no text')

    __repr__ = __str__


def record(
    message: object = '', *args: object, name: str = 'app', **attributes: object
) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.INFO, __file__, 1, message, args, None)
    vars(made).update(attributes)
    return made


def line(made: logging.LogRecord) -> str:
    """Return the formatted record; check that it is one line for every reader."""
    text = JsonFormatter().format(made)
    assert text.isprintable()
    assert [text] == text.splitlines()
    assert len(text.encode()) <= 16_000
    return text


def fields(made: logging.LogRecord) -> dict[str, Any]:
    found = json.loads(line(made))
    assert isinstance(found, dict)
    return found


def test_time_is_utc_with_milliseconds() -> None:
    """The time is that of the record, as RFC 3339 in UTC."""
    found = fields(record('x', created=1_795_878_139.2054))
    assert '2026-11-28T15:02:19.205Z' == found['time']


@pytest.mark.parametrize(
    'text',
    ['a\r\nb', '\x1b[31m', '\x9b31m', '\u2028\x85\u202e', '\U000e0001', '\x00"\\'],
    ids=ascii,
)
def test_text_that_is_not_printable_is_escaped(text: str) -> None:
    """Line ends and control characters of a client arrive as data, and only escaped."""
    assert text == fields(record('%s', text))['message']
    event = Event('connection_closed', user=text, reason=text)
    found = fields(record('%s', event, event=event))
    assert (text, text) == (found['user'], found['reason'])


def test_printable_text_stays_readable() -> None:
    """Names in any script are not escaped."""
    assert '"message":"Grüße 你好"' in line(record('Grüße 你好'))


def test_lone_surrogate_is_escaped() -> None:
    """A character that UTF-8 cannot encode becomes text."""
    assert 'a\\ud800' == fields(record('a\ud800'))['message']


@pytest.mark.parametrize(
    ('message', 'args', 'error'),
    [
        ('%d', ('x',), 'TypeError'),
        ('%s and %s', ('x',), 'TypeError'),
        ('%s', (Hostile(),), 'RuntimeError: no text'),
        (Hostile(), (), 'RuntimeError: no text'),
    ],
    ids=['type', 'number', 'argument', 'message'],
)
def test_record_that_cannot_be_formatted_is_a_line(
    message: object, args: tuple[object, ...], error: str
) -> None:
    """A mistake in a call of a logger is a line of JSON, too."""
    found = fields(record(message, *args))
    assert found['message'].startswith('this record cannot be formatted: ')
    assert found['error'].startswith(error)


def test_extra_of_the_application_is_an_object() -> None:
    """Values that JSON can encode stay as they are, and all others become text."""
    loop: list[object] = []
    loop.append(loop)
    found = fields(
        record(
            order=17,
            items=['a', {'b': None}],
            hostile=Hostile(),
            loop=loop,
            big=2**70,
            nan=float('nan'),
            bad='\ud800',
            event='of the application',
            level='forged',
        )
    )
    assert 'INFO' == found['level']
    assert {
        'order': 17,
        'items': ['a', {'b': None}],
        'hostile': '<Hostile whose text raises RuntimeError>',
        'loop': '[[...]]',
        'big': 2**70,
        'nan': None,
        'bad': '\\ud800',
        'event': 'of the application',
        'level': 'forged',
    } == found['extra']


def test_long_field_is_cut_and_marked() -> None:
    """The begin and the end of a long value stay."""
    found = fields(record('a%sz', 'x' * 9_999))['message']
    assert re.fullmatch(r'ax+ \[8001 characters removed\] x+z', found)
    extra = fields(record(order='y' * 9_999))['extra']
    assert len(extra['order']) < 2_100


def test_line_with_many_long_fields_has_a_maximum_of_bytes() -> None:
    """If all fields are long, they get shorter until the line has 16,000 bytes."""
    text = '\U000e0001' * 5_000
    facts = {f'fact{n}': text for n in range(6)}
    event = Event(
        'x', connection=text, user=text, channel=text, route=text, facts=facts
    )
    attributes = {f'{text}{n}': text for n in range(50)}
    made = record(text, name=text, event=event, exc_text=text, **attributes)
    assert 'characters removed' in line(made)


def test_traceback_keeps_its_begin_and_its_end() -> None:
    """The error, which is the last line of a traceback, is never cut away."""
    made = record('failed')
    try:
        raise RuntimeError('x' * 90_000 + ' the end')
    except RuntimeError as ex:
        made.exc_info = (type(ex), ex, ex.__traceback__)
    found = fields(made)['traceback']
    assert found.startswith('Traceback')
    assert found.endswith('the end')
    assert len(found) < 8_100


@pytest.mark.parametrize(
    'text',
    [
        'GET /a?token=SECRET&b=1',
        'url \'https://example.com/?cf_connect={"token":"SECRET"}\'',
        'https://example.com/?a%20b=1#SECRET',
        'GET /a?debug&token=SECRET',
        'GET /a?&token=SECRET',
        'GET /a?ids[]=1&token=SECRET',
        'GET /a?b/c:d,$e&token=SECRET',
    ],
)
def test_query_string_is_hidden_in_every_field(text: str) -> None:
    """A URL in a message, a traceback, a reason or an attribute loses its query."""
    event = Event('connection_closed', reason=text)
    made = record('%s x', text, event=event, exc_text=text, url=text, urls=[text])
    assert 'SECRET' not in line(made)
    assert fields(made)['reason'].endswith('?[redacted]')


@pytest.mark.parametrize(
    'text', ['Really?', 'a = ? AND b=1', 'what?is it=', '?', '{"a?":"b=1"}']
)
def test_other_question_mark_stays(text: str) -> None:
    """Only what looks like a query string is hidden."""
    assert text == fields(record(text))['message']


def test_query_without_a_name_is_hidden_in_the_lines_of_servers() -> None:
    """In the lines of uvicorn and gunicorn, the place of the query is known."""
    for made in (
        record(
            *('%s - "%s %s HTTP/%s" %d', '[::1]:5', 'GET', '/a?SECRET', '1.1', 200),
            name='uvicorn.access',
        ),
        record(
            '%(h)s "%(r)s" %(s)s "%(f)s"',
            {
                **{'h': '[::1]:5', 'm': 'GET', 'U': '/a', 'q': 'SECRET', 's': '200'},
                **{'r': 'GET /a?SECRET', 'f': 'http://x/?SECRET', 'H': 'HTTP/1.1'},
            },
            name='gunicorn.access',
        ),
    ):
        found = fields(made)
        assert '[::1]:5 - "GET /a?[redacted] HTTP/1.1" 200' == found['message']
        assert ('GET', '/a?[redacted]', 200) == (
            found['method'],
            found['path'],
            found['status'],
        )
    handshake = '%s - "WebSocket %s" [accepted]'
    made = record(handshake, '[::1]:5', '/a?SEC"RET', name='uvicorn.error')
    found = fields(made)['message']
    assert '[::1]:5 - "WebSocket /a?[redacted]" [accepted]' == found


def test_event_has_its_fields_and_a_message_for_people() -> None:
    """An event without words of its own has a sentence as its message."""
    event = Event('connection_closed', user='ann', code=3000, facts={'by_client': True})
    found = fields(record('%s', event, name='falcon_channels.events', event=event))
    assert 'A connection has ended' == found['message']
    assert ['connection_closed', 'ann', 3000, True] == [
        found[name] for name in ('event', 'user', 'code', 'by_client')
    ]
    assert 'channel' not in found


def test_levels_of_servers_begin_at_info() -> None:
    """At DEBUG, other WebSocket classes would log payloads."""
    loggers = json_log_config('debug')['loggers']
    assert logging.DEBUG == loggers['falcon_channels']['level']
    assert logging.INFO == loggers['uvicorn.error']['level']
    loggers = json_log_config(logging.ERROR)['loggers']
    assert logging.ERROR == loggers['uvicorn.error']['level']


def test_unknown_level_is_refused() -> None:
    """A level that `logging` does not know names those that it knows."""
    with pytest.raises(OptionsError, match=r"'loud' is not a level.*INFO"):
        json_log_config('loud')
