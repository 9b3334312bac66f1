"""The Lua scripts that the server executes, from the files in ``lua/``."""

from __future__ import annotations

import hashlib
from importlib import resources

#: Number of runs of servers whose scripts are remembered.
_MAX_RUNS = 1000


class Script:
    """A Lua script, whose text may contain the id of the run of the server.

    Args:
        text: Source code of the script.
        uses_run_id: Whether the script uses the variable ``run_id``.
    """

    def __init__(self, text: bytes, *, uses_run_id: bool) -> None:
        self._text = text
        self._uses_run_id = uses_run_id
        self._shas: dict[bytes, bytes] = {}

    def text_of(self, run_id: bytes) -> bytes:
        """Return the source code for a server.

        Args:
            run_id: Id of the run of the server; letters and digits, or empty.
        """
        if not self._uses_run_id:
            return self._text
        return b"local run_id = '%b'\n%b" % (run_id, self._text)

    def sha_of(self, run_id: bytes) -> bytes:
        """Return the SHA-1 of `text_of`, its name in the cache of the server."""
        sha = self._shas.get(run_id)
        if sha is None:
            # NOTE: SHA-1 is the name that the server gives to a script. It protects
            #   nothing.
            text = self.text_of(run_id)
            sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
            if len(self._shas) >= _MAX_RUNS:
                self._shas.clear()
            self._shas[run_id] = sha
        return sha


def _load(*names: str) -> Script:
    folder = resources.files('falcon_channels.brokers.redis') / 'lua'
    text = b'\n'.join((folder / f'{name}.lua').read_bytes() for name in names)
    return Script(text, uses_run_id=names[0] in ('log', 'control'))


PUBLISH = _load('log', 'publish')
HISTORY = _load('log', 'history')
REMOVE_HISTORY = _load('remove_history')
CONTROL = _load('control')
PRESENCE_ADD = _load('presence', 'presence_add')
PRESENCE_REMOVE = _load('presence', 'presence_remove')
PRESENCE_EXPIRE = _load('presence', 'presence_expire')
PRESENCE_LIST = _load('presence', 'presence_list')
