"""Release 2 as a process of its own: `spine run examples.ledger.second`. The demo kills it while it builds version 2."""

from __future__ import annotations

from .views import release_2

ledger = release_2()
