"""Shared encodings: encoded once, exact, limited in size, and dropped soon."""

from __future__ import annotations

import asyncio
from collections import Counter
import gc
import weakref

import pytest

from falcon_channels.hub import shared_encodings
from falcon_channels.hub.shared_encodings import SharedEncodings
from falcon_channels.publication import approximate_size_bytes
from falcon_channels.publication import Publication


class Log:
    """Publications, and a counter of how often each was encoded."""

    def __init__(self, size: int, data: bytes = b'x') -> None:
        self.publications = [
            Publication(data=data, offset=offset) for offset in range(1, size + 1)
        ]
        self.encoded: Counter[int] = Counter()

    def encode(self, publication: Publication) -> bytes:
        self.encoded[publication.offset] += 1
        return b'%d:%s' % (publication.offset, publication.data)


@pytest.fixture
def shared() -> SharedEncodings:
    return SharedEncodings()


async def test_publications_are_encoded_once_after_the_first_request(
    shared: SharedEncodings,
) -> None:
    """Clients that missed more or fewer publications share the encoded ones.

    The first request returns nothing, because most clients reconnect alone."""
    log = Log(20)
    assert shared.pieces('json', log.publications[:10], log.encode) is None
    assert {} == log.encoded
    for start, end in [(5, 10), (0, 10), (7, 15), (0, 20), (19, 20), (0, 20)]:
        missed = log.publications[start:end]
        expected = [b'%d:x' % publication.offset for publication in missed]
        assert expected == shared.pieces('json', missed, log.encode)
    assert {1} == set(log.encoded.values())
    assert 20 == len(log.encoded)
    shared.clear()


async def test_equal_publications_of_another_read_are_found(
    shared: SharedEncodings,
) -> None:
    """A store returns new objects with each read. Equal publications are found."""
    for read in range(3):
        log = Log(5)
        shared.pieces('json', log.publications, log.encode)
        assert (5 if read == 1 else 0) == log.encoded.total()
    shared.clear()


async def test_other_publication_at_the_same_offset_is_encoded_anew(
    shared: SharedEncodings,
) -> None:
    """If a log lost its end, no client gets the former publication of an offset."""
    log, other = Log(3), Log(3, b'y')
    for _ in range(2):
        shared.pieces('json', log.publications, log.encode)
    found = shared.pieces('json', other.publications, other.encode)
    assert [b'1:y', b'2:y', b'3:y'] == found
    found = shared.pieces('json', log.publications, log.encode)
    assert [b'1:x', b'2:x', b'3:x'] == found
    shared.clear()


async def test_size_is_that_of_the_given_publications(shared: SharedEncodings) -> None:
    """The size of the last publications is known; others are counted anew."""
    log, other = Log(3), Log(3, b'yy')
    shared.pieces('json', log.publications, log.encode)
    for publications in (log.publications, log.publications, log.publications[1:]):
        expected = sum(map(approximate_size_bytes, publications))
        assert expected == shared.size_bytes(list(publications))
    assert shared.size_bytes(other.publications) == 3 + shared.size_bytes(
        log.publications
    )
    assert 0 == shared.size_bytes([])
    shared.clear()


async def test_pieces_of_different_keys_are_separate(shared: SharedEncodings) -> None:
    """Each key has pieces of its own."""
    log = Log(1)
    for key in ('json', 'raw', 'json', 'raw'):
        shared.pieces(key, log.publications, lambda _, key=key: key)
    for key in ('json', 'raw'):
        assert [key] == shared.pieces(key, log.publications, lambda _: 'new')
    shared.clear()


async def test_error_of_encode_reaches_every_caller(
    shared: SharedEncodings,
) -> None:
    """An encoding error is raised to every caller, and affects no other publication."""
    log = Log(3)

    def encode(publication: Publication) -> bytes:
        if publication.offset == 2:
            raise ValueError('on purpose')
        return log.encode(publication)

    shared.pieces('json', log.publications, encode)
    for _ in range(2):
        with pytest.raises(ValueError, match='on purpose'):
            shared.pieces('json', log.publications, encode)
    found = shared.pieces('json', log.publications[2:], encode)
    assert [b'3:x'] == found
    assert {1: 1, 3: 1} == log.encoded
    shared.clear()


async def test_pieces_beyond_the_limit_are_encoded_for_each_client(
    shared: SharedEncodings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit nothing is stored, and each client gets its own encoding."""
    monkeypatch.setattr(shared_encodings, 'MAX_CACHED_BYTES', 10_000)
    log = Log(100, bytes(100))
    for _ in range(4):
        found = shared.pieces('json', log.publications, log.encode)
    assert found == [log.encode(publication) for publication in log.publications]
    assert 9_000 < shared.cached_bytes <= 10_000
    # NOTE: encoded once for the assertion above, and once or three times before.
    assert {2, 4} == set(log.encoded.values())
    for channel in range(1000):
        shared.pieces(channel, log.publications, log.encode)
    assert shared.cached_bytes <= 10_256
    shared.clear()
    assert 0 == shared.cached_bytes


async def test_pieces_are_dropped_after_the_keep_time(
    shared: SharedEncodings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pieces are freed soon, and the next request is a first one again."""
    monkeypatch.setattr(shared_encodings, 'CACHE_S', 0.01)
    gone = asyncio.Event()

    class Piece:
        """An object whose end can be observed."""

    def encode(publication: Publication) -> Piece:
        piece = Piece()
        weakref.finalize(piece, gone.set)
        return piece

    for _ in range(2):
        shared.pieces('json', Log(1).publications, encode)
    gc.collect()
    assert not gone.is_set()
    await gone.wait()
    assert 0 == shared.cached_bytes
    assert shared.pieces('json', Log(1).publications, encode) is None
    shared.clear()
