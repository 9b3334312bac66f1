"""Readable failures of the contract's assertions."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite('falcon_channels.testing')
