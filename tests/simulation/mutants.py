"""Break the hub on purpose, and see whether anything notices.

``make mutants`` copies the package, makes one defect of `mutations` at a time, and runs
what has to notice it: the simulation until a world fails, or the tests that the defect
names. A defect that survives shows a promise that nothing checks; where its place is
no longer in the code, it survives as well. ``make mutants NAME=words`` makes
those whose name has these words.
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
#: A defect that hangs is noticed as well.
TIMEOUT_S = 300.0


def mutated(mutant: Mutant, folder: Path) -> bool:
    """Write the package with a defect; return whether the defect has its place."""
    package = folder / 'falcon_channels'
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns('__pycache__'))
    path = package / mutant.module
    text = path.read_text()
    path.write_text(text.replace(mutant.old, mutant.new, 1))
    return mutant.old in text


def command(mutant: Mutant, seeds: int) -> list[str]:
    """Return what has to fail."""
    if mutant.tests:
        pytest = ['pytest', '-q', '-x', '-n', '0', '-p', 'no:cacheprovider']
        pytest.append('--hypothesis-seed=0')
        return [sys.executable, '-m', *pytest, *mutant.tests.split()]
    return [sys.executable, '-m', 'simulation', '--seeds', str(seeds), '--one']


def noticed_by(mutant: Mutant, seeds: int) -> str:
    """Return what notices a defect; ``''`` where it survives."""
    with tempfile.TemporaryDirectory() as folder:
        if not mutated(mutant, Path(folder)):
            print(f'{mutant.module} no longer has {mutant.old!r}')
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
            return 'it hangs'
    if result.returncode == 0:
        return ''
    said = re.search(r'seed \d+|^(?:FAILED|ERROR) \S+', result.stdout, re.MULTILINE)
    if said is None:
        # NOTE: nothing has noticed anything where nothing has run.
        print(result.stdout[-2000:], result.stderr[-2000:])
        return ''
    return said[0].rpartition('/')[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of the defects; return 1 where one survives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name', nargs='*', help='only those with these words')
    parser.add_argument('--seeds', type=int, default=1500, help='worlds for each')
    args = parser.parse_args(arguments)
    wanted = [m for m in MUTANTS if ' '.join(args.name) in m.name]
    survivors = 0
    start_s = time.monotonic()
    for number, mutant in enumerate(wanted, 1):
        by = noticed_by(mutant, args.seeds)
        survivors += not by
        print(f'{number:3}  {mutant.name:60}  {by or "SURVIVES"}', flush=True)
    minutes = (time.monotonic() - start_s) / 60
    print(f'{len(wanted)} defects in {minutes:.1f} minutes, {survivors} survive')
    return 1 if survivors or not wanted else 0


if __name__ == '__main__':
    sys.exit(main())
