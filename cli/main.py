"""The entry point of the command line: runs a verb, turns errors into a message and an exit code."""

from __future__ import annotations

import os
import sys

from ..core.errors import ConfigError, TransportError

_CONFIG_EXIT, _TRANSPORT_EXIT, _INTERRUPTED_EXIT = 2, 1, 130


def main() -> None:
    """Run the command line; the exit code is 0, 1 for a failure and 2 for a wrong configuration."""
    # A worker is one loop; the threads of numpy's linear algebra would only wait for it, busily.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from .commands import app

        code = app(result_action="return_value")
    except ConfigError as error:
        print(f"tocsin: {error}", file=sys.stderr)
        code = _CONFIG_EXIT
    except TransportError as error:
        print(f"tocsin: {error}", file=sys.stderr)
        code = _TRANSPORT_EXIT
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tocsin"):
            raise
        print(
            f"{error.name} is not installed: pip install 'tocsin[worker]' for the command line, "
            "'tocsin[all]' for everything",
            file=sys.stderr,
        )
        code = _CONFIG_EXIT
    except KeyboardInterrupt:
        code = _INTERRUPTED_EXIT
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
