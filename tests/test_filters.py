"""The language of tag filters, and the functions that make them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from hypothesis import given
import pytest
from support.tag_filters import holds
from support.tag_filters import tag_filters
from support.tag_filters import tags

from falcon_channels import filters
from falcon_channels.errors import InvalidValueError
from falcon_channels.filters import TagFilter

MATCHING: list[tuple[TagFilter, list[str | None], list[str | None]]] = [
    (filters.eq('t', 'a'), ['a'], ['b', '', None]),
    (filters.neq('t', 'a'), ['b', '', None], ['a']),
    (filters.is_in('t', ['a', 'b']), ['a', 'b'], ['c', '', None]),
    (filters.is_in('t', ['']), ['', None], ['a']),
    (filters.is_in('t', []), [], ['a', '', None]),
    (filters.not_in('t', ['a', 'b']), ['c', '', None], ['a', 'b']),
    (filters.not_in('t', ['']), ['a'], ['', None]),
    (filters.exists('t'), ['a', ''], [None]),
    (filters.not_exists('t'), [None], ['a', '']),
    (filters.starts_with('t', 'ab'), ['ab', 'abc'], ['a', 'cab', '', None]),
    (filters.ends_with('t', 'ab'), ['ab', 'cab'], ['b', 'abc', '', None]),
    (filters.contains('t', 'ab'), ['ab', 'cabd'], ['ba', '', None]),
    (filters.gt('t', 2), ['3', '2.01', '10'], ['2', '2.0', '-3', 'x', '', None]),
    (filters.gte('t', 2), ['2', '2.0', '+2', '10'], ['1.99', 'x', '', None]),
    (filters.lt('t', Decimal('2.5')), ['2.49', '-10'], ['2.5', '10', 'x', '', None]),
    (filters.lte('t', '2.5'), ['2.5', '2.50', '-10'], ['2.51', 'x', '', None]),
    (filters.any_of(), [], ['a', None]),
    (filters.negate(filters.eq('t', 'a')), ['b', None], ['a']),
]


@pytest.mark.parametrize(('tag_filter', 'matching', 'others'), MATCHING)
def test_each_comparison_matches_exactly_these_tags(
    tag_filter: TagFilter, matching: list[str | None], others: list[str | None]
) -> None:
    """`None` is a publication without the tag; its other tags do not matter."""
    for value in [*matching, *others]:
        found = {'other': 'a'} if value is None else {'t': value}
        assert tag_filter.matches(found) == (value in matching), value
    assert tag_filter.matches(None) == (None in matching)


@pytest.mark.parametrize(
    'value', ['Infinity', 'NaN', '1e3', '1_000', ' 1', '1 ', '٣', '1.', '.5', '9' * 101]
)
def test_tag_that_is_no_plain_decimal_matches_no_comparison_of_numbers(
    value: str,
) -> None:
    """Only digits with a sign and a point are a number, and only 100 of them."""
    for make in (filters.gt, filters.gte, filters.lt, filters.lte):
        assert not make('t', 0).matches({'t': value})


def test_numbers_are_compared_exactly() -> None:
    """Numbers that are equal as doubles are different."""
    assert filters.gt('t', '9007199254740992').matches({'t': '9007199254740993'})
    assert filters.lt('t', '0.3').matches({'t': '0.29999999999999999999'})


@given(tag_filters, tags)
def test_random_filter_matches_by_the_rules(
    tag_filter: TagFilter, found: dict[str, str] | None
) -> None:
    """The compiled filter decides like a second implementation."""
    assert holds(tag_filter, found) == tag_filter.matches(found)


def test_filters_of_the_same_values_are_equal() -> None:
    """Equal filters are evaluated together, so the order of values does not matter."""
    one, other = filters.is_in('t', ['a', 'b']), filters.is_in('t', ['b', 'a', 'b'])
    assert one == other
    assert hash(one) == hash(other)
    assert one != filters.not_in('t', ['a', 'b'])


def nested(levels: int) -> TagFilter:
    tag_filter = filters.eq('t', 'a')
    for _ in range(levels - 1):
        tag_filter = filters.negate(tag_filter)
    return tag_filter


MISTAKES: list[Callable[[], Any]] = [
    lambda: filters.eq('', 'a'),
    lambda: filters.eq('t', ''),
    lambda: filters.eq('t', 5),  # type: ignore[arg-type]
    lambda: filters.eq('t', None),  # type: ignore[arg-type]
    lambda: filters.eq('t', '\ud800'),
    lambda: filters.is_in('t', 'north'),
    lambda: filters.is_in('t', [1]),  # type: ignore[list-item]
    lambda: filters.gt('t', 1.5),  # type: ignore[arg-type]
    lambda: filters.gt('t', True),
    lambda: filters.gt('t', 'many'),
    lambda: filters.gt('t', Decimal('NaN')),
    lambda: filters.all_of(),
    lambda: filters.all_of('t'),  # type: ignore[arg-type]
    lambda: nested(filters.MAX_DEPTH + 1),
    TagFilter,
    lambda: TagFilter(op='xor', nodes=(filters.exists('t'),)),
    lambda: TagFilter(op='not'),
    lambda: TagFilter(op='and', key='t', nodes=(filters.exists('t'),)),
    lambda: TagFilter(key='t', cmp='is', val='a'),
    lambda: TagFilter(key='t', cmp='eq', val='a', vals=frozenset('b')),
    lambda: TagFilter(key='t', cmp='in', val='a'),
    lambda: TagFilter(key='t', cmp='ex', val='a'),
    lambda: TagFilter(key='t', cmp='ex', nodes=(filters.exists('t'),)),
]


@pytest.mark.parametrize('make', MISTAKES)
def test_invalid_filter_raises_where_it_is_made(make: Callable[[], Any]) -> None:
    """A filter that means nothing is refused, so that it never opens a channel."""
    with pytest.raises(InvalidValueError, match='filter'):
        make()


def test_filter_of_the_most_levels_is_valid() -> None:
    """The limit itself is allowed."""
    deepest = nested(filters.MAX_DEPTH)
    assert filters.MAX_DEPTH == deepest.depth
    assert deepest.matches({'t': 'a'}) == (filters.MAX_DEPTH % 2 == 1)
