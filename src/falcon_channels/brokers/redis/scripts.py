"""The Lua scripts that the server executes, from the files in ``lua/``."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple


class Script(NamedTuple):
    """A Lua script.

    Attributes:
        text: Source code of the script.
        sha: SHA-1 of the source code, the name of the script in the server's cache.
    """

    text: bytes
    sha: bytes


def _load(*names: str) -> Script:
    folder = resources.files('falcon_channels.brokers.redis') / 'lua'
    text = b'\n'.join((folder / f'{name}.lua').read_bytes() for name in names)
    # NOTE: SHA-1 is the name that the server gives to a script. It protects nothing.
    digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
    return Script(text, digest.encode())


PUBLISH = _load('log', 'publish')
HISTORY = _load('log', 'history')
CONTROL = _load('control')
PRESENCE_ADD = _load('presence', 'presence_add')
PRESENCE_REMOVE = _load('presence', 'presence_remove')
PRESENCE_EXPIRE = _load('presence', 'presence_expire')
PRESENCE_LIST = _load('presence', 'presence_list')
