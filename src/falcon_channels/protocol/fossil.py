"""Encoder of deltas in the format of Fossil.

A delta tells how to create a text (the *target*) from an earlier text (the *base*). The
format is described at https://fossil-scm.org/home/doc/tip/www/delta_format.wiki. A
delta has the length of the target, then commands, and at last a checksum::

    o\\n9@0,5:worlda@E,1qC3A6;

``9@0,`` copies nine bytes of the base from offset 0, and ``5:world`` inserts five
bytes. Numbers are written in base 64: ``a`` is 37.

The encoder searches for long parts that both texts have in common, from the start to
the end of the target. It works best if few places of a text change. It often misses
parts that have moved. The number of steps is limited, so that no text blocks the event
loop. At the limit, the delta is longer than necessary, or there is none.
"""

from __future__ import annotations

import functools
from typing import Final
from typing import Literal

_DIGITS: Final = b'0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~'
_PAIRS: Final = [bytes((_DIGITS[n >> 6], _DIGITS[n & 63])) for n in range(4096)]
_NUMBERS: Final = [bytes((digit,)) for digit in _DIGITS] + _PAIRS[64:]

#: Length of the parts of the target that are searched for in the base, in bytes. Keys
#: and fixed texts of JSON are often shorter.
_PROBE_BYTES: Final = 24
#: Distance between the starts of two such parts.
_STEP_BYTES: Final = 8
#: Length of a changed part above which this distance grows.
_LONG_BYTES: Final = 256
#: Maximum distance from the expected place in the first search for a part.
_NEAR_BYTES: Final = 1024
#: Length of a changed part after which the whole base is searched.
_WIDE_AFTER_BYTES: Final = 128
#: Length of a target below which only its start and its end are compared.
_SMALL_BYTES: Final = 512
#: Shortest part that is copied. A shorter part is shorter than its copy command.
_MIN_COPY_BYTES: Final = 8
#: Maximum number of searches near the expected place, and in the whole base
#: (benchmarks/delta.py).
_MAX_SEARCHES: Final = 768
_MAX_WIDE_SEARCHES: Final = 24


#: A part that is in both texts: offset in the target, offset in the base, and length.
_Copy = tuple[int, int, int]


def create_delta(base: bytes, target: bytes) -> bytes | None:
    """Return a delta that creates `target` from `base`.

    If `target` is UTF-8 text, the delta is UTF-8 text too, because no command splits a
    character.

    Returns:
        ``None`` if no delta was found that is shorter than `target`.
    """
    parts = [_number(len(target)), b'\n']
    position = 0
    is_ascii = target.isascii()
    for start, source, length in _find_copies(base, target):
        end = start + length
        if not is_ascii:
            while start < end and _continues_character(target, start):
                start += 1
                source += 1
            while start < end < len(target) and _continues_character(target, end):
                end -= 1
        if end - start < _MIN_COPY_BYTES:
            continue
        if position < start:
            parts += (_number(start - position), b':', target[position:start])
        parts += (_number(end - start), b'@', _number(source), b',')
        position = end
    if position < len(target):
        parts += (_number(len(target) - position), b':', target[position:])
    # PERF: the checksum takes longer than all small parts together. It is not computed
    #   if the delta is already too long without it.
    if sum(map(len, parts)) >= len(target):
        return None
    parts += (_number(_checksum(target)), b';')
    delta = b''.join(parts)
    return delta if len(delta) < len(target) else None


def _find_copies(base: bytes, target: bytes) -> list[_Copy]:
    """Return parts of `target` that are in `base`, in order, without overlaps.

    PERF: each step is a comparison or search of many bytes in C. The cost depends on
    the number of changes more than on the length (benchmarks/delta.py).
    """
    prefix = _common_prefix(base, 0, target, 0)
    suffix = _common_suffix(
        base, len(base), target, len(target), min(len(base), len(target)) - prefix
    )
    copies = [(0, 0, prefix)]
    last_start = min(len(target) - suffix, len(target) - _PROBE_BYTES + 1)
    if len(target) < _SMALL_BYTES:
        last_start = 0
    wide_searches = _MAX_WIDE_SEARCHES
    #: Number of bytes of the target that were not found.
    missed = 0
    # The ends of the last copy, in the base and in the target.
    source, position = prefix, prefix
    start = position + _STEP_BYTES
    for _ in range(_MAX_SEARCHES):
        # PERF: a delta that saves less than half is not worth more time.
        if start >= last_start or (missed + start - position) * 2 > len(target):
            break
        probe = target[start : start + _PROBE_BYTES]
        found = _find_near(base, probe, source + start - position)
        if found < 0 and wide_searches and start - position >= _WIDE_AFTER_BYTES:
            wide_searches -= 1
            found = base.find(probe)
        if found < 0:
            # NOTE: the longer the changed part, the less precise is the search.
            start += _STEP_BYTES * (1 + (start - position) // _LONG_BYTES)
            continue
        before = _common_suffix(base, found, target, start, start - position)
        after = _PROBE_BYTES + _common_prefix(
            base, found + _PROBE_BYTES, target, start + _PROBE_BYTES
        )
        copies.append((start - before, found - before, before + after))
        missed += start - before - position
        source, position = found + after, start + after
        start = position + _STEP_BYTES // 2
    rest = min(suffix, len(target) - position)
    copies.append((len(target) - rest, len(base) - rest, rest))
    return copies


def _find_near(base: bytes, probe: bytes, expected: int) -> int:
    """Return the offset of `probe` that is nearest to the expected one, or -1."""
    if base.startswith(probe, expected):
        return expected
    after = base.find(probe, expected, expected + _NEAR_BYTES)
    before = base.rfind(
        probe, max(0, expected - _NEAR_BYTES), expected + _PROBE_BYTES - 1
    )
    if after < 0 or (0 <= before and expected - before < after - expected):
        return before
    return after


def _common_prefix(a: bytes, i: int, b: bytes, j: int) -> int:
    """Return the length of the longest common prefix of ``a[i:]`` and ``b[j:]``."""
    start = i
    size = 64
    while (part := a[i : i + size]) == b[j : j + size]:
        i += len(part)
        j += len(part)
        if len(part) < size:
            return i - start
        size = min(size * 4, 16384)
    while size > 64:
        size //= 2
        if a[i : i + size] == b[j : j + size]:
            i += size
            j += size
    first, second = a[i : i + size], b[j : j + size]
    size = min(len(first), len(second))
    return i - start + _equal_bytes(first[:size], second[:size], 'little')


def _common_suffix(a: bytes, i: int, b: bytes, j: int, limit: int) -> int:
    """Return the length of the longest common suffix of ``a[:i]`` and ``b[:j]``.

    Args:
        a: The first text.
        i: End of the compared part of `a`.
        b: The second text.
        j: End of the compared part of `b`.
        limit: Maximum length.
    """
    end = i
    limit = min(limit, i, j)
    size = 64
    while size <= limit and a[i - size : i] == b[j - size : j]:
        i -= size
        j -= size
        limit -= size
    size = min(size, limit)
    return end - i + _equal_bytes(a[i - size : i], b[j - size : j], 'big')


def _equal_bytes(first: bytes, second: bytes, order: Literal['little', 'big']) -> int:
    """Return how many bytes of two texts of the same length agree.

    Args:
        first: The first text.
        second: The second text.
        order: ``'little'`` to count from the start, ``'big'`` from the end.
    """
    difference = int.from_bytes(first, order) ^ int.from_bytes(second, order)
    if not difference:
        return len(first)
    return ((difference & -difference).bit_length() - 1) >> 3


def _continues_character(text: bytes, index: int) -> bool:
    """Return whether a byte is a continuation byte of UTF-8."""
    return text[index] & 0xC0 == 0x80


def _number(value: int) -> bytes:
    """Return a number in base 64, with the digits of the format."""
    if value < 4096:
        return _NUMBERS[value]
    return _number(value >> 12) + _PAIRS[value & 4095]


def _checksum(target: bytes) -> int:
    """Return the sum of the big-endian words of 32 bits, modulo 2**32.

    PERF: one large integer has all words. Each step adds its upper half to its lower
    half. The sum of a list of words takes twice the time (benchmarks/delta.py).
    """
    num_bytes = max(8, 1 << (len(target) - 1).bit_length())
    lanes = int.from_bytes(target.ljust((len(target) + 3) & ~3, b'\0'), 'big')
    mask = _every_other_word(num_bytes)
    # NOTE: each sum has 64 bits, and does not overflow.
    lanes = (lanes & mask) + ((lanes >> 32) & mask)
    while num_bytes > 8:
        num_bits = num_bytes * 4
        lanes = (lanes >> num_bits) + (lanes & ((1 << num_bits) - 1))
        num_bytes //= 2
    return lanes & 0xFFFFFFFF


@functools.lru_cache(maxsize=32)
def _every_other_word(num_bytes: int) -> int:
    return int.from_bytes(b'\0\0\0\0\xff\xff\xff\xff' * (num_bytes // 8), 'big')
