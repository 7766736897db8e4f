"""What the journal tests are made of: the material of the public suite."""

from __future__ import annotations

from eventspine.testing.conformance.journals.material import *  # noqa: F403
