"""``falcon-channels new myapp``: writes a small app that runs at once."""

from __future__ import annotations

import argparse
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
import re
import shutil

from falcon_channels.commands import client

_NAME = re.compile(r'[a-z][a-z0-9_-]{0,49}')
_SUFFIX = '.template'
_PLACEHOLDER = '{{name}}'

#: Names of files that begin with a dot. Their templates do not, because tools would
#: apply them to the source of this package.
_DOT_FILES = {'gitignore', 'dockerignore'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        'name', type=_app_name, help='name of the app, and of the folder to create'
    )


def new(args: argparse.Namespace) -> int:
    """Create the app in a new folder; return the exit code."""
    return client.run(lambda: _new(args.name))


def _app_name(text: str) -> str:
    # NOTE: the name is also the name of an image, which has no capital letters.
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f'{text!r} cannot be the name of an app; use 1 to 50 lower-case letters, '
            'digits, - and _, and begin with a letter, such as my-app'
        )
    return text


def _new(name: str) -> None:
    folder = Path(name)
    try:
        folder.mkdir()
    except FileExistsError:
        raise client.CommandError(
            f'{name} exists already, and nothing was changed; choose another name'
        ) from None
    except OSError as ex:
        raise client.CommandError(f'cannot create {name}: {ex.strerror}') from None
    try:
        _write(files('falcon_channels.commands') / 'starter', folder, name)
    except BaseException as ex:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(ex, OSError):
            raise client.CommandError(f'cannot write {name}: {ex.strerror}') from None
        raise
    client.show_line(f'Created {name}. To serve it at http://127.0.0.1:8000/:')
    client.show_line(f'  cd {name}')
    client.show_line('  falcon-channels serve app:app --reload')


def _write(source: Traversable, folder: Path, name: str) -> None:
    """Write all templates of `source` and of its folders into `folder`."""
    for item in source.iterdir():
        if item.is_dir():
            (folder / item.name).mkdir()
            _write(item, folder / item.name, name)
        elif item.name.endswith(_SUFFIX):
            target = item.name.removesuffix(_SUFFIX)
            if target in _DOT_FILES:
                target = f'.{target}'
            text = item.read_text(encoding='utf-8').replace(_PLACEHOLDER, name)
            (folder / target).write_text(text, encoding='utf-8')
