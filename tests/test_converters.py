"""Converters of channel names: each value has one spelling."""

from __future__ import annotations

import datetime
import decimal
import enum
import logging
from typing import Any
import uuid

from falcon.routing import BaseConverter
from hypothesis import given
from hypothesis import strategies as st
import pytest

from falcon_channels import ChannelOptions
from falcon_channels.routing import ChannelRouter
from falcon_channels.routing import check_channel_name

UUID = '12345678-1234-5678-1234-56781234567a'
FIELDS = {
    'int': 'int',
    'digits': 'int(num_digits=4)',
    'float': 'float',
    'any_float': 'float(finite=False)',
    'dt': 'dt',
    'day': 'dt("%Y-%m-%d")',
    'uuid': 'uuid',
    're': 're("[a-z]+[.]?")',
}


def router_of(
    fields: dict[str, str], converters: dict[str, Any] | None = None
) -> ChannelRouter:
    router = ChannelRouter()
    router.converters.update(converters or {})
    for name, field in fields.items():
        router.add(f'{name}:{{value:{field}}}', None, ChannelOptions())
    return router


ROUTER = router_of(FIELDS)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('int:10', 10),
        ('int:0', 0),
        ('int:-5', -5),
        ('digits:0042', 42),
        ('digits:-042', -42),
        ('float:1.5', 1.5),
        ('float:10.0', 10.0),
        ('float:0.0', 0.0),
        ('float:1e+16', 1e16),
        ('any_float:inf', float('inf')),
        (
            'dt:2026-01-31T09:30:00+0000',
            datetime.datetime(2026, 1, 31, 9, 30, tzinfo=datetime.UTC),
        ),
        ('day:2026-01-31', datetime.datetime(2026, 1, 31)),
        (f'uuid:{UUID}', uuid.UUID(UUID)),
        ('re:abc', 'abc'),
    ],
)
def test_name_with_the_canonical_spelling_has_a_route(name: str, value: object) -> None:
    """The canonical spelling of a value matches, and the value is converted."""
    match = ROUTER.match(name)
    assert match is not None
    assert {'value': value} == match.params


@pytest.mark.parametrize(
    'name',
    [
        'int:010',
        'int:+10',
        'int:1_0',
        'int:-0',
        'int:\u0661\u0660',
        'int:\uff11\uff10',
        'digits:+042',
        'digits:0_42',
        'float:1.50',
        'float:01.5',
        'float:1',
        'float:15e-1',
        'float:-0.0',
        'float:1_0.0',
        'any_float:Infinity',
        'any_float:NaN',
        'dt:2026-01-31T09:30:00Z',
        'dt:2026-01-31T09:30:00+00:00',
        'dt:2026-01-31T10:30:00+0100',
        'dt:2026-1-31T09:30:00+0000',
        'dt:0001-01-01T00:00:00+1400',
        'day:2026-1-31',
        f'uuid:{UUID.upper()}',
        f'uuid:{{{UUID}}}',
        f'uuid:urn:uuid:{UUID}',
        f'uuid:{UUID.replace("-", "")}',
    ],
)
def test_name_with_another_spelling_of_a_value_has_no_route(name: str) -> None:
    """A name does not match if the canonical spelling of its value differs."""
    check_channel_name(name, 255)
    assert ROUTER.match(name) is None


def canonical_name(field: str, value: Any) -> str:
    if field == 'digits':
        return f'{field}:{value:04d}'
    if field == 'dt':
        return f'{field}:{value:%Y-%m-%dT%H:%M:%S}+0000'
    return f'{field}:{value:%Y-%m-%d}' if field == 'day' else f'{field}:{value}'


@given(
    st.sampled_from(sorted(FIELDS)),
    st.text(alphabet='0123456789+-_.:eTZinfa{}\u0660\u0661', max_size=40),
)
def test_name_that_matches_is_the_name_built_from_its_value(
    field: str, text: str
) -> None:
    """The name that is built from the converted value equals the name that matched."""
    match = ROUTER.match(f'{field}:{text}')
    if match is not None:
        value = match.params['value']
        assert f'{field}:{text}' == canonical_name(field, value)


class Color(enum.Enum):
    RED = 'r'


class ColorConverter(BaseConverter):
    def convert(self, value: str) -> Color | None:
        return Color.RED if value == 'r' else None


class NamedColorConverter(ColorConverter):
    def to_string(self, value: Color) -> str:
        return value.value


class TenantConverter(BaseConverter):
    def convert(self, value: str) -> str:
        return value.lower()


class PriceConverter(BaseConverter):
    def convert(self, value: str) -> decimal.Decimal:
        return decimal.Decimal(value)

    def to_string(self, value: decimal.Decimal) -> str:
        return format(value.normalize(), 'f')


class RestConverter(BaseConverter):
    CONSUME_MULTIPLE_SEGMENTS = True

    def convert(self, value: list[str]) -> str:  # type: ignore[override]
        return '/'.join(value).lower()


def test_converter_of_the_application_accepts_the_text_of_its_value() -> None:
    """Without `to_string`, the canonical spelling is the text of the value."""
    router = router_of({'tenants': 'tenant'}, {'tenant': TenantConverter})
    match = router.match('tenants:acme')
    assert match is not None
    assert {'value': 'acme'} == match.params
    assert router.match('tenants:ACME') is None


def test_converter_with_to_string_defines_the_spelling() -> None:
    """With `to_string`, equal values have one spelling, and any type can be used."""
    router = router_of(
        {'colors': 'color', 'prices': 'price'},
        {'color': NamedColorConverter, 'price': PriceConverter},
    )
    match = router.match('colors:r')
    assert match is not None
    assert {'value': Color.RED} == match.params
    assert router.match('prices:1.5') is not None
    assert router.match('prices:1.50') is None


def test_converter_of_several_segments_is_compared_as_a_whole() -> None:
    """A field that contains slashes also has one spelling."""
    router = ChannelRouter()
    router.converters['rest'] = RestConverter
    router.add('files/{name:rest}', None, ChannelOptions())
    match = router.match('files/a/b')
    assert match is not None
    assert {'name': 'a/b'} == match.params
    assert router.match('files/a/B') is None


def test_converter_that_is_replaced_stays_canonical() -> None:
    """A converter set after a route was added is checked like the others."""
    router = router_of({'tenants': 'tenant'}, {'tenant': ColorConverter})
    router.converters['tenant'] = TenantConverter
    assert TenantConverter is router.converters['tenant']
    assert router.match('tenants:acme') is not None
    assert router.match('tenants:ACME') is None


def test_removed_converter_cannot_be_used() -> None:
    """The mapping of converters behaves like that of an app."""
    router = router_of({})
    assert {'int', 'float', 'dt', 'uuid', 'path', 're'} <= set(router.converters)
    assert len(router.converters) == len(list(router.converters))
    del router.converters['uuid']
    with pytest.raises(ValueError, match='uuid'):
        router.add('a:{b:uuid}', None, ChannelOptions())


def test_converter_without_to_string_is_explained_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If no name can match, the log says why and what to do, once per converter."""
    router = router_of({'colors': 'color'}, {'color': ColorConverter})
    with caplog.at_level(logging.WARNING, 'falcon_channels'):
        assert router.match('colors:r') is None
        assert router.match('colors:r') is None
    messages = [record.getMessage() for record in caplog.records]
    assert 1 == len(messages)
    assert "no channel name has 'r': ColorConverter" in messages[0]
    assert 'to_string' in messages[0]
