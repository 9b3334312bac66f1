"""Check that the checkout is ready to be released as the version of a tag.

    python scripts/check_release.py v0.1.0

See docs/releasing.md.
"""

from __future__ import annotations

from pathlib import Path
import re
import sys
import tomllib

ROOT = Path(__file__).resolve().parents[1]


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """Return what prevents a release, one sentence each.

    Args:
        tag: Name of the tag.
        root: Folder of the project.
    """
    found = []
    version = tomllib.loads((root / 'pyproject.toml').read_text())['project']['version']
    if not re.fullmatch(r'\d+\.\d+\.\d+((a|b|rc)\d+)?', version):
        found.append(f'version {version} of pyproject.toml is not one to publish')
    if tag != f'v{version}':
        found.append(f'the tag is {tag}, but pyproject.toml has version {version}')
    headings = re.findall(
        r'^## (.*)$', (root / 'CHANGELOG.md').read_text(), re.MULTILINE
    )
    dated = rf'{re.escape(version)} \(\d{{4}}-\d{{2}}-\d{{2}}\)'
    if not any(re.fullmatch(dated, heading) for heading in headings):
        found.append(f'CHANGELOG.md has no heading "## {version} (YYYY-MM-DD)"')
    return found


def main() -> None:
    """Run the command."""
    if len(sys.argv) != 2:
        sys.exit('usage: python scripts/check_release.py TAG')
    if found := problems(sys.argv[1]):
        sys.exit('\n'.join(found))
    print(f'{sys.argv[1]} can be released')


if __name__ == '__main__':
    main()
