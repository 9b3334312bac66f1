"""Asynchronous tests on a fake clock."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Coroutine
import functools
from typing import Any

from falcon_channels.testing import run_with_fake_clock


def on_fake_clock(
    test: Callable[..., Coroutine[Any, Any, None]],
) -> Callable[..., None]:
    """Decorate an asynchronous test so that it runs on a fake clock."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_with_fake_clock(test(*args, **kwargs))

    return run
