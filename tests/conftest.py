"""For all tests: they hear what a person at the terminal would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from glint.progress import speaking

# How fast examples come says how busy the machine is, and nothing about glint.
settings.register_profile("glint", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("glint")


@pytest.fixture(autouse=True, scope="session")
def _speaking() -> Iterator[None]:
    with speaking():
        yield
