"""Random tag filters, and a second implementation of their rules."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
import re
from typing import Any

from hypothesis import strategies as st

from falcon_channels import filters
from falcon_channels.filters import TagFilter

KEYS = ['region', 'amount', 'x']
VALUES = ['north', 'north-east', 'south', '', '1', '2', '10', '2.0', '-3', '1e3', 'nan']

_keys = st.sampled_from(KEYS)
_values = st.sampled_from([value for value in VALUES if value])
_numbers = st.sampled_from(['1', '2', '2.0', '10', '-3'])
_lists = st.lists(st.sampled_from(VALUES), max_size=3)

_comparisons = st.one_of(
    st.builds(filters.eq, _keys, _values),
    st.builds(filters.neq, _keys, _values),
    st.builds(filters.is_in, _keys, _lists),
    st.builds(filters.not_in, _keys, _lists),
    st.builds(filters.exists, _keys),
    st.builds(filters.not_exists, _keys),
    st.builds(filters.starts_with, _keys, _values),
    st.builds(filters.ends_with, _keys, _values),
    st.builds(filters.contains, _keys, _values),
    st.builds(filters.gt, _keys, _numbers),
    st.builds(filters.gte, _keys, _numbers),
    st.builds(filters.lt, _keys, _numbers),
    st.builds(filters.lte, _keys, _numbers),
)


def _operations(children: st.SearchStrategy[TagFilter]) -> st.SearchStrategy[TagFilter]:
    return st.one_of(
        st.lists(children, min_size=1, max_size=3).map(lambda n: filters.all_of(*n)),
        st.lists(children, max_size=3).map(lambda n: filters.any_of(*n)),
        children.map(filters.negate),
    )


#: Filters of all kinds.
tag_filters = st.recursive(_comparisons, _operations, max_leaves=5)

#: Tags of a publication, or ``None``.
tags = st.one_of(st.none(), st.dictionaries(_keys, st.sampled_from(VALUES)))


def holds(tag_filter: TagFilter, found: Mapping[str, str] | None) -> bool:
    """Return whether tags match a filter, by the text of the rules."""
    found = found or {}
    results = [holds(node, found) for node in tag_filter.nodes]
    if tag_filter.op:
        return {
            'and': all(results),
            'or': any(results),
            'not': not (results and results[0]),
        }[tag_filter.op]
    cmp, val = tag_filter.cmp, tag_filter.val
    present = tag_filter.key in found
    tag = found.get(tag_filter.key, '')
    if cmp in ('gt', 'gte', 'lt', 'lte'):
        if not (present and _is_number(tag) and _is_number(val)):
            return False
        one, other = Fraction(tag), Fraction(val)
        return {
            'gt': one > other,
            'gte': one >= other,
            'lt': one < other,
            'lte': one <= other,
        }[cmp]
    return {
        'eq': present and tag == val,
        'neq': not present or tag != val,
        'in': tag in tag_filter.vals,
        'nin': tag not in tag_filter.vals,
        'ex': present,
        'nex': not present,
        'sw': present and tag[: len(val)] == val,
        'ew': present and tag[-len(val) :] == val,
        'ct': present and tag.find(val) >= 0,
    }[cmp]


def _is_number(text: str) -> bool:
    return re.fullmatch(r'[-+]?\d+(\.\d+)?', text, re.ASCII) is not None


def to_wire(tag_filter: TagFilter) -> dict[str, Any]:
    """Return a filter in the form in which an SDK sends it in JSON."""
    if tag_filter.op:
        return {'op': tag_filter.op, 'nodes': [to_wire(n) for n in tag_filter.nodes]}
    wire: dict[str, Any] = {'key': tag_filter.key, 'cmp': tag_filter.cmp}
    if tag_filter.val:
        wire['val'] = tag_filter.val
    if tag_filter.vals:
        wire['vals'] = sorted(tag_filter.vals)
    return wire
