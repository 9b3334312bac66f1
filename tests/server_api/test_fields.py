"""Every field of Centrifugo's server API is honoured or refused, and never ignored."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
import re
from typing import Any

from falcon import testing
import falcon.asgi
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ApiCall
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import OptionsError
from falcon_channels import server_api
from falcon_channels import UnknownChannelError
from falcon_channels.server_api import methods
from falcon_channels.testing import SimulatedSdk

KEY = 'a-key-of-the-tests'

_PUBLICATION: dict[str, Any] = {
    'b64data': 'MQ==',
    'skip_history': True,
    'tags': {'a': 'b'},
    'idempotency_key': 'k',
    'delta': True,
    'version': 1,
    'version_epoch': 'e',
}
_USER: dict[str, Any] = {
    'client': 'c',
    'session': 's',
    'label_filter': {'key': 'a', 'cmp': 'ex'},
    'all_users': True,
}

#: All methods of Centrifugo's server API that are supported: a request, and a value for
#: each other field of `api.proto`.
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'publish': ({'channel': 'rooms:a', 'data': 1}, _PUBLICATION),
    'broadcast': ({'channels': ['rooms:a'], 'data': 1}, _PUBLICATION),
    'subscribe': (
        {'user': 'ann', 'channel': 'rooms:a'},
        {
            **_USER,
            'expire_at': 4_000_000_000,
            'info': {'a': 1},
            'b64info': 'MQ==',
            'data': {'a': 1},
            'b64data': 'MQ==',
            'recover_since': {'offset': 1, 'epoch': 'e'},
            'override': {'presence': {'value': True}},
        },
    ),
    'unsubscribe': ({'user': 'ann', 'channel': 'rooms:a'}, _USER),
    'disconnect': (
        {'user': 'ann'},
        {**_USER, 'whitelist': ['c'], 'disconnect': {'code': 4000, 'reason': 'r'}},
    ),
    'refresh': (
        {'user': 'ann'},
        {**_USER, 'expired': True, 'expire_at': 4_000_000_000, 'info': {'a': 1}},
    ),
    'presence': ({'channel': 'rooms:a'}, {}),
    'presence_stats': ({'channel': 'rooms:a'}, {}),
    'history': (
        {'channel': 'rooms:a'},
        {'limit': 1, 'since': {'offset': 1, 'epoch': 'e'}, 'reverse': True},
    ),
    'history_remove': ({'channel': 'rooms:a'}, {}),
    'connections': (
        {},
        {
            'user': 'ann',
            'client': 'c',
            'channel': 'rooms:a',
            'limit': 5,
            'expression': 'true',
        },
    ),
    'channels': ({}, {'pattern': '*'}),
    'info': ({}, {}),
    'rpc': ({'method': 'add'}, {'params': [1, 2]}),
    'batch': ({'commands': []}, {'parallel': True}),
}
#: All other methods, which are refused.
OTHERS = [
    'update_user_status',
    'get_user_status',
    'delete_user_status',
    'block_user',
    'unblock_user',
    'revoke_token',
    'invalidate_user_tokens',
    'device_register',
    'device_update',
    'device_remove',
    'device_list',
    'device_topic_list',
    'device_topic_update',
    'user_topic_list',
    'user_topic_update',
    'send_push_notification',
    'update_push_status',
    'cancel_push',
    'map_publish',
    'map_remove',
    'map_read_state',
    'map_read_stream',
    'map_stats',
    'map_clear',
    'shared_poll_publish',
]
SOURCE = '\n'.join(
    path.read_text() for path in sorted(Path(server_api.__file__).parent.glob('*.py'))
)


class Api:
    """The resource of the application for `rpc`."""

    def __init__(self) -> None:
        self.reqs: list[Any] = []

    async def on_rpc_add(self, req: Any, call: ApiCall) -> None:
        self.reqs.append(req)
        call.reply = {'sum': sum(call.data), 'method': call.method}

    async def on_rpc_nothing(self, req: Any, call: ApiCall) -> None:
        """Set no reply."""

    async def on_rpc_forbidden(self, req: Any, call: ApiCall) -> None:
        raise falcon.HTTPForbidden(description='not for you')

    async def on_rpc_fail(self, req: Any, call: ApiCall) -> None:
        raise ValueError('a secret')

    async def on_rpc_mistake(self, req: Any, call: ApiCall) -> None:
        raise UnknownChannelError('secret')

    async def on_rpc_unreadable(self, req: Any, call: ApiCall) -> None:
        call.reply = object()


def make_app(resource: object = None, **options: Any) -> tuple[Channels, Any]:
    channels = Channels()
    channels.add_route(
        'rooms:{room}',
        None,
        ChannelOptions(subscribers='anybody', history_size=10, presence=True),
    )
    app = falcon.asgi.App(middleware=[channels])
    channels.add_api(app, keys=KEY, resource=resource, **options)
    return channels, app


async def ask(conductor: testing.ASGIConductor, method: str, body: Any) -> Any:
    result = await conductor.simulate_post(
        f'/api/{method}', json=body, headers={'X-API-Key': KEY}
    )
    assert 200 == result.status_code
    return result.json


@pytest.mark.parametrize(
    ('method', 'field'),
    [(method, field) for method, (_, others) in FIELDS.items() for field in others],
)
async def test_field_is_honoured_or_refused_by_its_name(
    method: str, field: str
) -> None:
    """A field has an effect, or the error says that it is not supported.

    Which effect it has is shown by the tests of the methods. Here, the field must be
    read: the code of the methods mentions it.
    """
    base, others = FIELDS[method]
    _, app = make_app(Api())
    async with testing.ASGIConductor(app) as conductor:
        answer = await ask(conductor, method, {**base, field: others[field]})
        error = answer.get('error')
        if error is not None and error['code'] == 108:
            assert error['message'].startswith(f'not available: {field}: ')
            return
        assert error is None or error['code'] in (107, 112)
        assert re.search(rf'\b(request|batch)\.{field}\b', SOURCE)
        if field not in ('info', 'data', 'params'):  # they can have any value
            wrong = await ask(conductor, method, {**base, field: 1.5})
            assert 107 == wrong['error']['code']
            assert field in wrong['error']['message']


@pytest.mark.parametrize('method', FIELDS)
async def test_request_without_optional_fields_succeeds(method: str) -> None:
    """The base of the table is a correct request."""
    _, app = make_app(Api())
    async with testing.ASGIConductor(app) as conductor:
        base = {**FIELDS[method][0], **({'params': [1]} if method == 'rpc' else {})}
        answer = await ask(conductor, method, base)
        assert not {'error'} & set(answer)


@pytest.mark.parametrize('method', FIELDS)
async def test_field_that_does_not_exist_is_refused(method: str) -> None:
    """A mistyped or newer field is named in the error."""
    _, app = make_app(Api())
    async with testing.ASGIConductor(app) as conductor:
        answer = await ask(conductor, method, {**FIELDS[method][0], 'skip_histry': 1})
        assert 107 == answer['error']['code']
        assert 'skip_histry' in answer['error']['message']


@pytest.mark.parametrize('method', FIELDS)
async def test_first_request_starts_the_channels(method: str, tmp_path: Path) -> None:
    """On a server without lifespan events, any method may be the first call."""
    channels = Channels(f'sqlite:///{tmp_path}/channels.db')
    channels.add_route(
        'rooms:{room}', None, ChannelOptions(history_size=10, presence=True)
    )
    base = {**FIELDS[method][0], **({'params': [1]} if method == 'rpc' else {})}
    req: Any = None
    api = methods.ApiMethods(channels.node, Api())
    answer = await api.call(method, json.dumps(base).encode(), req)
    assert not {'error'} & set(answer)
    await channels.close()


@pytest.mark.parametrize('method', OTHERS)
async def test_method_that_is_not_supported_is_refused(method: str) -> None:
    """A method that only Centrifugo has returns 108, and not 404."""
    _, app = make_app()
    async with testing.ASGIConductor(app) as conductor:
        answer = await ask(conductor, method, {})
        assert {'code': 108, 'message': f'not available: {method}'} == answer['error']


# --- skip_history, b64info and b64data -----------------------------------------------


async def test_skip_history_is_sent_and_not_stored() -> None:
    """Subscribers receive the data. It has no position, and is not in the history."""
    channels, app = make_app()
    async with (
        testing.ASGIConductor(app) as conductor,
        SimulatedSdk(channels) as client,
    ):
        await client.subscribe('rooms:a')
        body = {'channel': 'rooms:a', 'data': 1, 'skip_history': True}
        answer = await ask(conductor, 'publish', body)
        assert {'offset': 0, 'epoch': ''} == answer['result']
        push = await client.receive()
        assert 1 == push['pub']['data']
        assert 'offset' not in push['pub']
        body = {'channels': ['rooms:a', 'rooms:b'], 'data': 2, 'skip_history': True}
        await ask(conductor, 'broadcast', body)
        assert 2 == (await client.receive())['pub']['data']
        assert 0 == (await channels.position('rooms:a')).offset


@on_fake_clock
async def test_subscribe_accepts_info_and_data_in_base64() -> None:
    """JSON in base64 is the same as JSON."""
    channels, app = make_app()

    class Clients:
        async def on_connect(self, req: Any, connection: Any) -> None:
            connection.user = 'ann'

    def encoded(value: Any) -> str:
        return base64.b64encode(json.dumps(value).encode()).decode()

    async with (
        testing.ASGIConductor(app) as conductor,
        SimulatedSdk(channels, Clients()) as client,
    ):
        body = {
            'user': 'ann',
            'channel': 'rooms:a',
            'b64info': encoded({'name': 'Ann'}),
            'b64data': encoded(['hello']),
        }
        assert {'result': {}} == await ask(conductor, 'subscribe', body)
        assert ['hello'] == (await client.receive())['subscribe']['data']
        await asyncio.sleep(0.1)
        [info] = (await channels.presence('rooms:a')).values()
        assert b'{"name":"Ann"}' == info.chan_info


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'b64info': '%'}, 'b64info is not base64'),
        ({'b64data': base64.b64encode(b'\xff').decode()}, 'invalid'),
        ({'b64info': 'MQ==', 'info': 1}, 'info and b64info: send one of them'),
    ],
)
async def test_wrong_base64_of_a_subscribe_is_refused(
    fields: Any, message: str
) -> None:
    """A value that is not JSON in base64 is refused, and so are two values."""
    _, app = make_app()
    async with testing.ASGIConductor(app) as conductor:
        body = {'user': 'ann', 'channel': 'rooms:a', **fields}
        error = (await ask(conductor, 'subscribe', body))['error']
        assert 107 == error['code']
        assert message.lower() in error['message'].lower()


# --- rpc -----------------------------------------------------------------------------


async def test_rpc_calls_the_responder_of_the_application() -> None:
    """`on_rpc_{method}` gets the request and the parameters, and sets the reply."""
    api = Api()
    _, app = make_app(api)
    async with testing.ASGIConductor(app) as conductor:
        body = {'method': 'add', 'params': [1, 2]}
        answer = await ask(conductor, 'rpc', body)
        assert {'data': {'sum': 3, 'method': 'add'}} == answer['result']
        assert '/api/rpc' == api.reqs[0].path
        answer = await ask(conductor, 'rpc', {'method': 'nothing'})
        assert {'data': None} == answer['result']
        batch = {'commands': [{'rpc': body}, {'rpc': {'method': 'nowhere'}}]}
        replies = (await ask(conductor, 'batch', batch))['replies']
        assert 3 == replies[0]['rpc']['data']['sum']
        assert 104 == replies[1]['error']['code']


@pytest.mark.parametrize(
    ('method', 'code', 'message'),
    [
        ('forbidden', 103, 'permission denied: not for you'),
        ('fail', 100, 'internal server error'),
        ('mistake', 100, 'internal server error'),
        ('unreadable', 100, 'internal server error'),
        ('nowhere', 104, 'method not found: nowhere'),
        ('__init__', 104, 'method not found: __init__'),
    ],
)
async def test_rpc_that_fails_returns_an_error_without_details(
    method: str, code: int, message: str
) -> None:
    """The text of an HTTP error reaches the caller; that of a defect is in the log."""
    _, app = make_app(Api())
    async with testing.ASGIConductor(app) as conductor:
        answer = await ask(conductor, 'rpc', {'method': method})
        assert {'code': code, 'message': message} == answer['error']


async def test_rpc_without_a_resource_is_not_available() -> None:
    """An app that answers no calls says so."""
    _, app = make_app()
    async with testing.ASGIConductor(app) as conductor:
        error = (await ask(conductor, 'rpc', {'method': 'add'}))['error']
        assert (108, True) == (error['code'], 'no resource' in error['message'])


def test_resource_that_cannot_answer_calls_is_refused() -> None:
    """A class, or a responder that is not a coroutine function, is a mistake."""

    class Blocking:
        def on_rpc(self, req: Any, call: Any) -> None:
            """Block."""

    with pytest.raises(OptionsError, match='pass an instance'):
        make_app(Api)
    with pytest.raises(TypeError, match='async def'):
        make_app(Blocking())


def test_method_that_exists_cannot_be_replaced() -> None:
    """Two methods with one name are a mistake: the second one would hide the first."""
    api = methods.ApiMethods(Channels().node)
    with pytest.raises(ValueError, match=r"\['channels'\]"):
        api.add({'channels': (methods.ApiRequest, None)})  # type: ignore[dict-item]
