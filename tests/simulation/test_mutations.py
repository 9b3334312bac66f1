"""Each mutant replaces code that stands in one place only."""

from __future__ import annotations

import pytest

from simulation.mutants import PACKAGE
from simulation.mutations import Mutant
from simulation.mutations import MUTANTS


@pytest.mark.parametrize('mutant', MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_pattern_is_in_its_module_once(mutant: Mutant) -> None:
    """A text that stands twice would be replaced in another place than is meant."""
    assert 1 == (PACKAGE / mutant.module).read_text().count(mutant.old)
