"""What is asked about a publication, what is found, and the words that findings share.

* A finding is a verdict, one sentence for people, and its evidence by name.
* A sentence says what is certain. It never says that a client has read a publication.
* Times are in UTC with milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from datetime import UTC
from typing import Final
from typing import NamedTuple

from falcon_channels.events import Fact
from falcon_channels.explain.facts import RecordedConnection
from falcon_channels.explain.verdicts import Verdict
from falcon_channels.publication import Publication

NOT_ACKNOWLEDGED: Final = 'whether the client has read it is not known'
NOT_RECORDED: Final = 'deliveries were not recorded at the time of the publication'
FORGOTTEN: Final = 'the record of that time is forgotten'


class Asked(NamedTuple):
    """The publication in question.

    Attributes:
        offset: Offset of the publication.
        epoch: Epoch of the log.
        publication: The publication itself; ``None`` if the log no longer has it.
        published_at: Unix time in seconds of the publication; ``None`` if unknown.
    """

    offset: int
    epoch: str
    publication: Publication | None
    published_at: float | None


class Found(NamedTuple):
    """The result of a decision about the publication.

    Attributes:
        verdict: The result.
        text: The result in words.
        at: Unix time in seconds of what decided it, or ``None`` if unknown.
        facts: Evidence by name.
    """

    verdict: Verdict
    text: str
    at: float | None
    facts: Mapping[str, Fact] = {}


def end_facts(connection: RecordedConnection) -> dict[str, Fact]:
    """Return how a connection ended, as evidence."""
    return {
        'closed_at': connection.closed_at,
        'code': connection.code,
        'reason': connection.reason,
        'by_client': connection.by_client,
    }


def end_text(connection: RecordedConnection) -> str:
    """Return how a connection ended, as the start of a sentence."""
    if connection.closed_at is None:
        return 'the connection ended'
    who = 'ended' if connection.by_client else 'was closed by the server'
    code = ''
    if connection.code:
        code = f' with {connection.code}'
        if connection.reason:
            code += f' ({connection.reason})'
    return f'the connection {who}{code} at {time_text(connection.closed_at)}'


def time_text(seconds: float | None) -> str:
    """Return a Unix time as text, such as ``2026-11-28 09:14:07.250 UTC``."""
    if seconds is None:
        return 'an unknown time'
    moment = datetime.fromtimestamp(seconds, UTC)
    return f'{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03} UTC'
