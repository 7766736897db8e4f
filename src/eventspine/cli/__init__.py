"""The command line, `spine`. It talks to a journal as any process does and keeps nothing of its own.

Subcommands are modules of this package, imported when they are asked for: `spine --help` loads none of them.
"""

from __future__ import annotations

import sys


def main() -> None:
    from .app import spine

    spine.main(sys.argv[1:], prog_name="spine")
