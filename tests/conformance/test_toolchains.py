"""Messages of the tests if a toolchain is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import toolchains


def make_command(folder: Path, name: str, output: str) -> None:
    """Create a command that prints a text."""
    command = folder / name
    command.write_text(f'#!/bin/sh\necho {output}\n')
    command.chmod(0o755)


@pytest.mark.parametrize(
    ('output', 'expected'),
    [
        (None, 'no command go: install Go 1.25 or newer'),
        (
            'go1.19.8',
            'the command go has the version go1.19.8: install Go 1.25 or newer',
        ),
        ('go1.25.0', None),
        ('go2.0', None),
    ],
)
def test_missing_or_old_go_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    output: str | None,
    expected: str | None,
) -> None:
    """The reason of a skipped test says what to install."""
    monkeypatch.setenv('PATH', str(tmp_path))
    if output:
        make_command(tmp_path, 'go', output)
    assert expected == toolchains.missing_for_go()


@pytest.mark.parametrize(
    ('commands', 'expected'),
    [
        ({}, 'no command java: install a JDK 11 or newer, and Maven'),
        ({'java': ''}, 'no command javac: install a JDK 11 or newer, and Maven'),
        (
            {'java': '', 'javac': 'javac 17.0.15'},
            'no command mvn: install a JDK 11 or newer, and Maven',
        ),
        (
            {'java': '', 'javac': 'javac 1.8.0', 'mvn': ''},
            (
                'the command javac has the version javac 1.8.0: '
                'install a JDK 11 or newer, and Maven'
            ),
        ),
    ],
)
def test_missing_or_old_java_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    commands: dict[str, str],
    expected: str,
) -> None:
    """The reason of a skipped test says what to install."""
    monkeypatch.setenv('PATH', str(tmp_path))
    for name, output in commands.items():
        make_command(tmp_path, name, output)
    debian = ' (Debian: apt-get install default-jdk-headless maven)'
    assert expected + debian == toolchains.missing_for_java()


def test_complete_java_lacks_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With Java, its compiler and Maven, the tests of the Java SDK run."""
    monkeypatch.setenv('PATH', str(tmp_path))
    for name in ('java', 'mvn'):
        make_command(tmp_path, name, '')
    make_command(tmp_path, 'javac', 'javac 17.0.15')
    assert toolchains.missing_for_java() is None
