"""Creates a broker from a URL; the scheme decides the class, which is then imported."""

from __future__ import annotations

import importlib

from falcon_channels.brokers.base import Broker
from falcon_channels.brokers.url_options import split_url
from falcon_channels.errors import OptionsError

#: Schemes of URLs: (module, class, the extra that it requires or ``None``).
BROKERS: dict[str, tuple[str, str, str | None]] = {
    'memory': ('falcon_channels.brokers.memory', 'MemoryBroker', None),
    'sqlite': ('falcon_channels.brokers.sqlite', 'SqliteBroker', None),
    'redis': ('falcon_channels.brokers.redis', 'RedisBroker', 'redis'),
    'rediss': ('falcon_channels.brokers.redis', 'RedisBroker', 'redis'),
    'valkey': ('falcon_channels.brokers.redis', 'RedisBroker', 'redis'),
    'valkeys': ('falcon_channels.brokers.redis', 'RedisBroker', 'redis'),
    'postgresql': ('falcon_channels.brokers.postgres', 'PostgresBroker', 'postgres'),
    'postgres': ('falcon_channels.brokers.postgres', 'PostgresBroker', 'postgres'),
    'redis+sentinel': ('falcon_channels.brokers.redis', 'RedisBroker', 'redis'),
    'rediss+sentinel': ('falcon_channels.brokers.redis', 'RedisBroker', 'redis'),
    'redis+unix': ('falcon_channels.brokers.redis', 'RedisBroker', 'redis'),
}


def open_broker(url: str | None) -> Broker:
    """Return a broker, not started, for a URL.

    Args:
        url: The URL; ``None`` stands for ``memory://``.

    Raises:
        OptionsError: The URL is not text, its scheme or an option is unknown, or a
            library is not installed. The message says what to do.
    """
    if url is None:
        url = 'memory://'
    if not isinstance(url, str):
        raise OptionsError(
            "the broker is a URL such as 'sqlite:///chat.db', a Broker, or None, not "
            f'{type(url).__name__}'
        )
    if not url:
        # NOTE: it is often a variable of the environment that nobody has set. Memory
        #   would lose what the app stores, and other processes would not receive it.
        raise OptionsError(
            'the URL of the broker is empty; write memory:// for the memory of this '
            'process'
        )
    # SECURITY: the URL may contain a password, which would get into logs. No message
    #   therefore repeats the URL.
    scheme = split_url(url).scheme
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
    broker: Broker = broker_class.from_url(url)
    return broker
