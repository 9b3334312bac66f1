"""The features of the SDKs, and what docs/clients.md says about them.

Each SDK has a program with one scenario per feature. The test of an SDK compares the
features that have passed with the column of the SDK in the table of the page. So the
table says neither more nor less than what has run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
import re

from support.processes import ROOT

#: The names that the programs use, and the rows of the table.
FEATURES = {
    'connect': 'connect and disconnect',
    'subscribe': 'subscribe and receive publications',
    'publish': 'publish',
    'presence': 'presence',
    'joins': 'joins and leaves',
    'history': 'history',
    'rpc': 'RPC',
    'messages': 'messages without an answer',
    'server_subscriptions': 'subscriptions by the server',
    'codes': 'codes of errors and disconnects',
    'tokens': 'connection tokens, and their refresh',
    'subscription_tokens': 'subscription tokens, and their refresh',
    'recovery': 'recovery after a lost connection',
    'restart': 'reconnect after a restart of the server',
    'since': 'start at a position (`since`)',
    'finish': 'end of a channel (`channels.finish`)',
    'state': 'load a state and follow it (`getState`)',
    'filter': 'tag filters',
    'delta': 'deltas',
}

YES = 'yes'
ABSENT = 'not in the SDK'


@dataclass(frozen=True, kw_only=True)
class Support:
    """Describes what one SDK supports: a column of the table.

    Attributes:
        version: Version of the SDK.
        encodings: Its encodings; each feature works with all of them.
        transports: Its transports; each feature works with all of them.
        features: The names of the features that work.
        absent: The names of the features that this version of the SDK does not have.
    """

    version: str
    encodings: tuple[str, ...]
    transports: tuple[str, ...] = ('WebSocket',)
    features: Collection[str]
    absent: Collection[str] = ()

    def column(self) -> dict[str, str]:
        """Return the cells of the column by the names of the rows."""
        cells = {
            'tested version': self.version,
            'encodings': ', '.join(self.encodings),
            'transports': ', '.join(self.transports),
        }
        for name, row in FEATURES.items():
            if name in self.features:
                cells[row] = YES
            elif name in self.absent:
                cells[row] = ABSENT
            else:
                cells[row] = 'not tested'
        return cells


def documented_table() -> list[list[str]]:
    """Return the rows of the table in docs/clients.md, beginning with the head."""
    page = (ROOT / 'docs' / 'clients.md').read_text()
    [table] = re.findall(r'^\| feature \|.*\n(?:\|.*\n)+', page, re.M)
    head, _, *rows = (
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in table.splitlines()
    )
    return [head, *rows]


def documented_column(sdk: str) -> dict[str, str]:
    """Return the cells of the column of an SDK in docs/clients.md."""
    head, *rows = documented_table()
    number = head.index(sdk)
    return {row[0]: row[number] for row in rows}
