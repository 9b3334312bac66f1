"""The command ``falcon-channels``, run in the process of the test."""

from __future__ import annotations

import pytest

from falcon_channels.cli import main


class Shell:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def lines(self, *words: str) -> list[str]:
        """Return what a command that succeeds prints."""
        code = main(words)
        printed = self._capsys.readouterr()
        assert (0, '') == (code, printed.err)
        return printed.out.splitlines()

    def error(self, *words: str) -> str:
        """Return what a command that fails says."""
        code = main(words)
        printed = self._capsys.readouterr()
        assert (1, '') == (code, printed.out)
        assert printed.err.startswith('falcon-channels: ')
        assert 1 == len(printed.err.splitlines())
        return printed.err
