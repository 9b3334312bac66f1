"""Converters of channel names: each value has one spelling.

Falcon's converters accept several spellings of a value, such as ``10``, ``010`` and
``+10``. In a URL this does no harm. But each spelling would be the name of another
channel.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import MutableMapping
import datetime
import logging
from typing import Any
import uuid

from falcon.routing import BaseConverter
from falcon.routing import DateTimeConverter
from falcon.routing import FloatConverter
from falcon.routing import IntConverter
from falcon.routing import UUIDConverter

_logger = logging.getLogger('falcon_channels')


class _Int(IntConverter):
    """Converts to an integer: ``10``, and with ``num_digits=4`` also ``0010``."""

    def __init__(
        self,
        num_digits: int | None = None,
        min: int | None = None,
        max: int | None = None,
    ) -> None:
        super().__init__(num_digits, min, max)
        self._width = num_digits or 0

    def to_string(self, value: int) -> str:
        return f'{value:0{self._width}d}'


class _Float(FloatConverter):
    """Converts to a float: ``1.5``, ``10.0``, ``1e+16``."""

    def to_string(self, value: float) -> str:
        # NOTE: adding zero converts -0.0 to 0.0. The two values are equal.
        return str(value + 0.0)


class _DateTime(DateTimeConverter):
    """Converts to a date and time. A time with a time zone is written in UTC."""

    def __init__(self, format_string: str = '%Y-%m-%dT%H:%M:%S%z') -> None:
        super().__init__(format_string)
        self._format = format_string

    def to_string(self, value: datetime.datetime) -> str:
        if value.tzinfo is not None:
            try:
                value = value.astimezone(datetime.UTC)
            except OverflowError:
                return ''  # not a year from 1 to 9999 in UTC
        return value.strftime(self._format)


class _UUID(UUIDConverter):
    """Converts to a UUID, in lower case and with hyphens."""

    def to_string(self, value: uuid.UUID) -> str:
        return str(value)


_BUILT_IN = {'int': _Int, 'float': _Float, 'dt': _DateTime, 'uuid': _UUID}


def _canonical(converter_class: Callable[..., Any]) -> type[BaseConverter]:
    """Return a converter that accepts only the canonical spelling of a value.

    The canonical spelling is the return value of the converter's method ``to_string``.
    Without this method, it is ``str(value)``.

    Args:
        converter_class: Converter class of Falcon or of the application.
    """
    has_to_string = hasattr(converter_class, 'to_string')
    warned = False

    class CanonicalConverter(BaseConverter):
        CONSUME_MULTIPLE_SEGMENTS = getattr(
            converter_class, 'CONSUME_MULTIPLE_SEGMENTS', False
        )

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            converter = converter_class(*args, **kwargs)
            self._convert = converter.convert
            self._to_string = converter.to_string if has_to_string else str

        def convert(self, value: str | list[str]) -> Any:
            nonlocal warned
            converted = self._convert(value)
            if converted is None:
                return None
            text = value if isinstance(value, str) else '/'.join(value)
            spelling = self._to_string(converted)
            if spelling == text:
                return converted
            if not has_to_string and not warned:
                warned = True
                _logger.warning(
                    'no channel name has %.80r: %s converts it to a value whose text '
                    'is %.80r; if channel names may have %.80r, give the converter '
                    'a method to_string(value) that returns this text',
                    text,
                    getattr(converter_class, '__name__', converter_class),
                    spelling,
                    text,
                )
            return None

    return CanonicalConverter


class ChannelConverters(MutableMapping[str, Any]):
    """The converters of channel templates by name.

    Args:
        converters: The mapping that the router uses. It gets the canonical form of each
            converter. This object returns the original classes.
    """

    def __init__(self, converters: MutableMapping[str, Any]) -> None:
        self._router_converters = converters
        self._classes: dict[str, Any] = {}
        for name, converter_class in list(converters.items()):
            self[name] = _BUILT_IN.get(name, converter_class)
        self._are_built_in = True

    @property
    def are_built_in(self) -> bool:
        """Whether each converter always gives the same value for the same text."""
        return self._are_built_in

    def __getitem__(self, name: str) -> Any:
        return self._classes[name]

    def __setitem__(self, name: str, converter_class: Any) -> None:
        self._are_built_in = False
        self._router_converters[name] = _canonical(converter_class)
        self._classes[name] = converter_class

    def __delitem__(self, name: str) -> None:
        del self._router_converters[name]
        del self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)
