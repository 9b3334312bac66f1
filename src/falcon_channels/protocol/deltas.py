"""Decides which publications are sent as deltas. Pure: no I/O.

A client with delta stores the last payload of the subscription: its *base*. The next
publication can be sent as a delta against this base. In these cases, it is sent whole:

* The base is not known for certain, as for the first publication.
* The publication or the base is binary.
* The `delta` of the publication is false.
* The delta is not shorter than the payload.

In JSON, ``data`` is a string in both cases: the text of the payload, or the delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from falcon_channels.protocol.fossil import create_delta
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal

_AnyItem = TypeVar('_AnyItem', bound=Publication | Signal)

#: Name of the only format of deltas, in a subscribe request.
FOSSIL = 'fossil'


class Patch:
    """The change from one payload to the next.

    PERF: the delta is created when an encoding first needs it. All encodings share it
    (benchmarks/delta.py).

    Args:
        base: Payload before the change.
        target: Payload after the change.
    """

    __slots__ = ('_base', '_delta', '_is_made', '_target')

    def __init__(self, base: bytes, target: bytes) -> None:
        self._base = base
        self._target = target
        self._is_made = False
        self._delta: bytes | None = None

    def delta(self) -> bytes | None:
        """Return the delta, or ``None`` if none is shorter than the payload."""
        if not self._is_made:
            self._delta = create_delta(self._base, self._target)
            self._is_made = True
        return self._delta

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Patch)
            and self._base == other._base
            and self._target == other._target
        )

    __hash__ = None  # type: ignore[assignment] # equal patches may not be the same


class DeltaPublication(Publication, frozen=True, kw_only=True):
    """A publication in the form for subscriptions with delta.

    Attributes:
        patch: Change from the client's base to the payload; ``None`` if the publication
            is sent whole.
    """

    patch: Patch | None = None


def with_deltas(
    items: Sequence[_AnyItem], base: Publication | None
) -> list[_AnyItem | DeltaPublication]:
    """Return items with publications as `DeltaPublication`.

    Args:
        items: Publications, joins and leaves, in the order in which they are sent.
        base: The publication that the clients received last, or ``None`` if it is not
            known.
    """
    found: list[_AnyItem | DeltaPublication] = []
    for item in items:
        if isinstance(item, Publication):
            found.append(_with_delta(item, base))
            base = item
        else:
            found.append(item)
    return found


def with_first_whole(items: Sequence[_AnyItem]) -> list[_AnyItem]:
    """Return items of `with_deltas` with the first publication whole.

    They are for clients whose base is not known.
    """
    found = list(items)
    for index, item in enumerate(found):
        if isinstance(item, DeltaPublication):
            found[index] = msgspec.structs.replace(item, patch=None)
            break
    return found


def last_publication(items: Sequence[Publication | Signal]) -> Publication | None:
    """Return the last publication among items, or ``None``."""
    for item in reversed(items):
        if isinstance(item, Publication):
            return item
    return None


def _with_delta(item: Publication, base: Publication | None) -> DeltaPublication:
    patch = None
    if base is not None and item.delta and not (item.binary or base.binary):
        patch = Patch(base.data, item.data)
    return DeltaPublication(
        data=item.data,
        offset=item.offset,
        binary=item.binary,
        time_ms=item.time_ms,
        tags=item.tags,
        info=item.info,
        end=item.end,
        delta=item.delta,
        trace=item.trace,
        patch=patch,
    )
