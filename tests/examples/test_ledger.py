"""The ledger's demo, on some thousand of its orders; and that it would say so if a figure were wrong."""

from __future__ import annotations

import pytest

from examples.ledger import __main__ as demo
from tests.servers import needed


@pytest.mark.parametrize("journal", ["sqlite", "postgres"])
async def test_every_figure_is_that_of_the_file(capsys, journal):
    if journal == "postgres":
        needed("postgres")
    await demo.main(demo.ORDERS, 2000, 100, journal)
    told = capsys.readouterr().out.splitlines()
    assert 6 == sum(line.startswith("right ") for line in told)


def test_a_figure_that_is_wrong_ends_it(capsys):
    with pytest.raises(SystemExit, match="WRONG  the sum: the file says 3, and the journal 2"):
        demo.check("the sum", 3, 2)


async def test_the_look_back_finds_a_state_that_is_not_that_of_the_file(tmp_path):
    from eventspine import Spine

    book = demo.read(demo.ORDERS, 50)
    async with Spine(f"sqlite:///{tmp_path}/ledger.db", service=demo.release_1()) as spine:
        await demo.write(spine, book)
        assert 0 == await demo.look_back(spine, book, 100)
        for orders in book.values():
            orders[0] = orders[0]._replace(cents=orders[0].cents + 1)
        assert await demo.look_back(spine, book, 100)
