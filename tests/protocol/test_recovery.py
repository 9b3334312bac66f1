"""Recovery, compared with what a log and a client are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import pytest

from falcon_channels.protocol.recovery import following_publications
from falcon_channels.protocol.recovery import has_latest
from falcon_channels.protocol.recovery import missed_publications
from falcon_channels.protocol.recovery import recover
from falcon_channels.protocol.recovery import recover_latest
from falcon_channels.protocol.recovery import recover_newest
from falcon_channels.publication import approximate_size_bytes
from falcon_channels.publication import HistoryPage
from falcon_channels.publication import Position
from falcon_channels.publication import Publication


def pub(offset: int) -> Publication:
    return Publication(data=b'%d' % offset, offset=offset)


def pubs(first: int, last: int) -> list[Publication]:
    return [pub(offset) for offset in range(first, last + 1)]


def page(first: int, top: int, *, epoch: str = 'e') -> HistoryPage:
    """Return the page of a log that has what lies from `first` to `top`."""
    return HistoryPage(pubs(first, top), Position(top, epoch))


@pytest.mark.parametrize(
    ('asked', 'read', 'expected'),
    [
        pytest.param(Position(3, 'e'), page(4, 6), pubs(4, 6), id='everything missed'),
        pytest.param(Position(6, 'e'), page(7, 6), [], id='nothing was missed'),
        pytest.param(Position(3, 'e'), page(5, 6), None, id='the log was trimmed'),
        pytest.param(Position(3, 'e'), page(7, 6), None, id='the log was emptied'),
        pytest.param(
            Position(3, 'e'),
            HistoryPage(pubs(4, 5), Position(6, 'e')),
            None,
            id='the read was cut short',
        ),
        pytest.param(Position(7, 'e'), page(8, 6), None, id='ahead of the log'),
        pytest.param(Position(3, 'd'), page(4, 6), None, id='another log'),
        pytest.param(Position(0, ''), page(1, 6), pubs(1, 6), id='from the beginning'),
        pytest.param(Position(0, ''), page(1, 0), [], id='an empty log'),
        pytest.param(Position(0, ''), page(2, 6), None, id='no beginning any more'),
    ],
)
def test_missed_publications_are_complete_or_none(
    asked: Position, read: HistoryPage, expected: list[Publication] | None
) -> None:
    """A client recovers all missed publications, or none."""
    assert expected == missed_publications(asked, read)


@given(
    asked=st.integers(0, 12),
    trimmed=st.integers(0, 12),
    top=st.integers(0, 12),
    same_epoch=st.booleans(),
    limit=st.integers(1, 12),
    live_from=st.integers(1, 14),
    live_to=st.integers(0, 16),
    data=st.data(),
)
def test_recover_returns_all_missed_publications_or_fails(
    asked: int,
    trimmed: int,
    top: int,
    same_epoch: bool,
    limit: int,
    live_from: int,
    live_to: int,
    data: st.DataObject,
) -> None:
    """RecoveryResult means every publication once, in order; anything else is said."""
    since = Position(asked, 'e' if same_epoch else 'other')
    held = [p for p in pubs(trimmed + 1, top) if p.offset > asked][:limit]
    read = HistoryPage(held, Position(top, 'e'))
    live = pubs(live_from, live_to)
    shuffled = data.draw(st.permutations(live + live[: len(live) // 2]))
    found = recover(since, read, shuffled)
    newest = max(top, live_to if live else 0)
    if live and live_from > top + 1:
        assert None is found
        return
    assert found is not None
    assert newest == found.position.offset
    offsets = [p.offset for p in found.publications]
    if found.recovered:
        assert same_epoch
        assert list(range(asked + 1, newest + 1)) == offsets
    else:
        assert [] == offsets
        whole = [p.offset for p in held] == list(range(asked + 1, top + 1))
        assert not (same_epoch and whole and asked <= top)


@given(st.lists(st.integers(1, 20)), st.integers(0, 20))
def test_following_publications_have_no_gap_or_are_none(
    offsets: list[int], position: int
) -> None:
    """The publications after a position have no gap, or there are none."""
    following = following_publications(Position(position, 'e'), map(pub, offsets))
    newer = sorted({offset for offset in offsets if offset > position})
    if newer == list(range(position + 1, position + 1 + len(newer))):
        assert following is not None
        assert newer == [p.offset for p in following]
    else:
        assert None is following


def test_recover_latest_returns_the_newest_publication_or_nothing() -> None:
    """A cache recovers with its newest publication, if that is still there."""
    newest = recover_latest(HistoryPage([pub(7)], Position(7, 'e')))
    assert (True, [pub(7)], Position(7, 'e')) == newest
    assert not recover_latest(HistoryPage([], Position(7, 'e'))).recovered


@pytest.mark.parametrize(
    ('asked', 'latest', 'has'),
    [
        (None, [7], False),
        (Position(7, 'e'), [7], True),
        (Position(7, 'e'), [5], True),  # 6 and 7 do not match the client's filter
        (Position(6, 'e'), [7], False),
        (Position(7, 'other'), [7], False),
        (Position(7, ''), [7], False),
        (Position(0, 'e'), [7], False),
        (Position(8, 'e'), [7], False),  # beyond the log, so it is of another one
        (Position(7, 'e'), [], True),  # the log no longer has it, but the client does
        (Position(6, 'e'), [], False),
    ],
)
def test_client_has_the_latest_publication_up_to_its_position(
    asked: Position | None, latest: list[int], has: bool
) -> None:
    """A client has the latest publication if its position is of this log, and not
    before it."""
    assert has == has_latest(asked, Position(7, 'e'), [pub(n) for n in latest])


@given(
    top=st.integers(10, 25),
    stored=st.integers(0, 15),
    limit=st.integers(0, 8),
    live_to=st.integers(10, 28),
    num_fitting=st.integers(0, 20),
)
def test_newest_publications_follow_each_other_up_to_the_top(
    top: int, stored: int, limit: int, live_to: int, num_fitting: int
) -> None:
    """A new client begins with the newest publications, without a gap.

    Those that were announced during the read are not missing, and none comes twice.
    """
    first = max(10, top - stored + 1, top - limit + 1)
    read = HistoryPage(pubs(first, top)[::-1], Position(top, 'e'))
    size_bytes = approximate_size_bytes(pub(10))
    found = recover_newest(read, pubs(top, live_to)[::-1], num_fitting * size_bytes)
    assert found is not None
    newest = max(top, live_to)
    assert (True, Position(newest, 'e')) == (found.recovered, found.position)
    offsets = [publication.offset for publication in found.publications]
    expected = list(range(first, newest + 1))[-num_fitting:] if num_fitting else []
    assert expected == offsets


def test_newest_publications_end_before_a_gap() -> None:
    """If the log misses a publication, a client begins after it; live ones too."""
    read = HistoryPage([pub(5), pub(4), pub(2)], Position(5, 'e'))
    found = recover_newest(read, [], 10_000)
    assert found is not None
    assert pubs(4, 5) == found.publications
    assert None is recover_newest(read, [pub(7)], 10_000)
    emptied = recover_newest(HistoryPage([], Position(5, 'e')), [], 10_000)
    assert (True, [], Position(5, 'e')) == emptied
