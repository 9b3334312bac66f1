"""Tag filters: which publications of a channel a subscriber receives.

``on_subscribe`` sets a filter that the client can neither see nor remove::

    from falcon_channels import filters


    class Orders:
        async def on_subscribe(self, req, subscription):
            region = req.context.region
            subscription.filter = filters.eq('region', region)

A filter compares the tags of a publication, which are texts. A client can send a filter
in the same language, if its route has ``ChannelOptions(client_filters=True)``. If a
subscription has both filters, both must match.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from decimal import Decimal
import re
from typing import Any
from typing import Final

import msgspec

from falcon_channels.errors import InvalidValueError

__all__ = [
    'MAX_DEPTH',
    'TagFilter',
    'all_of',
    'any_of',
    'contains',
    'ends_with',
    'eq',
    'exists',
    'gt',
    'gte',
    'is_in',
    'lt',
    'lte',
    'negate',
    'neq',
    'not_exists',
    'not_in',
    'starts_with',
]

#: Largest number of levels of a filter. A comparison alone has one level.
MAX_DEPTH: Final = 8

#: Whether tags match. The mapping is empty for a publication without tags.
Predicate = Callable[[Mapping[str, str]], bool]

_OPERATIONS: Final = frozenset({'and', 'or', 'not'})
_WITH_VALUE: Final = frozenset(
    {'eq', 'neq', 'sw', 'ew', 'ct', 'gt', 'gte', 'lt', 'lte'}
)
_WITH_VALUES: Final = frozenset({'in', 'nin'})
_WITHOUT_VALUE: Final = frozenset({'ex', 'nex'})
_COMPARISONS: Final = _WITH_VALUE | _WITH_VALUES | _WITHOUT_VALUE

#: A number in a tag. SECURITY: it is short, and has no exponent, so that a client
#: cannot make the comparison slow.
_NUMBER: Final = re.compile(r'[+-]?[0-9]{1,100}(?:\.[0-9]{1,100})?')
_NO_TAGS: Final[Mapping[str, str]] = {}


class TagFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A condition on the tags of publications; the functions of this module make it.

    Equal filters of the subscribers of a channel are evaluated together.

    Attributes:
        op: ``'and'``, ``'or'`` or ``'not'`` for the conditions in `nodes`; ``''`` for a
            comparison of one tag.
        key: Name of the compared tag.
        cmp: Comparison, such as ``'eq'``.
        val: Value that the tag is compared with.
        vals: Values of the comparisons ``'in'`` and ``'nin'``.
        nodes: Conditions of an operation.
    """

    op: str = ''
    key: str = ''
    cmp: str = ''
    val: str = ''
    vals: frozenset[str] = frozenset()
    nodes: tuple[TagFilter, ...] = ()

    def __post_init__(self) -> None:
        if self.op:
            self._check_operation()
        else:
            self._check_comparison()

    def matches(self, tags: Mapping[str, str] | None) -> bool:
        """Return whether a publication with these tags is received."""
        return self.predicate()(tags or _NO_TAGS)

    def predicate(self) -> Predicate:
        """Return a function that compares many tags faster than `matches`."""
        if not self.op:
            return _COMPILERS[self.cmp](self.key, self.val, self.vals)
        predicates = tuple(node.predicate() for node in self.nodes)
        if self.op == 'not':
            return _negated(predicates[0])
        return _all(predicates) if self.op == 'and' else _any(predicates)

    @property
    def depth(self) -> int:
        """Number of levels, from 1."""
        return 1 + max((node.depth for node in self.nodes), default=0)

    def _check_operation(self) -> None:
        if self.op not in _OPERATIONS:
            raise InvalidValueError(
                f'a filter has the operation {self.op!r}: use and, or, not'
            )
        if self.key or self.cmp or self.val or self.vals:
            raise InvalidValueError(
                f'the operation {self.op!r} of a filter has a comparison: '
                'put it into the nodes'
            )
        if self.op == 'and' and not self.nodes:
            raise InvalidValueError(
                'a filter combines no conditions: give one at least'
            )
        if self.op == 'not' and len(self.nodes) != 1:
            raise InvalidValueError(
                f'a filter negates {len(self.nodes)} conditions: give exactly one'
            )

    def _check_comparison(self) -> None:
        cmp = self.cmp
        if cmp not in _COMPARISONS:
            names = ', '.join(sorted(_COMPARISONS))
            raise InvalidValueError(
                f'a filter has the comparison {cmp!r}: use one of {names}'
            )
        if self.nodes:
            raise InvalidValueError(f'the comparison {cmp!r} of a filter has nodes')
        if not self.key and cmp not in _WITHOUT_VALUE:
            raise InvalidValueError(f'the comparison {cmp!r} of a filter needs a key')
        if bool(self.val) != (cmp in _WITH_VALUE):
            needs = 'needs a value' if cmp in _WITH_VALUE else 'takes no single value'
            raise InvalidValueError(
                f'the comparison {cmp!r} of a filter {needs}, not {self.val!r}'
            )
        if self.vals and cmp not in _WITH_VALUES:
            raise InvalidValueError(
                f'the comparison {cmp!r} of a filter takes no list of values'
            )


# --- making filters ------------------------------------------------------------------


def eq(key: str, val: str) -> TagFilter:
    """Match publications whose tag has this value."""
    return _comparison('eq', key, val)


def neq(key: str, val: str) -> TagFilter:
    """Match publications whose tag is absent or has another value."""
    return _comparison('neq', key, val)


def is_in(key: str, vals: Iterable[str]) -> TagFilter:
    """Match publications whose tag has one of these values; an absent tag is ``''``.

    Without values, no publication matches.
    """
    return TagFilter(key=_text(key), cmp='in', vals=_texts(vals))


def not_in(key: str, vals: Iterable[str]) -> TagFilter:
    """Match publications whose tag has none of these values; an absent tag is ``''``.

    Without values, all publications match.
    """
    return TagFilter(key=_text(key), cmp='nin', vals=_texts(vals))


def exists(key: str) -> TagFilter:
    """Match publications that have the tag."""
    return TagFilter(key=_text(key), cmp='ex')


def not_exists(key: str) -> TagFilter:
    """Match publications that do not have the tag."""
    return TagFilter(key=_text(key), cmp='nex')


def starts_with(key: str, val: str) -> TagFilter:
    """Match publications whose tag starts with this text."""
    return _comparison('sw', key, val)


def ends_with(key: str, val: str) -> TagFilter:
    """Match publications whose tag ends with this text."""
    return _comparison('ew', key, val)


def contains(key: str, val: str) -> TagFilter:
    """Match publications whose tag contains this text."""
    return _comparison('ct', key, val)


def gt(key: str, val: str | int | Decimal) -> TagFilter:
    """Match publications whose tag is a number above this one.

    The four comparisons of numbers are exact. A number is written as ``-12.50``. If the
    tag is absent or no such number, the publication does not match.
    """
    return _comparison('gt', key, _number_text(val))


def gte(key: str, val: str | int | Decimal) -> TagFilter:
    """Match publications whose tag is at least this number; see `gt`."""
    return _comparison('gte', key, _number_text(val))


def lt(key: str, val: str | int | Decimal) -> TagFilter:
    """Match publications whose tag is a number below this one; see `gt`."""
    return _comparison('lt', key, _number_text(val))


def lte(key: str, val: str | int | Decimal) -> TagFilter:
    """Match publications whose tag is at most this number; see `gt`."""
    return _comparison('lte', key, _number_text(val))


def all_of(*conditions: TagFilter) -> TagFilter:
    """Match publications that match each condition; at least one must be given."""
    return _operation('and', conditions)


def any_of(*conditions: TagFilter) -> TagFilter:
    """Match publications that match a condition; none of them without conditions."""
    return _operation('or', conditions)


def negate(condition: TagFilter) -> TagFilter:
    """Match publications that do not match the condition.

    Warning: a publication without the tag then matches. Use `all_of` with `exists`, if
    it must not.
    """
    return _operation('not', (condition,))


def check_filter(name: str, value: object) -> TagFilter | None:
    """Return a filter of the application, or ``None``.

    Raises:
        InvalidValueError: It is something else.
    """
    if value is not None and not isinstance(value, TagFilter):
        raise InvalidValueError(
            f'{name} must be a filter of falcon_channels.filters or None, not {value!r}'
        )
    return value


def _comparison(cmp: str, key: str, val: str) -> TagFilter:
    return TagFilter(key=_text(key), cmp=cmp, val=_text(val))


def _operation(op: str, conditions: tuple[TagFilter, ...]) -> TagFilter:
    for condition in conditions:
        if not isinstance(condition, TagFilter):
            raise InvalidValueError(f'a filter combines filters, not {condition!r}')
    found = TagFilter(op=op, nodes=conditions)
    check_depth(found)
    return found


def check_depth(tag_filter: TagFilter) -> None:
    """Check that a filter has at most `MAX_DEPTH` levels.

    Raises:
        InvalidValueError: It has more.
    """
    if tag_filter.depth > MAX_DEPTH:
        raise InvalidValueError(
            f'a filter has {tag_filter.depth} levels, but {MAX_DEPTH} are the maximum'
        )


def _texts(vals: Iterable[str]) -> frozenset[str]:
    # NOTE: a text is iterable too. Its letters are never what the caller means.
    if isinstance(vals, str):
        raise InvalidValueError(f'a filter needs a list of values, not {vals!r}')
    return frozenset(map(_text, vals))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValueError(
            f'a filter compares text with text, because tags are text: {value!r} is not'
        )
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as ex:
            raise InvalidValueError(
                f'a filter has text that is no UTF-8: {ex}'
            ) from None
    return value


def _number_text(value: object) -> str:
    text = value
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        text = f'{value:f}' if isinstance(value, Decimal) else str(value)
    if not isinstance(text, str) or _NUMBER.fullmatch(text) is None:
        raise InvalidValueError(
            f'a filter compares with the number {value!r}: use an int, a Decimal, or '
            'text such as "-12.50"'
        )
    return text


# --- comparing -----------------------------------------------------------------------


def _number(text: str) -> Decimal | None:
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def _numeric(compare: Callable[[Decimal, Decimal], bool]) -> Any:
    def compiler(key: str, val: str, vals: frozenset[str]) -> Predicate:
        limit = _number(val)

        def predicate(tags: Mapping[str, str]) -> bool:
            number = _number(tags.get(key, ''))
            return number is not None and limit is not None and compare(number, limit)

        return predicate

    return compiler


_COMPILERS: Final[dict[str, Callable[[str, str, frozenset[str]], Predicate]]] = {
    'eq': lambda key, val, vals: lambda tags: tags.get(key) == val,
    'neq': lambda key, val, vals: lambda tags: tags.get(key) != val,
    'in': lambda key, val, vals: lambda tags: tags.get(key, '') in vals,
    'nin': lambda key, val, vals: lambda tags: tags.get(key, '') not in vals,
    'ex': lambda key, val, vals: lambda tags: key in tags,
    'nex': lambda key, val, vals: lambda tags: key not in tags,
    # NOTE: the value is never empty, so that an absent tag does not match.
    'sw': lambda key, val, vals: lambda tags: tags.get(key, '').startswith(val),
    'ew': lambda key, val, vals: lambda tags: tags.get(key, '').endswith(val),
    'ct': lambda key, val, vals: lambda tags: val in tags.get(key, ''),
    'gt': _numeric(Decimal.__gt__),
    'gte': _numeric(Decimal.__ge__),
    'lt': _numeric(Decimal.__lt__),
    'lte': _numeric(Decimal.__le__),
}


def _negated(predicate: Predicate) -> Predicate:
    return lambda tags: not predicate(tags)


def _all(predicates: tuple[Predicate, ...]) -> Predicate:
    def predicate(tags: Mapping[str, str]) -> bool:
        for one in predicates:  # noqa: SIM110 - a generator would be slower
            if not one(tags):
                return False
        return True

    return predicate


def _any(predicates: tuple[Predicate, ...]) -> Predicate:
    def predicate(tags: Mapping[str, str]) -> bool:
        for one in predicates:  # noqa: SIM110 - a generator would be slower
            if one(tags):
                return True
        return False

    return predicate
