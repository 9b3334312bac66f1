"""The server of one process, and the parent of several workers."""

from __future__ import annotations

from collections.abc import Generator
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from weakref import WeakKeyDictionary
from weakref import WeakSet

from uvicorn.config import Config
from uvicorn.config import STARTUP_FAILURE
from uvicorn.server import Server
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process
from uvicorn.supervisors.multiprocess import SIGNALS

from falcon_channels.server.context import ServerContext
from falcon_channels.server.loggers import server_logger
from falcon_channels.server.sockets import SocketFile

#: Seconds between a failed start of a worker and the next attempt.
_RETRY_S = 2
#: Maximum time until the replacement of a worker is ready; the worker serves meanwhile.
_READY_TIMEOUT_S = 60
#: Time between two looks at a worker that starts or stops.
_LOOK_S = 0.1
#: Signals that stop the workers.
_STOPS = (signal.SIGINT, signal.SIGTERM)


class ChannelsServer(Server):
    """uvicorn's server: the first signal drains it, the second one ends it at once."""

    _first_signal: int | None = None
    _socket_file: SocketFile | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle SIGHUP, too, while the server runs.

        NOTE: A service manager that reloads, or a terminal that is closed, would end
        the process without a drain. If SIGHUP is ignored (``nohup``), it stays ignored.
        """
        in_thread = threading.current_thread() is not threading.main_thread()
        with super().capture_signals():
            if in_thread or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
                yield
                return
            before = signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, and listen."""
        uds = self.config.uds
        try:
            await super().startup(sockets)
        except OSError as ex:
            if uds is None:
                raise
            server_logger.error('cannot listen on the UNIX socket %r: %s', uds, ex)
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        if uds is not None and sockets is None:
            self._socket_file = SocketFile(uds)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin the drain, even if no client is connected, and stop.

        NOTE: a responder can still run although its client has left.
        """
        if self._socket_file is not None:
            self._socket_file.remove()
        ServerContext.begin_drain_of(
            self.config, self.server_state, self.lifespan.state
        )
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called with each signal: stop, or end at once.

        NOTE: Ctrl-C reaches a worker twice, as SIGINT from the terminal and as SIGTERM
        from its parent. In a worker, only a repetition of the same signal counts as the
        second one.

        NOTE: uvicorn does not end while the application starts or stops. Without a
        handler, the signal ends the process.
        """
        if self.should_exit and (
            not self.config.use_subprocess or sig == self._first_signal
        ):
            self.force_exit = True
            # A third signal needs no handler.
            signal.signal(sig, signal.SIG_DFL)
            if not self.started or getattr(self.lifespan, 'stopping', False):
                os.kill(os.getpid(), sig)
        if not self.should_exit:
            self._first_signal = sig
        self.should_exit = True


class Workers(Multiprocess):
    """uvicorn's worker processes; a second signal ends them at once.

    Args:
        config: The configuration.
        sockets: Listening sockets, which the workers share.

    Attributes:
        failed: Whether the workers have ended because none of them could start.
    """

    failed = False
    #: Whether a worker has been ready. If a later worker cannot start, the reason may
    #: be temporary.
    _served = False

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        #: Monotonic times at which workers that failed are started again.
        self._retry_at: WeakKeyDictionary[Process, float] = WeakKeyDictionary()
        #: Workers that have been ready.
        self._ready: WeakSet[Process] = WeakSet()
        #: Workers that stop while the others serve.
        self._retired: list[Process] = []

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have ended.

        NOTE: uvicorn ends all workers if a replacement cannot start, for example while
        the broker is unavailable. Here the other workers keep their connections.

        NOTE: if the application calls ``sys.exit``, or the process is killed while it
        starts, it has another exit code. uvicorn would start it without a pause.
        """
        for index, process in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            retry_at = self._retry_at.get(process)
            if retry_at is None:
                if process.is_alive(self.config.timeout_worker_healthcheck):
                    self._look_if_ready(process)
                    continue
                process.kill()  # it may hang
                process.join()
                if process.exitcode == STARTUP_FAILURE or process not in self._ready:
                    self._retry_later(process)
                    continue
                server_logger.info('Child process [%s] died', process.pid)
            elif time.monotonic() < retry_at:
                continue
            self.processes[index] = Process(self.config, self.sockets)
            self.processes[index].start()

    def _look_if_ready(self, process: Process) -> bool:
        """Return whether a worker is or has been ready."""
        if process not in self._ready:
            if not process.is_ready():
                return False
            self._ready.add(process)
            self._served = True
        return True

    def _retry_later(self, process: Process) -> None:
        """Schedule another start of a worker that could not start, or give up."""
        pid, code = process.pid, process.exitcode or 0
        others_serve = self._served and any(
            item.process.is_alive() for item in self.processes
        )
        if others_serve or code < 0:
            # NOTE: a signal may also kill a worker between its start and the look that
            #   finds it ready.
            reason = 'died' if code < 0 else 'failed to start'
            self._retry_at[process] = time.monotonic() + _RETRY_S
            server_logger.error(
                'Child process [%s] %s; retrying in %d s', pid, reason, _RETRY_S
            )
            return
        server_logger.error(
            'Child process [%s] failed to start, stopping the parent process.', pid
        )
        self.failed = True
        self.should_exit.set()

    def restart_all(self) -> None:
        """Replace the workers one by one, until a signal stops them.

        NOTE: uvicorn handles no signal meanwhile, and gives a new worker 5 s to start.
        A worker that drains could delay the stop by minutes.
        """
        for index in range(len(self.processes)):
            new = Process(self.config, self.sockets)
            new.start()
            if not self._wait_until_ready(new):
                new.kill()
                new.join()
                if not self.should_exit.is_set():
                    server_logger.error(
                        'The new child process [%s] is not ready; the others stay',
                        new.pid,
                    )
                return
            old, self.processes[index] = self.processes[index], new
            self._retire(old)
            while old.process.is_alive() and not self._must_stop():
                time.sleep(_LOOK_S)
            if self.should_exit.is_set():
                return

    def handle_ttou(self) -> None:
        """Called at SIGTTOU: stop one worker, unless it is the last one.

        NOTE: uvicorn handles no signal until that worker has ended.
        """
        if self.processes_num > 1:
            self.processes_num -= 1
            self._retire(self.processes.pop())
        else:
            super().handle_ttou()

    def _retire(self, process: Process) -> None:
        """Stop a worker, and do not wait for it."""
        process.terminate()
        self._retired = [item for item in self._retired if item.process.is_alive()]
        self._retired.append(process)

    def _wait_until_ready(self, process: Process) -> bool:
        """Wait for a new worker; return False if it ends, or if the workers stop."""
        give_up_at = time.monotonic() + _READY_TIMEOUT_S
        while not self._must_stop() and time.monotonic() < give_up_at:
            if not process.process.is_alive():
                return False
            if self._look_if_ready(process):
                return True
            time.sleep(_LOOK_S)
        return False

    def handle_signals(self) -> None:
        """Handle the signals that have arrived, one by one.

        NOTE: uvicorn goes through a copy of the queue. It would fail at a signal that a
        restart has handled meanwhile; see `_must_stop`.

        NOTE: while the workers stop, no signal may start or stop one. Nothing would
        stop a new worker, and the parent would wait for it for ever.
        """
        while self.signal_queue:
            number = self.signal_queue.pop(0)
            if self.should_exit.is_set() and number not in _STOPS:
                continue
            handle = getattr(self, f'handle_{SIGNALS[number].lower()}', None)
            if handle is not None:
                handle()

    def _must_stop(self) -> bool:
        """Handle the signals that stop the workers, and keep the workers alive."""
        for number in _STOPS:
            while number in self.signal_queue:
                self.signal_queue.remove(number)
                self._stop()
        self.keep_subprocess_alive()
        return self.should_exit.is_set()

    def handle_int(self) -> None:
        """Called at SIGINT: stop, or end at once."""
        self._stop()

    def handle_term(self) -> None:
        """Called at SIGTERM: stop, or end at once."""
        self._stop()

    def _stop(self) -> None:
        if self.should_exit.is_set():
            for process in self._all():
                process.process.kill()
        self.should_exit.set()

    def _all(self) -> list[Process]:
        """Return all workers, also those that stop."""
        return self.processes + self._retired

    def join_all(self) -> None:
        """Wait until the workers have ended; handle a second signal meanwhile."""
        while any(process.process.is_alive() for process in self._all()):
            time.sleep(0.05)
            self.handle_signals()
        super().join_all()
