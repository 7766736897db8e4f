"""R7: one SQLite in a process, and nobody else there who opens the file: closing any descriptor of it drops the locks
by which other processes know that it is in use."""

from __future__ import annotations

import pytest

from .harness import Place


@pytest.mark.parametrize(("without", "lost"), [([], False), (["one-sqlite", "log-watch"], True)])
def test_r7_one_more_open_and_close_of_the_file_loses_what_was_acknowledged(
    place: Place, without: list[str], lost: bool
) -> None:
    publisher = place.start("publish", "--without", *without).ready()
    place.receipts(30)
    assert 0 == place.start("publish", "--keys", 1, "--count", 1, name="passing").end()  # as the last one, it thinks
    place.receipts(60)
    publisher.kill()
    place.start("consume")
    place.settle()

    assert lost == bool(place.reckon().unstored)
