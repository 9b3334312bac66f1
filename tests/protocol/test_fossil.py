"""The encoder of deltas, against the decoder of the official Python SDK."""

from __future__ import annotations

import json
import random
from typing import Any

from centrifuge.fossil import apply_delta
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from falcon_channels.protocol import fossil
from falcon_channels.protocol.fossil import create_delta

#: Texts with long equal parts, and with characters of one to four bytes.
_words = st.lists(
    st.sampled_from(['price', '"id":', 'ünïcödé', '€', '😀', 'x' * 40, '{', ',', '7']),
    max_size=60,
).map(''.join)


def restored(base: bytes, target: bytes) -> bytes:
    """Return what the SDK makes of a delta, or `target` if there is none."""
    delta = create_delta(base, target)
    if delta is None:
        return target
    assert len(delta) < len(target)
    found: bytes = apply_delta(base, delta)
    return found


def state(changes: int, count: int = 400) -> tuple[bytes, bytes]:
    """Return a JSON state, and the same state with some changed records."""
    chance = random.Random(changes)
    records: list[dict[str, Any]] = [
        {
            'id': number,
            'name': f'{chance.randbytes(6).hex()} Größe {number}',
            'price': round(chance.uniform(1, 10_000), 2),
            'stock': chance.randrange(1000),
            'open': chance.random() < 0.5,
        }
        for number in range(count)
    ]
    before = json.dumps(records, ensure_ascii=False).encode()
    for number in chance.sample(range(count), changes):
        records[number]['price'] = round(chance.uniform(1, 10_000), 2)
        records[number]['name'] = chance.randbytes(8).hex()
    return before, json.dumps(records, ensure_ascii=False).encode()


@settings(max_examples=300)
@given(base=st.binary(max_size=300), target=st.binary(max_size=300))
def test_delta_of_any_bytes_restores_the_target(base: bytes, target: bytes) -> None:
    """The SDK restores any bytes, of any base."""
    assert target == restored(base, target)


@settings(max_examples=300)
@given(base=_words, target=_words)
def test_delta_of_texts_restores_the_target_and_is_text(base: str, target: str) -> None:
    """A delta of two texts is valid UTF-8, so that JSON can carry it."""
    delta = create_delta(base.encode(), target.encode())
    assert target.encode() == restored(base.encode(), target.encode())
    if delta is not None:
        assert delta == delta.decode().encode()


@pytest.mark.parametrize(('before', 'after'), [('é', 'è'), ('é', '€'), ('😀', '😁')])
def test_command_does_not_divide_a_character(before: str, after: str) -> None:
    """Characters whose first or last bytes are equal are inserted completely."""
    base, target = (f'{"x" * 40}{text}{"y" * 40}' for text in (before, after))
    delta = create_delta(base.encode(), target.encode())
    assert delta is not None
    assert f':{after}' in delta.decode()
    assert target.encode() == restored(base.encode(), target.encode())


@settings(max_examples=200)
@given(data=st.data(), base=st.binary(min_size=50, max_size=600))
def test_delta_of_edited_bytes_restores_the_target(data: Any, base: bytes) -> None:
    """Inserted, removed, moved and repeated parts are all restored."""
    target = base
    for _ in range(data.draw(st.integers(0, 6))):
        start, end = sorted(data.draw(st.integers(0, len(target))) for _ in range(2))
        part, rest = target[start:end], target[:start] + target[end:]
        place = data.draw(st.integers(0, len(rest)))
        target = (
            rest[:place]
            + data.draw(st.sampled_from([part, b'', part * 2, b'new']))
            + rest[place:]
        )
    assert target == restored(base, target)


@pytest.mark.parametrize('changes', [0, 1, 20, 100, 400])
def test_delta_of_a_large_state_restores_the_target(changes: int) -> None:
    """A state of 40 KB is restored, however many of its records have changed."""
    before, after = state(changes)
    assert after == restored(before, after)


def test_delta_of_a_state_with_few_changes_is_short() -> None:
    """If 5 % of the records have changed, the delta has a tenth of the bytes."""
    before, after = state(20)
    delta = create_delta(before, after)
    assert delta is not None
    assert len(delta) < len(after) // 10


@pytest.mark.parametrize(
    ('base', 'target'),
    [
        (b'', b''),
        (b'', b'{"a":1}'),
        (b'{"a":1}', b''),
        (b'{"a":1}', b'{"a":2}'),
        (b'{"a":1}', b'{"a":1}'),
        (b'a' * 1000, b'short'),
        (bytes(1000), random.Random(1).randbytes(1000)),
    ],
)
def test_delta_that_would_not_be_shorter_is_not_made(
    base: bytes, target: bytes
) -> None:
    """There is no delta that is as long as the target, or longer."""
    assert create_delta(base, target) is None


def test_delta_has_the_documented_form() -> None:
    """A delta is a length, commands and a checksum."""
    before = b'{"text":"hello","and":"a text that is long enough"}'
    after = b'{"text":"world","and":"a text that is long enough"}'
    assert b'o\n9@0,5:worlda@E,1qC3A6;' == create_delta(before, after)


def test_work_for_any_texts_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts with many changes cause a bounded number of searches."""
    searches: list[int] = []
    find_near = fossil._find_near
    monkeypatch.setattr(
        fossil, '_find_near', lambda *args: searches.append(1) or find_near(*args)
    )
    chance = random.Random(7)
    before = chance.randbytes(200_000)
    after = bytes(
        byte if number % 31 else byte ^ 1 for number, byte in enumerate(before)
    )
    assert after == restored(before, after)
    assert 100 < len(searches) <= fossil._MAX_SEARCHES
