"""Recovery: what a client that was away gets, decided on values alone.

A subscription that recovers joins in this order, and this module is the middle of it:

1. the hub starts to keep the live publications of the channel for the subscription;
2. it reads from the log what lies after the client's position: a `HistoryPage`;
3. `recover` joins the two, and says whether nothing is missing;
4. the hub answers, and from then on the subscription is like every other.

Recovery is whole or not at all. A client is told that it recovered only if it gets
every publication after its position; otherwise it gets none and is told so, and loads
its state anew. A part of what was missed looks like all of it, and is never handed out.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

from falcon_channels.errors import PositionError
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import Publication


class Recovered(NamedTuple):
    """The outcome of a recovery.

    Attributes:
        recovered: Whether the client gets everything after its position.
        publications: What it missed, in offset order; empty unless `recovered`.
        position: Where the client stands afterwards.
    """

    recovered: bool
    publications: list[Publication]
    position: Position


def need_position(since: object) -> None:
    """Check where somebody says that a client stands.

    Raises:
        PositionError: It is neither a position nor ``None``.
    """
    if since is not None and not isinstance(since, Position):
        raise PositionError(f'since is a Position(offset, epoch), not {since!r}')


def missed(asked: Position, page: HistoryPage) -> list[Publication] | None:
    """Return what a client missed, or ``None`` where it cannot be recovered.

    Args:
        asked: The client's position. An empty epoch stands for any epoch, so that
            ``Position(0, '')`` asks for the channel from its beginning.
        page: What the log holds after ``asked.offset``, oldest first, and its top.
    """
    publications, top = page
    if asked.epoch and asked.epoch != top.epoch:
        return None
    if not publications:
        return [] if top.offset == asked.offset else None
    # NOTE: both ends matter. A log that was trimmed begins too late; a read that was
    #   cut off by its limit ends too early.
    if publications[0].offset != asked.offset + 1:
        return None
    if publications[-1].offset != top.offset:
        return None
    return publications


def extend(
    position: Position, publications: Iterable[Publication]
) -> list[Publication] | None:
    """Return those publications that follow `position`, or ``None`` at a gap.

    Args:
        position: The last offset that is known.
        publications: Of the same epoch, in any order, repeats allowed.
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
) -> Recovered | None:
    """Join what was read from the log with what arrived meanwhile.

    Args:
        asked: The client's position.
        page: What the log holds after it, read after the first of `live` was kept.
        live: Publications of the epoch of `page` announced since, in any order.

    Returns:
        The outcome, or ``None`` where `live` does not follow the log without a gap:
        the caller reads again, or reports insufficient state.
    """
    publications = missed(asked, page)
    following = extend(page.position, live)
    if following is None:
        return None
    top = page.position
    if following:
        top = Position(following[-1].offset, top.epoch)
    if publications is None:
        return Recovered(False, [], top)
    return Recovered(True, [*publications, *following], top)


def latest(page: HistoryPage) -> Recovered:
    """Recover in the manner of a cache: the newest publication, whatever was missed.

    Args:
        page: The newest publication of the log (at most one), and its top.
    """
    found = [p for p in page.publications if p.offset == page.position.offset]
    return Recovered(bool(found), found, page.position)


def _offset(publication: Publication) -> int:
    return publication.offset
