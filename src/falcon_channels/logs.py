"""Logs as JSON, one object a line, for programs that collect logs.

`JsonFormatter` formats the records of all loggers: of this package, of Falcon, of the
application, and of uvicorn and gunicorn. A record of an event has the fields of the
event (docs/events.md).

SECURITY: a log line is read by other programs and in terminals, and stored for long.

* A line never contains a line end, and characters that are not printable are escaped. A
  client cannot forge a line, or control a terminal.
* Query strings are hidden, because those of event streams and WebSockets carry tokens.
* A field has a limited number of characters, and a line at most `MAX_BYTES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from datetime import UTC
import logging
import os
import re
import socket
from typing import Any
from typing import Final

import msgspec

from falcon_channels.errors import OptionsError
from falcon_channels.events import Event
from falcon_channels.events import EVENTS

__all__ = ['JsonFormatter', 'json_log_config']

#: Maximum number of characters of a field. The middle of a longer value is removed.
MAX_CHARACTERS: Final = 2_000
#: Maximum number of characters of a traceback, and of all attributes in `extra`.
MAX_LONG_CHARACTERS: Final = 8_000
#: Maximum size of a line. Container engines split lines of 16 KiB.
MAX_BYTES: Final = 16_000

_LONG_FIELDS = ('extra', 'stack', 'traceback')

#: Divisors of these numbers that are tried until a line is short enough.
_DIVISORS = (1, 4, 16, 64)

#: Loggers of servers whose records become requests with fields.
_ACCESS_LOGGERS = ('uvicorn.access', 'gunicorn.access')

_LIBRARY_LOGGERS = ('falcon', 'falcon_channels', 'falcon_channels_chat')
_SERVER_LOGGERS = (
    *_ACCESS_LOGGERS,
    'gunicorn.error',
    'uvicorn',
    'uvicorn.asgi',
    'uvicorn.error',
)

#: Attributes of each record, and those that servers add for their own formatters.
_USUAL_ATTRIBUTES = frozenset(
    {
        *vars(logging.makeLogRecord({})),
        'asctime',
        'color_message',
        'message',
        'websocket',
    }
)

# SECURITY: the query string of a URL in a text. It has an equals sign before the next
# space, so that other question marks stay. The first parameter may have no value, as in
# "?debug&token=x". A client can send quotes in a value.
_QUERY = re.compile(r'\?[^\s?="]*=\S*')
_HIDDEN = '?[redacted]'

# SECURITY: the target of a handshake, in a line of uvicorn's own WebSocket classes.
_TARGET = re.compile(r'(?<= - "WebSocket )([^?]*)\?.*"')


class _Extra(dict[str, object]):
    """The attributes that the application has added to a record."""


class JsonFormatter(logging.Formatter):
    """Formats each record as one JSON object, without a line end.

    Use it in a configuration of `logging`::

        {'formatters': {'json': {'()': 'falcon_channels.logs.JsonFormatter'}}}

    docs/events.md lists the fields. A value that JSON cannot encode becomes text. A
    record that cannot be formatted, because its arguments do not fit its message,
    becomes a line that says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self._host = socket.gethostname()

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
        try:
            fields = self._fields(record)
        except Exception as ex:
            # NOTE: an error here would make `logging` print a traceback of many lines.
            fields = self._usual_fields(record)
            fields['message'] = f'this record cannot be formatted: {_text(record.msg)}'
            fields['error'] = f'{type(ex).__name__}: {_text(ex)}'
        return _line(fields)

    def _usual_fields(self, record: logging.LogRecord) -> dict[str, object]:
        time = datetime.fromtimestamp(record.created, UTC)
        pid = record.process or os.getpid()
        return {
            'time': time.isoformat(timespec='milliseconds').replace('+00:00', 'Z'),
            'level': record.levelname,
            'logger': record.name,
            'node': f'{self._host}_{pid}',
            'pid': pid,
        }

    def _fields(self, record: logging.LogRecord) -> dict[str, object]:
        fields = self._usual_fields(record)
        event = getattr(record, 'event', None)
        if isinstance(event, Event):
            fields['event'] = event.name
            fields['message'] = (
                EVENTS[event.name] if record.args == (event,) else _message(record)
            )
            fields.update(event.fields())
        elif record.name in _ACCESS_LOGGERS and (request := _request(record)):
            fields.update(request)
        else:
            fields['message'] = _message(record)
        extra = {
            name: value
            for name, value in vars(record).items()
            if name not in _USUAL_ATTRIBUTES and not isinstance(value, Event)
        }
        if extra:
            fields['extra'] = _Extra(extra)
        if record.exc_info and record.exc_info[0] is not None:
            fields['traceback'] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields['traceback'] = record.exc_text
        if record.stack_info:
            fields['stack'] = record.stack_info
        return fields


def json_log_config(level: str | int = 'INFO') -> dict[str, Any]:
    """Return a configuration that prints all records as JSON to the standard error.

    Pass it to `logging.config.dictConfig`, as ``log_config`` to uvicorn, or as
    ``logconfig_dict`` to gunicorn.

    SECURITY: at DEBUG, uvicorn's own WebSocket classes log headers and payloads. The
    loggers of servers therefore begin at INFO.

    Args:
        level: Lowest level of Falcon and of this package, and of servers if it is not
            below INFO. Other loggers print warnings and errors, unless the application
            sets their levels.

    Raises:
        OptionsError: There is no such level.
    """
    names = logging.getLevelNamesMapping()
    number = names.get(level.upper()) if isinstance(level, str) else level
    if number is None:
        raise OptionsError(
            f'{level!r} is not a level of logging; use one of {", ".join(names)}'
        )
    levels = {
        **dict.fromkeys(_LIBRARY_LOGGERS, number),
        **dict.fromkeys(_SERVER_LOGGERS, max(number, logging.INFO)),
    }
    return {
        'version': 1,
        'disable_existing_loggers': False,
        'formatters': {'json': {'()': 'falcon_channels.logs.JsonFormatter'}},
        'handlers': {
            'json': {
                'class': 'logging.StreamHandler',
                'stream': 'ext://sys.stderr',
                'formatter': 'json',
            }
        },
        'root': {'handlers': ['json'], 'level': 'WARNING'},
        'loggers': {
            name: {'handlers': [], 'level': level, 'propagate': True}
            for name, level in levels.items()
        },
    }


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage().rstrip('\n')
    if record.name == 'uvicorn.error' and '?' in message:
        message = _TARGET.sub(rf'\1{_HIDDEN}"', message)
    return message


def _request(record: logging.LogRecord) -> dict[str, object] | None:
    """Return the fields of a line of an access log, or ``None`` for another record.

    SECURITY: the line of gunicorn has the request line and the referring page, which
    can contain tokens. It is written again without them.
    """
    args = record.args
    if isinstance(args, tuple) and len(args) == 5:
        client, method, target, version, status = args
    elif isinstance(args, dict):
        client, method, target = args.get('h'), args.get('m'), args.get('U')
        version, status = str(args.get('H')).removeprefix('HTTP/'), args.get('s')
        target = f'{target}?' if args.get('q') else target
    else:
        return None
    path, mark, _ = str(target).partition('?')
    code = _text(status)
    path = f'{path}{_HIDDEN}' if mark else path
    return {
        'message': f'{client} - "{method} {path} HTTP/{version}" {code}',
        'client': client,
        'method': method,
        'path': path,
        'status': int(code) if code.isdecimal() else code,
    }


def _line(fields: dict[str, object]) -> str:
    """Return the fields as JSON, with shorter values if the line is too long."""
    for divisor in _DIVISORS:
        shortened = {
            name: _shortened(value, _limit(name) // divisor)
            for name, value in fields.items()
        }
        encoded = msgspec.json.encode(shortened)
        line = encoded.decode()
        if not line.isprintable():
            line = ''.join(_escaped(line))
            encoded = line.encode()
        if len(encoded) <= MAX_BYTES:
            break
    return line


def _limit(name: str) -> int:
    return MAX_LONG_CHARACTERS if name in _LONG_FIELDS else MAX_CHARACTERS


def _shortened(value: object, limit: int) -> object:
    """Return a value that JSON can encode, of limited length, and without queries."""
    if isinstance(value, str):
        return _cut(value, limit)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, _Extra):
        part = limit * MAX_CHARACTERS // MAX_LONG_CHARACTERS
        value = _Extra({name: _shortened(item, part) for name, item in value.items()})
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    try:
        text = msgspec.json.encode(value, enc_hook=_text).decode()
    except Exception:
        return _cut(_text(value), limit)
    if len(text) > limit or _QUERY.search(text):
        return _cut(text, limit)
    return msgspec.Raw(text.encode())


def _text(value: object) -> str:
    """Return an object as text, even if it cannot be converted."""
    try:
        return value if isinstance(value, str) else str(value)
    except Exception as ex:
        return f'<{type(value).__name__} whose text raises {type(ex).__name__}>'


def _cut(text: str, limit: int) -> str:
    """Hide query strings in a text, and remove the middle of a long one."""
    if '?' in text:
        text = _QUERY.sub(_HIDDEN, text)
    if len(text) > limit:
        half = limit // 2
        removed = len(text) - 2 * half
        text = f'{text[:half]} [{removed} characters removed] {text[-half:]}'
    return text.encode(errors='backslashreplace').decode()


def _escaped(line: str) -> Iterator[str]:
    """Yield the characters of a line of JSON; escape those that are not printable."""
    for character in line:
        if character.isprintable():
            yield character
        else:
            code = ord(character)
            if code > 0xFFFF:
                high, low = divmod(code - 0x10000, 0x400)
                yield f'\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}'
            else:
                yield f'\\u{code:04x}'
