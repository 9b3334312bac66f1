"""Counts the work that the library does in each turn of an event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
import sys
from types import FrameType
from types import TracebackType
from typing import Any

import falcon_channels

_SOURCE = str(Path(falcon_channels.__file__).parent)


class LoopTurns:
    """Counts bytecodes of the library, while it is entered.

    The number of bytecodes does not depend on the speed of the machine.

    Attributes:
        longest: Largest number of bytecodes of the library in one turn.
    """

    def __init__(self) -> None:
        self.longest = 0
        self._count = 0
        self._entered = False

    def __enter__(self) -> LoopTurns:
        self._entered = True
        self._before = sys.gettrace()
        self._tick()
        self.longest = 0
        sys.settrace(self._trace_call)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sys.settrace(self._before)
        self._entered = False
        self.longest = max(self.longest, self._count)

    def _tick(self) -> None:
        self.longest = max(self.longest, self._count)
        self._count = 0
        if self._entered:
            asyncio.get_running_loop().call_soon(self._tick)

    def _trace_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_SOURCE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._trace_opcode

    def _trace_opcode(self, frame: FrameType, event: str, argument: Any) -> Any:
        self._count += event == 'opcode'
        return self._trace_opcode
