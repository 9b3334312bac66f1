"""Break the package on purpose, and check that a test notices it.

``make mutants`` copies the package and applies one mutant of `mutations` at a time.
Then it runs the tests that the mutant names, or else the simulation until a seed fails.
If nothing fails, the mutant survives: nothing checks the rule that it breaks. A mutant
whose pattern is no longer in the code survives as well. ``make mutants NAME=words``
applies only the mutants whose name contains the words.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tempfile
import time

from simulation.mutations import Mutant
from simulation.mutations import MUTANTS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / 'src' / 'falcon_channels'
#: Seconds after which a mutant that hangs counts as noticed.
TIMEOUT_S = 300.0


def mutated(mutant: Mutant, folder: Path) -> bool:
    """Write the package with a mutant; return whether its pattern is there once."""
    package = folder / 'falcon_channels'
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns('__pycache__'))
    path = package / mutant.module
    text = path.read_text()
    path.write_text(text.replace(mutant.old, mutant.new))
    return text.count(mutant.old) == 1


def command(mutant: Mutant, seeds: int) -> list[str]:
    """Return the command that has to fail."""
    if mutant.tests:
        pytest = ['pytest', '-q', '-x', '-n', '0', '-p', 'no:cacheprovider']
        pytest.append('--hypothesis-seed=0')
        return [sys.executable, '-m', *pytest, *mutant.tests.split()]
    return [sys.executable, '-m', 'simulation', '--seeds', str(seeds), '--one']


def noticed_by(mutant: Mutant, seeds: int) -> str:
    """Return the test or seed that failed; ``''`` if the mutant survived."""
    with tempfile.TemporaryDirectory() as folder:
        if not mutated(mutant, Path(folder)):
            print(f'{mutant.module} does not contain this once: {mutant.old!r}')
            return ''
        try:
            result = subprocess.run(
                command(mutant, seeds),
                cwd=ROOT if mutant.tests else ROOT / 'tests',
                env={**os.environ, 'PYTHONPATH': folder},
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 'timeout'
    if result.returncode == 0:
        return ''
    failed = re.search(r'seed \d+|^(?:FAILED|ERROR) \S+', result.stdout, re.MULTILINE)
    if failed is None:
        # NOTE: the command failed before any test ran. That notices nothing.
        print(result.stdout[-2000:], result.stderr[-2000:])
        return ''
    return failed[0].rpartition('/')[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of the mutants; return 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name', nargs='*', help='only mutants with these words')
    parser.add_argument(
        '--seeds', type=int, default=1500, help='simulations for each mutant'
    )
    args = parser.parse_args(arguments)
    wanted = [m for m in MUTANTS if ' '.join(args.name) in m.name]
    survivors = 0
    start_s = time.monotonic()
    for number, mutant in enumerate(wanted, 1):
        by = noticed_by(mutant, args.seeds)
        survivors += not by
        print(f'{number:3}  {mutant.name:60}  {by or "SURVIVES"}', flush=True)
    minutes = (time.monotonic() - start_s) / 60
    print(f'{len(wanted)} mutants in {minutes:.1f} minutes, {survivors} survive')
    return 1 if survivors or not wanted else 0


if __name__ == '__main__':
    sys.exit(main())
