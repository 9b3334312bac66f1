"""The queue of all records: one limit, and the oldest are forgotten."""

from __future__ import annotations

from falcon_channels.explain.batch_times import BatchTimes
from falcon_channels.explain.record_queue import Record
from falcon_channels.explain.record_queue import RecordQueue
from falcon_channels.publication import Position


class Note(Record):
    """A record that writes down that it was forgotten."""

    def __init__(self, at: float, forgotten: list[float]) -> None:
        super().__init__(10)
        self._at = at
        self._forgotten = forgotten

    def forget(self) -> float:
        self._forgotten.append(self._at)
        return self._at


def test_records_above_the_limit_are_forgotten_oldest_first() -> None:
    """The queue keeps as many records as fit, and knows which time is missing."""
    forgotten: list[float] = []
    queue = RecordQueue(30)
    for at in (1.0, 2.0, 3.0):
        queue.keep(Note(at, forgotten))
    assert ([], None) == (forgotten, queue.forgotten_until)
    queue.keep(Note(4.0, forgotten))
    queue.keep(Note(5.0, forgotten))
    assert ([1.0, 2.0], 2.0) == (forgotten, queue.forgotten_until)


def test_record_that_grew_frees_its_whole_size_when_forgotten() -> None:
    """The size of a forgotten record is the one that it had grown to."""
    forgotten: list[float] = []
    queue = RecordQueue(30)
    first = Note(1.0, forgotten)
    queue.keep(first)
    queue.grow(first, 15)
    queue.keep(Note(2.0, forgotten))
    assert [1.0] == forgotten
    queue.keep(Note(3.0, forgotten))
    queue.keep(Note(4.0, forgotten))
    assert [1.0] == forgotten


def test_forgotten_record_takes_no_size_even_if_it_grows() -> None:
    """A record that is forgotten while it is added leaves all space to later ones.

    Channels with subscribers can take the whole limit. Batches of these channels are
    then forgotten at once.
    """
    queue = RecordQueue(10_000)
    queue.count(10_000)
    times = BatchTimes(queue, lambda: None)
    for offset in range(1, 1000):
        times.add(offset, Position(offset, 'x'), 1)
    assert times.empty
    queue.count(-10_000)
    times.add(1000, Position(1000, 'x'), 1)
    assert times.written_at(1000, 'x') is not None


def test_forgotten_time_never_moves_back() -> None:
    """A record of an earlier time that is forgotten later does not hide a gap."""
    forgotten: list[float] = []
    queue = RecordQueue(5)
    queue.keep(Note(9.0, forgotten))
    queue.keep(Note(2.0, forgotten))
    assert ([9.0, 2.0], 9.0) == (forgotten, queue.forgotten_until)


def test_size_of_a_connection_counts_towards_the_limit_of_records() -> None:
    """Bytes of a connection or channel leave less for records, until it ends."""
    forgotten: list[float] = []
    queue = RecordQueue(30)
    queue.count(15)
    queue.keep(Note(1.0, forgotten))
    queue.keep(Note(2.0, forgotten))
    assert [1.0] == forgotten
    queue.count(-15)
    queue.keep(Note(3.0, forgotten))
    queue.keep(Note(4.0, forgotten))
    assert [1.0] == forgotten
