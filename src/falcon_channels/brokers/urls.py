"""Brokers by URL: which class serves which scheme, imported when asked for."""

from __future__ import annotations

import importlib
from urllib.parse import urlsplit

from falcon_channels.brokers.base import Broker
from falcon_channels.errors import OptionsError

#: Scheme of the URL: (module, class, what to install for it or ``None``).
BROKERS: dict[str, tuple[str, str, str | None]] = {
    'memory': ('falcon_channels.brokers.memory', 'MemoryBroker', None),
    'sqlite': ('falcon_channels.brokers.sqlite', 'SqliteBroker', None),
    'redis': ('falcon_channels.brokers.redis', 'RedisBroker', 'redis'),
    'rediss': ('falcon_channels.brokers.redis', 'RedisBroker', 'redis'),
    'valkey': ('falcon_channels.brokers.redis', 'RedisBroker', 'redis'),
    'valkeys': ('falcon_channels.brokers.redis', 'RedisBroker', 'redis'),
    'postgresql': ('falcon_channels.brokers.postgres', 'PostgresBroker', 'postgres'),
    'postgres': ('falcon_channels.brokers.postgres', 'PostgresBroker', 'postgres'),
    'redis+unix': ('falcon_channels.brokers.redis', 'RedisBroker', 'redis'),
}


def open_broker(url: str | None) -> Broker:
    """Return a broker for a URL; ``None`` is ``'memory://'``.

    Raises:
        OptionsError: No broker has this scheme, or its library is not installed.
    """
    # SECURITY: the URL may hold a password, so that no message repeats it.
    scheme = urlsplit(url or 'memory://').scheme
    found = BROKERS.get(scheme)
    if found is None:
        known = ', '.join(f'{name}://' for name in BROKERS)
        raise OptionsError(f'no broker for a URL with scheme {scheme!r}; use {known}')
    module_name, class_name, extra = found
    try:
        module = importlib.import_module(module_name)
    except ImportError as ex:
        raise OptionsError(
            f'{scheme}:// needs a library that is not installed ({ex.name}): '
            f"pip install 'falcon-channels[{extra}]'"
        ) from ex
    broker_class = getattr(module, class_name)
    broker: Broker = (
        broker_class() if scheme == 'memory' else broker_class.from_url(url)
    )
    return broker
