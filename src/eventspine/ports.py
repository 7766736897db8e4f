"""Whether an object that a user hands over is what a port asks for. Else it would be missed where it is first needed, which
may be in the background, long after it was given."""

from __future__ import annotations


def missing(given: object, port: type) -> list[str]:
    """Names of the port that it does not have, in the order of the port."""
    wanted = [*port.__annotations__, *(name for name in vars(port) if not name.startswith("_"))]
    return [name for name in wanted if not hasattr(given, name)]
