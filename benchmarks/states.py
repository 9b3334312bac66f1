"""States of which a part changes, for benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
import json
import random
from typing import Any


def json_states(
    size_bytes: int, count: int, share: float = 0.05, kind: str = 'fields'
) -> Iterator[bytes]:
    """Yield JSON states of about this size.

    Each one has one mark ``@@`` in a place that changes every time.

    Args:
        size_bytes: Size of a state.
        count: Number of states.
        share: Share of the records that change from one state to the next.
        kind: ``'fields'`` if two numbers of these records change, ``'records'`` if the
            whole records change, ``'moves'`` if they move to other places.
    """
    chance = random.Random(size_bytes)
    records = [_record(chance, number) for number in range(max(size_bytes // 94, 1))]
    if size_bytes < 94:
        records = [chance.randrange(10) for _ in range(size_bytes // 4)]
    for number in range(count):
        if size_bytes < 94:
            records[number % len(records)] = chance.randrange(10)
        else:
            _change(chance, records, share, kind)
        mark = f'{chance.randbytes(3).hex()}@@{chance.randbytes(3).hex()}'
        state = {'mark': mark, 'records': records}
        yield json.dumps(state, separators=(',', ':')).encode()


def _record(chance: random.Random, number: int) -> Any:
    return {
        'id': number,
        'name': f'item {chance.randbytes(5).hex()}',
        'price': round(chance.uniform(1, 10_000), 2),
        'stock': chance.randrange(1000),
        'state': chance.choice(['open', 'closed', 'pending']),
    }


def _change(chance: random.Random, records: list[Any], share: float, kind: str) -> None:
    changed = chance.sample(range(len(records)), max(1, round(len(records) * share)))
    for number in changed:
        if kind == 'fields':
            records[number]['price'] = round(chance.uniform(1, 10_000), 2)
            records[number]['stock'] = chance.randrange(1000)
        elif kind == 'records':
            records[number] = _record(chance, number)
        else:
            record = records.pop(number)
            records.insert(chance.randrange(len(records) + 1), record)
