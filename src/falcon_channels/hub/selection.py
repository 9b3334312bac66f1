"""Which items of a channel a filtered subscription receives.

Subscriptions of a channel with equal filters have equal selections, so that the fan-out
evaluates each filter once. A publication that is not selected counts as delivered: the
subscription moves on to its position, and no gap is noticed. Joins and leaves have no
tags, and are always selected.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Final
from typing import TypeVar

from falcon_channels.filters import TagFilter
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal

_AnyItem = TypeVar('_AnyItem', bound=Publication | Signal)

_NO_TAGS: Final[Mapping[str, str]] = {}


class Selection:
    """The effect of a tag filter; selections of equal filters are equal.

    Args:
        tag_filter: The filter.
    """

    __slots__ = ('_matches', '_tag_filter')

    def __init__(self, tag_filter: TagFilter) -> None:
        self._tag_filter = tag_filter
        self._matches = tag_filter.predicate()

    def select(self, items: Iterable[_AnyItem]) -> list[_AnyItem]:
        """Return the items that a subscription with this filter receives, in order."""
        matches = self._matches
        return [
            item
            for item in items
            if not isinstance(item, Publication) or matches(item.tags or _NO_TAGS)
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and self._tag_filter == other._tag_filter

    def __hash__(self) -> int:
        return hash(self._tag_filter)


def combined_selection(
    tag_filter: TagFilter | None, client_filter: TagFilter | None
) -> Selection | None:
    """Return the selection of a server's and a client's filter, which both must match.

    Returns:
        ``None`` if there is no filter.
    """
    if tag_filter is None:
        return None if client_filter is None else Selection(client_filter)
    if client_filter is None:
        return Selection(tag_filter)
    return Selection(TagFilter(op='and', nodes=(tag_filter, client_filter)))
