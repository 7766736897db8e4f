from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventspine.testing.simulate.loop import sweep


@pytest.fixture(autouse=True)
def nothing_is_left_of_histories() -> Iterator[None]:
    """Their garbage is not collected in the middle of other tests."""
    yield
    sweep()
