"""Notifications between the processes that share a database file.

Each process has a datagram socket in a folder beside the file. After a transaction it
sends the newest id to all other sockets in that folder, as 8 bytes in network order:
"the database has rows up to id N".

A datagram is only a hint to read the database. One that is lost, forged or duplicated
does no harm, because every process also polls the database.
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
#: Maximum number of datagrams that are read in one event-loop iteration.
_MAX_DATAGRAMS = 64


class ProcessNotifier:
    """The socket of this process, and the names of the sockets of the others.

    `notify` is called in the writer's thread, everything else in the event loop.

    Args:
        path: Path of the database file.
        on_notification: Called in the event loop with the newest id that another
            process has sent.
    """

    def __init__(self, path: Path, on_notification: Callable[[int], None]) -> None:
        self.folder = path.with_name(path.name + '-news')
        self._on_notification = on_notification
        self._name = f'{os.getpid()}-{secrets.token_hex(4)}'
        self._folder_fd = -1
        self._receiving: socket.socket | None = None
        self._sending: socket.socket | None = None
        self._folder_time_ns = -1
        self._others: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Open the sockets; if that fails, log a warning and rely on polling."""
        self._loop = asyncio.get_running_loop()
        try:
            # SECURITY: another user could send datagrams that make this process read
            #   the database without pause. The folder is therefore for its owner only.
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._folder_fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            self._receiving = _new_socket()
            self._receiving.bind(self._address(self._name))
            self._sending = _new_socket()
            self._loop.add_reader(self._receiving, self._on_readable)
        except (OSError, NotImplementedError) as ex:
            _logger.warning(
                '%s: cannot receive notifications of other processes (%s); the '
                'database is polled instead',
                self.folder,
                ex,
            )
            self.close()

    def close(self) -> None:
        """Close the sockets and remove the name of this process."""
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            assert self._loop is not None
            self._loop.remove_reader(receiving)
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder_fd)
            receiving.close()
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.close()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1

    def notify(self, last_id: int) -> None:
        """Send the newest id to all other processes."""
        sending = self._sending
        if sending is None:
            return
        message = _ID.pack(last_id)
        with contextlib.suppress(OSError):
            for name in self._names():
                try:
                    sending.sendto(message, self._address(name))
                except OSError as ex:
                    self._on_send_error(name, ex)

    # --- internals --------------------------------------------------------------------

    def _address(self, name: str) -> str:
        # NOTE: the address of a Unix socket has at most 107 bytes, and the path of the
        #   folder may be longer. An address below the open folder is always short.
        return f'/proc/self/fd/{self._folder_fd}/{name}'

    def _names(self) -> list[str]:
        # NOTE: the folder is listed only after it has changed, because listing it for
        #   every commit is slow.
        time_ns = os.stat(self._folder_fd).st_mtime_ns
        if time_ns != self._folder_time_ns:
            names = os.listdir(self._folder_fd)
            self._others = [name for name in names if name != self._name]
            self._folder_time_ns = time_ns
        return self._others

    def _on_send_error(self, name: str, error: OSError) -> None:
        if error.errno == errno.ECONNREFUSED:
            # NOTE: the process of this socket was killed, and its name is left over.
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._folder_fd)
        # NOTE: EAGAIN needs no action. The receiver has unread datagrams, and after
        #   these it reads all rows.

    def _on_readable(self) -> None:
        receiving = self._receiving
        newest = 0
        for _ in range(_MAX_DATAGRAMS):
            if receiving is None:
                return
            try:
                message = receiving.recv(16)
            except OSError:
                break
            if len(message) == _ID.size:
                newest = max(newest, _ID.unpack(message)[0])
        if newest:
            self._on_notification(newest)


def _new_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock
