"""Each mutant replaces code that exists."""

from __future__ import annotations

import pytest

from simulation.mutants import PACKAGE
from simulation.mutations import Mutant
from simulation.mutations import MUTANTS


@pytest.mark.parametrize('mutant', MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_pattern_is_in_its_module(mutant: Mutant) -> None:
    """The text that a mutant replaces exists in the module that it names."""
    assert mutant.old in (PACKAGE / mutant.module).read_text()
