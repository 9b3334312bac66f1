"""News between the processes that share a file: "there are rows up to id N".

Each process has a datagram socket in a folder beside the file, and after a transaction
sends the newest id to all others there. A datagram is a hint and nothing else. Whoever
gets it reads the database; one that is lost, forged or comes twice does no harm,
because every process looks by itself from time to time as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import contextlib
import errno
import logging
import os
from pathlib import Path
import secrets
import socket
import struct

_logger = logging.getLogger('falcon_channels')

_ID = struct.Struct('!q')
#: Datagrams read in one turn of the event loop at most.
_TURN = 64


class News:
    """The socket of one process, and those of the others.

    `tell` is called in the writer's thread, everything else in the event loop.

    Args:
        path: Of the database.
        on_news: Called in the event loop with an id that another process has told.
    """

    def __init__(self, path: Path, on_news: Callable[[int], None]) -> None:
        self.folder = path.with_name(path.name + '-news')
        self._on_news = on_news
        self._name = f'{os.getpid()}-{secrets.token_hex(4)}'
        self._folder_fd = -1
        self._listening: socket.socket | None = None
        self._sending: socket.socket | None = None
        self._folder_time_ns = -1
        self._others: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Listen; where that fails, the file is looked at from time to time only."""
        self._loop = asyncio.get_running_loop()
        try:
            # SECURITY: only this user's processes may send here.
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._folder_fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            self._listening = _new_socket()
            self._listening.bind(self._address(self._name))
            self._sending = _new_socket()
            self._loop.add_reader(self._listening, self._on_readable)
        except (OSError, NotImplementedError) as ex:
            _logger.warning(
                '%s: no word from other processes (%s); it is looked at once a second',
                self.folder,
                ex,
            )
            self.close()

    def close(self) -> None:
        """Let go of the socket and its name."""
        listening, self._listening = self._listening, None
        if listening is not None:
            assert self._loop is not None
            self._loop.remove_reader(listening)
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder_fd)
            listening.close()
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.close()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1

    def tell(self, last_id: int) -> None:
        """Send an id to all other processes."""
        sending = self._sending
        if sending is None:
            return
        message = _ID.pack(last_id)
        with contextlib.suppress(OSError):
            for name in self._names():
                try:
                    sending.sendto(message, self._address(name))
                except OSError as ex:
                    self._on_unsent(name, ex)

    # --- inside ----------------------------------------------------------------------

    def _address(self, name: str) -> str:
        # NOTE: the address of a socket has 107 bytes at most, which a path may exceed.
        return f'/proc/self/fd/{self._folder_fd}/{name}'

    def _names(self) -> list[str]:
        # PERF: listed again when the folder has changed, and not for every commit.
        time_ns = os.stat(self._folder_fd).st_mtime_ns
        if time_ns != self._folder_time_ns:
            names = os.listdir(self._folder_fd)
            self._others = [name for name in names if name != self._name]
            self._folder_time_ns = time_ns
        return self._others

    def _on_unsent(self, name: str, error: OSError) -> None:
        if error.errno == errno.ECONNREFUSED:
            # NOTE: its process was killed and has left its name behind.
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._folder_fd)
        # NOTE: EAGAIN: it has unread datagrams, and reads the rows after those.

    def _on_readable(self) -> None:
        listening = self._listening
        newest = 0
        for _ in range(_TURN):
            if listening is None:
                return
            try:
                message = listening.recv(16)
            except OSError:
                break
            if len(message) == _ID.size:
                newest = max(newest, _ID.unpack(message)[0])
        if newest:
            self._on_news(newest)


def _new_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock
