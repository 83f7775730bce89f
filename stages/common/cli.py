"""How every stage starts: a mistake that the user can mend is one line and exit code 1, never a traceback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from models.parts.errors import UserError


def run(main: Callable[[list[str]], None]) -> None:
    """Call `main` with the command line's arguments. Ctrl-C is one line too; what else is raised is our fault and keeps its
    traceback."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
