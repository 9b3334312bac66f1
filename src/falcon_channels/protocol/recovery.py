"""Recovery: decides which publications a returning client gets. Pure: no I/O.

A recovering subscription joins a channel in these steps. This module is step 3:

1. The hub starts to buffer the live publications of the channel for the subscription.
2. The hub reads everything after the client's position from the log: a `HistoryPage`.
3. `recover` merges both, and reports whether the result has a gap.
4. The hub answers. From then on the subscription is like all others.

Recovery is complete or it fails. A client is told that it recovered only if it gets
every publication after its position. Otherwise it gets none, learns that
recovery failed, and loads its state again. The hub never sends a part of the missed
publications, because the client could not see that others are missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

from falcon_channels.checks import check_id
from falcon_channels.checks import check_integer
from falcon_channels.errors import InvalidValueError
from falcon_channels.errors import PositionError
from falcon_channels.publication import approximate_size_bytes
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import Publication


class RecoveryResult(NamedTuple):
    """The result of a recovery.

    Attributes:
        recovered: Whether the client gets everything after its position.
        publications: Missed publications in offset order; empty unless `recovered`.
        position: Position of the client afterwards.
    """

    recovered: bool
    publications: list[Publication]
    position: Position


def check_position(since: object) -> None:
    """Check the argument ``since`` of a public method.

    Raises:
        PositionError: It is neither a `Position` nor ``None``, or a field of the
            position is out of range.
    """
    if since is None:
        return
    if not isinstance(since, Position):
        raise PositionError(
            f'since must be a Position(offset, epoch) or None, not {since!r:.40}'
        )
    try:
        check_integer('offset of since', since.offset, 0, 2**53)
        check_id('epoch of since', since.epoch)
    except InvalidValueError as ex:
        raise PositionError(str(ex)) from None


def missed_publications(asked: Position, page: HistoryPage) -> list[Publication] | None:
    """Return the publications that a client missed, or ``None`` if some are lost.

    Args:
        asked: Position of the client. An empty epoch matches any epoch, so
            ``Position(0, '')`` asks for the channel from its beginning.
        page: The log after ``asked.offset``, oldest first, with its top position.
    """
    publications, top = page.publications, page.position
    if asked.epoch and asked.epoch != top.epoch:
        return None
    if not publications:
        return [] if top.offset == asked.offset else None
    # NOTE: check both ends. A trimmed log begins too late. A read that stopped at its
    #   limit ends too early.
    if publications[0].offset != asked.offset + 1:
        return None
    if publications[-1].offset != top.offset:
        return None
    return publications


def following_publications(
    position: Position, publications: Iterable[Publication]
) -> list[Publication] | None:
    """Return the publications that follow `position`, or ``None`` if there is a gap.

    Args:
        position: Position of the last known publication.
        publications: Publications of the same epoch, in any order, with duplicates.
    """
    offset = position.offset
    following = []
    for publication in sorted(publications, key=_offset):
        if publication.offset <= offset:
            continue
        if publication.offset != offset + 1:
            return None
        following.append(publication)
        offset = publication.offset
    return following


def recover(
    asked: Position, page: HistoryPage, live: Sequence[Publication]
) -> RecoveryResult | None:
    """Merge publications read from the log with those announced during the read.

    Args:
        asked: Position of the client.
        page: The log after that position, read after `live` started to buffer.
        live: Publications of the epoch of `page` announced since, in any order.

    Returns:
        The result, or ``None`` if there is a gap between the log and `live`. The caller
        then reads again, or reports insufficient state.
    """
    publications = missed_publications(asked, page)
    following = following_publications(page.position, live)
    if following is None:
        return None
    top = page.position
    if following:
        top = Position(following[-1].offset, top.epoch)
    if publications is None:
        return RecoveryResult(False, [], top)
    return RecoveryResult(True, [*publications, *following], top)


def recover_latest(
    page: HistoryPage, live: Iterable[Publication] = ()
) -> RecoveryResult:
    """Recover the newest publication, no matter how many were missed.

    Args:
        page: The newest publications of the log, newest first, with its top position.
        live: Publications of the epoch of `page` announced since, oldest first.

    Returns:
        The result, whose publications are in reverse order. The client gets the first
        one that it may receive.
    """
    newer = [p for p in live if p.offset > page.position.offset]
    newest = [*reversed(newer), *page.publications]
    position = page.position
    if newer:
        position = Position(newer[-1].offset, position.epoch)
    if not newest or newest[0].offset != position.offset:
        return RecoveryResult(False, [], position)
    return RecoveryResult(True, newest, position)


def has_latest(
    asked: Position | None, position: Position, latest: Sequence[Publication]
) -> bool:
    """Return whether a client already has the latest publication.

    Args:
        asked: Position of the client, or ``None``.
        position: Top position of the log.
        latest: The latest publication that the client may receive; empty if there is
            none.
    """
    if asked is None or asked.epoch != position.epoch:
        return False
    if not 0 < asked.offset <= position.offset:
        return False
    if not latest:
        return asked.offset == position.offset
    return latest[0].offset <= asked.offset


def recover_newest(
    page: HistoryPage, live: Sequence[Publication], limit_bytes: int
) -> RecoveryResult | None:
    """Merge the newest publications of the log with those announced during the read.

    Args:
        page: The newest publications, newest first, read after `live` started to
            buffer.
        live: Publications of the epoch of `page` announced since, in any order.
        limit_bytes: Maximum size of the result. The oldest publications are left out
            above it.

    Returns:
        The result, or ``None`` if there is a gap between the log and `live`. The caller
        then reads again.
    """
    following = following_publications(page.position, live)
    if following is None:
        return None
    newest_first = [*reversed(following), *page.publications]
    top = newest_first[0].offset if following else page.position.offset
    publications = []
    size_bytes = 0
    for number, publication in enumerate(newest_first):
        size_bytes += approximate_size_bytes(publication)
        # NOTE: the log may have lost publications at any place.
        if publication.offset != top - number or size_bytes > limit_bytes:
            break
        publications.append(publication)
    publications.reverse()
    return RecoveryResult(True, publications, Position(top, page.position.epoch))


def _offset(publication: Publication) -> int:
    return publication.offset
