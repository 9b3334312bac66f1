"""Markdown tables of the reference, made from the code.

A page of the reference names a table in a directive such as
``{generated} options falcon_channels.ChannelOptions``. The build replaces the directive
by the table.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import re
from typing import Any
from unittest.mock import patch

import msgspec

from falcon_channels import cli
from falcon_channels import errors
from falcon_channels.metrics import COUNTERS
from falcon_channels.metrics import GAUGES
from falcon_channels.metrics import HISTOGRAMS
from falcon_channels.metrics import LABELLED_COUNTERS
from falcon_channels.protocol import codes
from falcon_channels.websocket import close_codes

_ATTRIBUTE = re.compile(r'^    (\w+): (.*(?:\n(?: {5,}.*|))*)', re.MULTILINE)


def load(path: str) -> Any:
    """Return the object with a path such as ``falcon_channels.tokens.TokenKey``."""
    module_name, _, name = path.rpartition('.')
    return getattr(importlib.import_module(module_name), name)


def markdown(text: str) -> str:
    """Return the text of a docstring as one line of Markdown for a table."""
    return ' '.join(text.replace('``', '`').split()).replace('|', r'\|')


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, tuple('---' for _ in head), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def attributes(kind: type) -> dict[str, str]:
    """Return the descriptions of a class's attributes, from its docstring."""
    section = inspect.cleandoc(kind.__doc__ or '').partition('Attributes:\n')[2]
    found = dict(_ATTRIBUTE.findall(section.split('\n\nArgs:')[0]))
    return {name: ' '.join(text.split()) for name, text in found.items()}


def defaults(kind: type) -> dict[str, Any]:
    """Return the default of each option of a class."""
    if issubclass(kind, msgspec.Struct):
        return {field.name: field.default for field in msgspec.structs.fields(kind)}
    return {field.name: field.default for field in dataclasses.fields(kind)}


def shown(default: Any) -> str:
    """Return a default as the guides write it: 10.0 seconds are 10."""
    if isinstance(default, float) and default.is_integer():
        return repr(int(default))
    return repr(default)


def unit(name: str, default: Any) -> str:
    """Return the unit of an option, from its name."""
    if name.endswith('_per_s'):
        return 'per second'
    if name.endswith('_s'):
        return 'seconds'
    if name.endswith('_bytes'):
        return 'bytes'
    if isinstance(default, bool) or not isinstance(default, int):
        return 'number' if name.startswith('max_') else ''
    return 'number'


def options(path: str) -> str:
    """Return the table of the options of a class: default, unit and meaning."""
    kind = load(path)
    meanings = attributes(kind)
    rows = []
    for name, default in defaults(kind).items():
        rows.append(
            (
                f'`{name}`',
                f'`{shown(default)}`',
                unit(name, default),
                markdown(meanings[name]),
            )
        )
    return table(('option', 'default', 'unit', 'meaning'), rows)


def error_classes() -> list[type[errors.ChannelsError]]:
    """Return all error classes, each after its base."""
    return [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.ChannelsError)
    ]


def error_tree() -> str:
    """Return the table of all errors with their bases."""
    return table(
        ('error', 'bases', 'meaning'),
        (
            (
                f'`{kind.__name__}`',
                ', '.join(f'`{base.__name__}`' for base in kind.__bases__),
                markdown((kind.__doc__ or '').split('\n')[0]),
            )
            for kind in error_classes()
        ),
    )


def reply_errors() -> str:
    """Return the table of errors in replies."""
    return table(
        ('code', 'message', 'the SDK repeats the command'),
        (
            (str(row.code), row.message, 'yes' if row.temporary else 'no')
            for row in codes.REPLY_ERRORS.values()
        ),
    )


def unsubscribe_codes() -> str:
    """Return the table of reasons for the end of a subscription."""
    return table(
        ('code', 'reason', 'the SDK subscribes again'),
        (
            (str(row.code), row.reason, 'yes' if row.resubscribes else 'no')
            for row in codes.UNSUBSCRIBES.values()
        ),
    )


def disconnect_codes() -> str:
    """Return the table of reasons for the end of a connection."""
    return table(
        ('code', 'reason', 'the SDK reconnects'),
        (
            (str(row.code), row.reason, 'yes' if row.reconnects else 'no')
            for row in codes.DISCONNECTS.values()
        ),
    )


def websocket_codes() -> str:
    """Return the table of the close codes of RFC 6455."""
    return table(
        ('code', 'name'),
        (
            (str(code), name.lower().replace('_', ' '))
            for name, code in vars(close_codes).items()
            if name.isupper() and isinstance(code, int) and 1000 <= code < 2000
        ),
    )


def metrics() -> str:
    """Return the table of all metrics."""
    return table(
        ('metric', 'type', 'value'),
        [
            (f'`falcon_channels_{name}_total`', 'counter', markdown(text))
            for name, text in COUNTERS.items()
        ]
        + [
            (f'`falcon_channels_{name}`', 'gauge', markdown(text))
            for name, text in GAUGES.items()
        ]
        + [
            (_with_labels(f'{name}_total', row.labels), 'counter', markdown(row.text))
            for name, row in LABELLED_COUNTERS.items()
        ]
        + [
            (_with_labels(name, row.labels), 'histogram', markdown(row.text))
            for name, row in HISTOGRAMS.items()
        ],
    )


def _with_labels(name: str, labels: tuple[str, ...]) -> str:
    return f'`falcon_channels_{name}{{{", ".join(labels)}}}`'.replace('{}', '')


def help_text(*words: str) -> str:
    """Return what ``falcon-channels WORDS --help`` prints."""
    printed = io.StringIO()
    with (
        patch.dict(os.environ, {'COLUMNS': '80', 'NO_COLOR': '1'}),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        cli.main([*words, '--help'])
    return printed.getvalue().rstrip() + '\n'


def command_names() -> list[str]:
    """Return the names of all subcommands."""
    return re.findall(r'^    (\w+) ', help_text(), re.MULTILINE)


def commands() -> str:
    """Return the help text of each subcommand."""
    return '\n'.join(
        f'## {name}\n\n```text\n{help_text(name)}```\n' for name in command_names()
    )


#: Tables by the word in the directive. Further words are arguments.
TABLES: dict[str, Callable[..., str]] = {
    'commands': commands,
    'disconnect_codes': disconnect_codes,
    'error_tree': error_tree,
    'metrics': metrics,
    'options': options,
    'reply_errors': reply_errors,
    'unsubscribe_codes': unsubscribe_codes,
    'websocket_codes': websocket_codes,
}


def generate(words: str) -> str:
    """Return the Markdown for the words of a directive."""
    name, *arguments = words.split()
    return TABLES[name](*arguments)
