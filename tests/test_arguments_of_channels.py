"""Arguments that cannot be used: each public method of `Channels` refuses them."""

from __future__ import annotations

from collections.abc import Callable
import inspect
import math
from typing import Any

import msgspec
import pytest

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import ChannelsError
from falcon_channels import NodeOptions
from falcon_channels import Position
from falcon_channels.inspector.methods import InspectorMethods
from falcon_channels.inspector.recent_events import RecentEvents
from falcon_channels.inspector.surveys import InspectorSurveys
from falcon_channels.server_api import methods
from falcon_channels.server_api.requests import ApiRequest

LONG = 'x' * 70_000

#: Values that are no text of limited length.
TEXT = [1, True, None, b'x', ['a'], LONG, '\ud800']
#: Values that are no integer in any range.
INTEGERS = [-1, True, 1.5, '5', math.nan, math.inf, 2**64, 10**400]
#: Values that are no number of seconds.
SECONDS = [-1, True, '5', math.nan, math.inf, 10**400, 1e300]
TAGS = [1, 'x', [1], {1: 'a'}, {'a': 1}, {'a': '\ud800'}, {LONG: 'a'}, {'a': LONG}]
POSITIONS = [
    1,
    'x',
    (1, 'x'),
    *(Position(number, '') for number in (-1, True, 1.5, '5', 2**64, 10**400)),  # type: ignore[arg-type]
    *(Position(0, epoch) for epoch in (1, None, LONG, '\ud800')),  # type: ignore[arg-type]
]
TIMES = [True, '5', math.nan, math.inf, 10**400]
NOT_JSON = [math.nan, math.inf, object()]

#: Wrong values by the name of a parameter.
WRONG: dict[str, list[Any]] = {
    'channel': [*TEXT, ''],
    'channels': ['abc', 1, None, [1], [None], [LONG]],
    'client': TEXT,
    'code': [*INTEGERS, 0, 1000, 5000],
    'data': [*NOT_JSON, b'{', LONG],
    'epoch': TEXT,
    'error': TEXT,
    'exclude': ['abc', 1, None, [1], [None], [LONG], ['\ud800'], ['x'] * 100_000],
    'expires_at': TIMES,
    'filter': [1, 'x', {}],
    'for_s': SECONDS,
    'idempotency_key': [*(v for v in TEXT if v is not None), ''],
    'info': NOT_JSON,
    'limit': INTEGERS,
    'load': [1, None, 'x'],
    'offset': [*INTEGERS, 0],
    'options': [1, 'x', {}],
    'reason': TEXT,
    'session': TEXT,
    'since': POSITIONS,
    'tags': TAGS,
    'ttl_s': [*SECONDS, 0],
    'user': [value for value in TEXT if value is not None],
    'version': INTEGERS,
    'version_epoch': TEXT,
}
#: Wrong values of one method, which differ.
WRONG_OF: dict[tuple[str, str], list[Any]] = {
    ('unsubscribe_user', 'channel'): TEXT,
    ('finish', 'data'): [*NOT_JSON, b'{', LONG],
    # NOTE: these two have no limit of their own: the control message carries them.
    ('subscribe_user', 'data'): NOT_JSON,
}
#: Parameters without a check: flags, and objects that are passed on.
UNCHECKED = {'delta', 'skip_history', 'reverse', 'expired', 'connection'}

RIGHT: dict[str, Any] = {
    'channel': 'rooms:a',
    'channels': ['rooms:a'],
    'data': 1,
    'load': lambda: 1,
    'offset': 1,
    'user': 'ann',
}
#: Methods whose arguments come from the configuration of an app, or are objects of
#: Falcon. They are tested with what they do.
SETUP = {
    'add_api',
    'add_endpoints',
    'add_inspector',
    'add_metrics',
    'add_route',
    'add_tracing',
    'listen',
    'process_shutdown',
    'process_startup',
    'serve',
    'serve_events',
}

METHODS: dict[str, Callable[..., Any]] = {
    name: method
    for name, method in inspect.getmembers(Channels, inspect.isfunction)
    if not name.startswith('_') and name not in SETUP
}
CASES = [
    pytest.param(name, parameter, id=f'{name}-{parameter}')
    for name, method in METHODS.items()
    for parameter in list(inspect.signature(method).parameters)[1:]
    if parameter not in UNCHECKED
]


async def call(name: str, changed: dict[str, Any]) -> None:
    """Call a method of new channels, with one changed argument."""
    channels = Channels(options=NodeOptions())
    channels.add_route(
        'rooms:{room}', None, ChannelOptions(history_size=10, presence=True)
    )
    parameters = list(inspect.signature(METHODS[name]).parameters.values())[1:]
    arguments = {
        parameter.name: RIGHT[parameter.name]
        for parameter in parameters
        if parameter.default is inspect.Parameter.empty
    }
    if 'version_epoch' in changed:
        arguments['version'] = 1
    try:
        result = METHODS[name](channels, **{**arguments, **changed})
        if inspect.isawaitable(result):
            await result
        elif hasattr(result, '__aenter__'):
            async with result:
                pass
    finally:
        await channels.close()


@pytest.mark.parametrize(('name', 'parameter'), CASES)
async def test_wrong_argument_of_a_method_raises_an_error_of_the_library(
    name: str, parameter: str
) -> None:
    """Each text has a maximum, and each number a range. A short error says so.

    A new method or parameter needs an entry in the tables of this module.
    """
    wrong = WRONG_OF.get((name, parameter), WRONG.get(parameter))
    assert wrong is not None, f'add {parameter!r} to WRONG or UNCHECKED'
    for value in wrong:
        with pytest.raises(ChannelsError) as raised:
            await call(name, {parameter: value})
        assert len(str(raised.value)) < 400


async def test_right_arguments_of_the_cases_are_accepted() -> None:
    """The cases fail because of the changed argument, and not because of others."""
    for name in METHODS:
        await call(name, {})


async def test_revocation_for_no_time_does_not_restore_the_user() -> None:
    """A time of 0 is refused. Before, it removed the revocation of the user."""
    channels = Channels()
    channels.add_route('rooms:{room}', None)
    await channels.revoke_user('ann', 'rooms:a')
    for ttl_s in (0, -1.0):
        with pytest.raises(ValueError, match='above 0 and up to'):
            await channels.revoke_user('ann', 'rooms:a', ttl_s=ttl_s)
    assert await channels.node.broker.is_revoked('rooms:a', 'ann')
    await channels.close()


# --- requests of the server API and the inspector ------------------------------------

#: Fields whose length is limited by the size of the request, or by another check.
LIMITED_ELSEWHERE = {
    'channel': 'max_channel_bytes',
    'channels': 'max_channel_bytes',
    'b64data': 'max_publication_bytes, and the size of the request',
    'b64info': 'the size of the request',
    'tags': 'max_publication_bytes',
    'commands': 'the names of the methods',
    'expression': 'always refused',
    'override': 'always refused',
    'server_tags_filter': 'the limits of filters',
}


def texts_without_a_maximum(kind: Any) -> bool:
    """Return whether a type of a field has text whose length is not limited."""
    if kind is str or isinstance(kind, msgspec.inspect.StrType):
        return isinstance(kind, msgspec.inspect.StrType) and kind.max_length is None
    parts = [getattr(kind, name, None) for name in ('item_type', 'key_type')]
    parts += [*getattr(kind, 'types', ()), getattr(kind, 'value_type', None)]
    return any(part is not None and texts_without_a_maximum(part) for part in parts)


def test_each_text_of_a_request_has_a_maximum_length() -> None:
    """A request of the server API or the inspector cannot fill a log or a survey."""
    channels = Channels()
    surveys = InspectorSurveys(channels.node, RecentEvents())
    api = InspectorMethods(channels.node, surveys)._api
    kinds: list[type[ApiRequest]] = [kind for kind, _ in api._methods.values()]
    kinds += [methods._Tail, methods._Rpc, methods._Batch]
    unlimited = set()
    while kinds:
        kind = kinds.pop()
        information = msgspec.inspect.type_info(kind)
        assert isinstance(information, msgspec.inspect.StructType)
        for field in information.fields:
            for part in [field.type, *getattr(field.type, 'types', ())]:
                is_struct = isinstance(part, msgspec.inspect.StructType)
                if is_struct and field.name not in LIMITED_ELSEWHERE:
                    kinds.append(part.cls)
            if field.name not in LIMITED_ELSEWHERE and texts_without_a_maximum(
                field.type
            ):
                unlimited.add(f'{kind.__name__}.{field.name}')
    assert set() == unlimited
