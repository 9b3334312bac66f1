"""The public interface: the names that applications may import.

Everything else can change without notice. A change of a list here is a change of the
public interface: document it, and add it to the change log.
"""

from __future__ import annotations

from collections.abc import Iterator
import importlib
import importlib.metadata
import inspect
from pathlib import Path
import re

import pytest

import falcon_channels

ROOT = Path(__file__).parents[1]

#: The public modules, and the names that each one exports.
PUBLIC = {
    # --- for applications ------------------------------------------------------------
    'falcon_channels': {
        'ApiCall',
        'BrokerError',
        'BrokerUnavailableError',
        'CapabilityError',
        'ChannelEnd',
        'ChannelFinishedError',
        'ChannelNameError',
        'ChannelOptions',
        'Channels',
        'ChannelsError',
        'ClientConnection',
        'ClientInfo',
        'ClientMessage',
        'ClosedError',
        'Connection',
        'EndpointOptions',
        'Event',
        'EventLoopError',
        'EventStreamOptions',
        'Explanation',
        'HistoryPage',
        'InvalidValueError',
        'LocalSubscription',
        'NodeOptions',
        'OptionsError',
        'OriginCheck',
        'PayloadError',
        'Position',
        'PositionError',
        'PresenceStats',
        'Publication',
        'PublicationDraft',
        'PublicationTooLargeError',
        'PublishResult',
        'RpcCall',
        'Snapshot',
        'StreamAbortedError',
        'StreamConflictError',
        'StreamWriter',
        'StreamWriterOptions',
        'Subscription',
        'UnknownChannelError',
        'UnsubscribedError',
        'Verdict',
        '__version__',
    },
    'falcon_channels.errors': {
        'AlreadySubscribedError',
        'BrokerError',
        'BrokerUnavailableError',
        'CapabilityError',
        'ChannelFinishedError',
        'ChannelNameError',
        'ChannelsError',
        'ClosedError',
        'EventLoopError',
        'ExtraMissingError',
        'InvalidValueError',
        'OptionsError',
        'PayloadError',
        'PositionError',
        'ProtocolError',
        'PublicationTooLargeError',
        'StreamAbortedError',
        'StreamConflictError',
        'TokenError',
        'TokenExpiredError',
        'KeysUnavailableError',
        'TokenInvalidError',
        'TooManyChannelsError',
        'TooManyUsersError',
        'UnknownChannelError',
        'UnsubscribedError',
    },
    'falcon_channels.filters': {
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
    },
    'falcon_channels.names': {'find_invisible_character'},
    'falcon_channels.origin': {'OriginCheck'},
    'falcon_channels.portal': {'BlockingStream', 'Portal'},
    'falcon_channels.tokens': {
        'Algorithm',
        'ConnectionToken',
        'RemoteKeySet',
        'SubscriptionToken',
        'TokenKey',
        'TokenSubscription',
        'TokenVerifier',
        'make_connection_token',
        'make_subscription_token',
    },
    'falcon_channels.wsgi': {'App', 'WebSocket', 'WebSocketError', 'WebSocketOptions'},
    # --- for operators ---------------------------------------------------------------
    'falcon_channels.cli': {'main'},
    'falcon_channels.logs': {'JsonFormatter', 'json_log_config'},
    'falcon_channels.monitoring.prometheus': {'ChannelsCollector'},
    'falcon_channels.server.http': {'BoundedHttpProtocol'},
    'falcon_channels.server.protocol': {'WebSocketProtocol'},
    # --- brokers ---------------------------------------------------------------------
    'falcon_channels.brokers.base': {
        'Append',
        'Broker',
        'BrokerReceiver',
        'Capabilities',
        'PresenceAdded',
        'PresenceChange',
        'PresenceEntry',
        'PublishResult',
        'RouteSettings',
        'LogSettings',
        'Version',
    },
    'falcon_channels.brokers.memory': {'MemoryBroker'},
    'falcon_channels.brokers.postgres': {'PostgresBroker', 'migrate'},
    'falcon_channels.brokers.redis': {'RedisBroker'},
    'falcon_channels.brokers.sqlite': {'SqliteBroker'},
    # --- for ASGI servers ------------------------------------------------------------
    'falcon_channels.transports.asgi_extensions': {
        'DRAIN_HOOKS',
        'MAX_MESSAGE_BYTES',
        'SERVER_HTTP_EXTENSION',
        'SERVER_WEBSOCKET_EXTENSION',
        'ServerHttpConnection',
        'ServerWebSocket',
        'START_ERROR',
        'server_http_connection',
        'server_websocket',
    },
    # --- for tests -------------------------------------------------------------------
    'falcon_channels.testing': {
        'CommandError',
        'DisconnectedError',
        'FakeClockLoop',
        'FakeClockStuckError',
        'Joined',
        'Received',
        'Recorder',
        'Signal',
        'SimulatedClient',
        'SimulatedSdk',
        'Subscribed',
        'Unsubscribed',
        'channels_fixture',
        'fresh_channels',
        'run_with_fake_clock',
    },
    'falcon_channels.testing.contract': {'BrokerContract'},
    'falcon_channels.testing.presence_contract': {'PresenceContract'},
    'falcon_channels.testing.shared_contract': {
        'DurableBrokerContract',
        'SharedBrokerContract',
    },
    'falcon_channels.wsgi.testing': {'simulate_ws'},
}

_FROM_IMPORT = re.compile(
    r'^\s*from (falcon_channels(?:\.\w+)*) import (?:\(([^)]*)\)|([^\n#]+))',
    re.MULTILINE,
)
_IMPORT = re.compile(r'^\s*import (falcon_channels(?:\.\w+)*)\b', re.MULTILINE)
#: ``module:name``, as in the arguments of uvicorn and in entry points.
_IMPORT_STRING = re.compile(r'\b(falcon_channels(?:\.\w+)+):(\w+)')
_CODE_BLOCK = re.compile(r'^( *)```[^\n]*\n(.*?)^\1```', re.MULTILINE | re.DOTALL)


def exported_names(module_name: str) -> set[str]:
    """Return `__all__`, or the public classes and functions that a module defines."""
    module = importlib.import_module(module_name)
    if hasattr(module, '__all__'):
        assert len(module.__all__) == len(set(module.__all__))
        return set(module.__all__)
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith('_')
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module_name
    }


@pytest.mark.parametrize('module_name', PUBLIC)
def test_public_module_exports_exactly_the_listed_names(module_name: str) -> None:
    """A new, renamed or removed public name must be listed here, and must exist."""
    assert PUBLIC[module_name] == exported_names(module_name)
    module = importlib.import_module(module_name)
    assert set() == {name for name in PUBLIC[module_name] if not hasattr(module, name)}


def test_version_is_that_of_the_installed_distribution() -> None:
    """`__version__` is the version of the metadata, which pyproject.toml defines."""
    expected = importlib.metadata.version('falcon-channels')
    assert expected == falcon_channels.__version__


def sources() -> Iterator[tuple[str, str]]:
    """Yield the path and the code of each example, chat module and code block."""
    for folder in ('examples', 'src/falcon_channels_chat'):
        for path in sorted((ROOT / folder).rglob('*.py')):
            yield str(path.relative_to(ROOT)), path.read_text()
    for path in [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]:
        for block in _CODE_BLOCK.finditer(path.read_text()):
            yield str(path.relative_to(ROOT)), block[2]
    yield 'pyproject.toml', (ROOT / 'pyproject.toml').read_text()


def imported_names() -> list[tuple[str, str, str]]:
    """Return path, module and name of each import of the library in `sources`."""
    found = []
    for path, code in sources():
        for module_name, in_brackets, on_line in _FROM_IMPORT.findall(code):
            for name in (in_brackets or on_line).split(','):
                if name.strip():
                    found.append((path, module_name, name.split()[0]))
        found += [(path, name, '') for name in _IMPORT.findall(code)]
        found += [(path, *names) for names in _IMPORT_STRING.findall(code)]
    return found


def is_public(module_name: str, name: str) -> bool:
    """Return whether a module, or a name or submodule of it, is public."""
    return f'{module_name}.{name}' in PUBLIC or (
        module_name in PUBLIC and (not name or name in PUBLIC[module_name])
    )


def test_examples_and_documentation_import_public_names_only() -> None:
    """Readers copy these imports. Each name must be a public one."""
    imports = imported_names()
    places = {path.partition('/')[0] for path, _, _ in imports}
    assert {'README.md', 'docs', 'examples', 'pyproject.toml', 'src'} == places
    assert [] == [
        f'{path}: from {module_name} import {name}'
        for path, module_name, name in imports
        if not is_public(module_name, name)
    ]
