"""The command `falcon-channels new`: the files that it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path
import re
import subprocess
import sys

import pytest
from support.processes import ROOT

from falcon_channels.cli import main

FILES = {
    '.dockerignore',
    '.gitignore',
    'Dockerfile',
    'README.md',
    'app.py',
    'conftest.py',
    'pytest.ini',
    'requirements.txt',
    'static/icon.svg',
    'static/index.html',
    'static/messages.js',
    'static/style.css',
    'test_app.py',
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written_files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()
    }


def test_new_writes_all_files_of_an_app(capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes the app, names it, and prints how to serve it."""
    assert 0 == main(['new', 'my-app_2'])
    folder = Path('my-app_2')
    assert FILES == written_files(folder)
    for name in FILES:
        assert '{{' not in (folder / name).read_text(), name
    assert '<title>my-app_2</title>' in (folder / 'static/index.html').read_text()
    printed = capsys.readouterr().out.splitlines()
    assert ['  cd my-app_2', '  falcon-channels serve app:app --reload'] == printed[1:]


@pytest.mark.parametrize('kind', ['file', 'folder', 'full folder', 'broken link'])
def test_new_with_a_name_that_exists_changes_nothing(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """If the name exists, the command exits with 1 and changes nothing."""
    place = empty_folder / 'myapp'
    if kind == 'file':
        place.write_text('mine')
    elif kind == 'broken link':
        place.symlink_to('nowhere')
    else:
        place.mkdir()
        if kind == 'full folder':
            (place / 'app.py').write_text('mine')
    before = written_files(empty_folder)
    assert 1 == main(['new', 'myapp'])
    printed = capsys.readouterr()
    assert ('', 1) == (printed.out, len(printed.err.splitlines()))
    assert 'myapp exists already' in printed.err
    assert before == written_files(empty_folder)
    assert not before or 'mine' == (empty_folder / before.pop()).read_text()


@pytest.mark.parametrize(
    'name',
    ['', '.', '..', 'MyApp', 'my app', '2fast', '-x', 'a/b', '../up', 'é', 'a' * 51],
)
def test_new_with_a_name_that_is_not_allowed_creates_nothing(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A name that an image could not have is refused, and the error gives the rule."""
    with pytest.raises(SystemExit) as caught:
        main(['new', '--', name])
    assert 2 == caught.value.code
    assert f'{name!r} cannot be the name of an app; use 1 to 50 lower-case' in (
        capsys.readouterr().err
    )
    assert set() == written_files(empty_folder)


def test_new_in_a_folder_without_write_permission_reports_the_reason(
    empty_folder: Path,
) -> None:
    """A folder that cannot be created is reported without a traceback."""
    # NOTE: root may write everywhere, but nobody can create a folder in /proc.
    result = subprocess.run(
        [Path(sys.executable).with_name('falcon-channels'), 'new', 'myapp'],
        cwd='/proc',
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (1, '') == (result.returncode, result.stdout)
    assert result.stderr.startswith('falcon-channels: cannot create myapp: ')
    assert 1 == len(result.stderr.splitlines())


def test_new_app_passes_the_checks_of_this_repository(empty_folder: Path) -> None:
    """The Python files of a new app have the format of this repository."""
    assert 0 == main(['new', 'myapp'])
    config = ['--config', str(ROOT / 'pyproject.toml')]
    # For an app, our package is one of other people.
    config += ['--config', 'lint.isort.known-first-party = ["app"]']
    for command in (['format', '--check'], ['check']):
        result = subprocess.run(
            [sys.executable, '-m', 'ruff', *command, *config, '--no-cache', '.'],
            cwd='myapp',
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert 0 == result.returncode, result.stdout


def test_every_command_is_described_on_the_page_of_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """docs/commands.md describes each command of `falcon-channels --help`."""
    with pytest.raises(SystemExit):
        main(['--help'])
    rows = re.findall(
        r'^    ([a-z]+)(?:  +[a-z]|$)', capsys.readouterr().out, re.MULTILINE
    )
    assert {'new', 'serve', 'publish'} <= {*rows}
    page = (ROOT / 'docs' / 'commands.md').read_text()
    described = re.findall(r'falcon-channels ([a-z]+)', page)
    described += re.findall(r'`([a-z]+)`', page)
    assert set() == {*rows} - {*described}
    shown = re.findall(r'^(?:\w.*\| )?falcon-channels ([a-z]+)', page, re.MULTILINE)
    assert set() == {*shown} - {*rows}
