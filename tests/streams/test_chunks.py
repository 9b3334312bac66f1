"""The chunks that a writer holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import msgspec
import pytest

from falcon_channels import PayloadError
from falcon_channels import PublicationTooLargeError
from falcon_channels.streams.chunks import Batch
from falcon_channels.streams.chunks import ChunkBuffer

TEXTS = st.text(st.characters(codec='utf-8'), max_size=40)
CHUNKS = st.lists(st.one_of(TEXTS, st.integers(), st.just({'a': 'b'})), max_size=12)


def filled(chunks: list[object], limit_bytes: int = 64) -> ChunkBuffer:
    buffer = ChunkBuffer(limit_bytes)
    for chunk in chunks:
        if isinstance(chunk, str):
            buffer.add_text(chunk)
        else:
            buffer.add_value(msgspec.json.encode(chunk), False)
    return buffer


def take_all(buffer: ChunkBuffer) -> list[Batch]:
    batches = []
    while buffer:
        batches.append(buffer.first_batch())
        buffer.remove(batches[-1])
    return batches


def joined(values: list[object]) -> list[object]:
    """Return values with neighbouring texts joined, and empty texts left out."""
    found: list[object] = []
    for value in values:
        if isinstance(value, str) and found and isinstance(found[-1], str):
            found[-1] += value
        elif value != '':
            found.append(value)
    return found


@given(CHUNKS, st.integers(8, 64))
def test_batches_carry_all_chunks_in_order(
    chunks: list[object], limit_bytes: int
) -> None:
    """Texts are joined and cut, values are not, and nothing is lost or repeated."""
    buffer = filled(chunks, limit_bytes)
    expected = joined(chunks)
    units = sum(len(v) if isinstance(v, str) else 1 for v in expected)
    assert units == buffer.units
    batches = take_all(buffer)
    values = [msgspec.json.decode(batch.payload) for batch in batches]
    assert expected == joined(values)
    assert units == sum(batch.units for batch in batches)
    texts = [batch for batch in batches if batch.payload[:1] == b'"']
    assert [] == [batch for batch in texts if len(batch.payload) > limit_bytes]
    assert (0, 0, False) == (buffer.size_bytes, buffer.units, bool(buffer))


@given(CHUNKS, st.integers(8, 64), st.data())
def test_chunks_that_another_writer_has_stored_are_removed(
    chunks: list[object], limit_bytes: int, data: st.DataObject
) -> None:
    """Stored chunks leave the front, however the other writer has cut them."""
    stored = take_all(filled(chunks, limit_bytes))
    own = filled(chunks, data.draw(st.integers(8, 64)))
    units = own.units
    count = data.draw(st.integers(0, len(stored)))
    for batch in stored[:count]:
        assert own.remove_stored(batch.payload, batch.binary, batch.units)
    assert 0 == own.skip_units
    assert units - sum(batch.units for batch in stored[:count]) == own.units
    rest = [msgspec.json.decode(batch.payload) for batch in take_all(own)]
    expected = [msgspec.json.decode(batch.payload) for batch in stored[count:]]
    assert joined(expected) == joined(rest)


def test_stored_chunks_that_are_not_written_yet_are_skipped() -> None:
    """The buffer drops that many units when the producer writes them."""
    own = filled(['ab'])
    assert own.remove_stored('"abcdé"'.encode(), False, 5)
    assert not own
    assert 3 == own.skip_units
    assert own.remove_stored(b'{"a":1}', False, 1)
    assert 4 == own.skip_units
    own.add_text('cd')
    own.add_text('é')
    own.add_value(b'{"a":1}', False)
    assert not own
    own.add_text('next')
    assert b'"next"' == own.first_batch().payload


@pytest.mark.parametrize(
    ('own', 'stored'),
    [
        (['abc'], 'abX'),
        (['ab', 'cd'], 'abcX'),
        (['a'], 1),
        ([1], 'a'),
        ([12], 1),
        ([1], 12),
        (['a', 1], 'ab'),
        ([{'v': 1}], {'v': 2}),
    ],
)
def test_stored_chunks_that_differ_are_found(own: list[object], stored: object) -> None:
    """A writer with other chunks must not continue the stream."""
    payload = msgspec.json.encode(stored)
    units = len(stored) if isinstance(stored, str) else 1
    assert not filled(own).remove_stored(payload, False, units)


def test_stored_chunk_with_others_before_it_is_a_conflict() -> None:
    """Chunks that have left the log cannot be compared."""
    assert not filled(['aabc']).remove_stored(b'"a"', False, 2)
    assert not filled([1]).remove_stored(b'1', False, 2)


def test_text_that_cannot_be_published_is_refused_as_a_whole() -> None:
    """Nothing of a wrong text is added."""
    buffer = ChunkBuffer(16384)
    with pytest.raises(PayloadError, match='cannot be written as UTF-8'):
        buffer.add_text('a' * 20_000 + '\ud800')
    assert (0, 0) == (buffer.size_bytes, buffer.units)
    tiny = ChunkBuffer(4)
    with pytest.raises(PublicationTooLargeError):
        tiny.add_text('a\x01')
    assert not tiny
