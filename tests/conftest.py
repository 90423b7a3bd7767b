"""For all tests: they hear what a person at the terminal would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from glint.progress import speaking


@pytest.fixture(autouse=True, scope="session")
def _speaking() -> Iterator[None]:
    with speaking():
        yield
