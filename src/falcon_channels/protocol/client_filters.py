"""Checks of the tag filters that clients send.

A filter of the application is unlimited in size. A filter of a client has limits,
because a node stores it for the subscription, and evaluates it for each publication.
"""

from __future__ import annotations

from typing import Final

from falcon_channels.errors import InvalidValueError
from falcon_channels.filters import check_depth
from falcon_channels.filters import TagFilter
from falcon_channels.protocol.messages import FilterNode

#: Largest number of comparisons and operations in a client's filter.
MAX_NODES: Final = 32
#: Largest number of values in all lists of a client's filter.
MAX_VALUES: Final = 256
#: Largest size of all keys and values of a client's filter, in bytes of UTF-8.
MAX_TEXT_BYTES: Final = 4096


def client_filter(node: FilterNode) -> TagFilter:
    """Return the filter of a client's request.

    Raises:
        InvalidValueError: The filter is malformed or exceeds a limit. The text is meant
            for the client.
    """
    _check_size(node)
    tag_filter = _convert(node)
    check_depth(tag_filter)
    return tag_filter


def _check_size(root: FilterNode) -> None:
    nodes, num_nodes, num_values, size_bytes = [root], 0, 0, 0
    while nodes:
        node = nodes.pop()
        nodes += node.nodes
        num_nodes += 1
        num_values += len(node.vals)
        size_bytes += sum(len(t.encode()) for t in (node.key, node.val, *node.vals))
        if num_nodes > MAX_NODES or num_values > MAX_VALUES:
            raise InvalidValueError(
                f'a filter may have {MAX_NODES} nodes and {MAX_VALUES} values in lists'
            )
    if size_bytes > MAX_TEXT_BYTES:
        raise InvalidValueError(
            f'a filter has keys and values of {size_bytes} bytes, but may have '
            f'{MAX_TEXT_BYTES}'
        )


def _convert(node: FilterNode) -> TagFilter:
    # NOTE: filters of the application may have an empty list, which matches nothing.
    if node.cmp in ('in', 'nin') and not node.vals:
        raise InvalidValueError(f'the comparison {node.cmp!r} of a filter needs vals')
    if node.op == 'or' and not node.nodes:
        raise InvalidValueError("the operation 'or' of a filter needs nodes")
    return TagFilter(
        op=node.op,
        key=node.key,
        cmp=node.cmp,
        val=node.val,
        vals=frozenset(node.vals),
        nodes=tuple(map(_convert, node.nodes)),
    )
