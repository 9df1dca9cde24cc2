"""The entry point of the command line: runs a verb, turns errors into a message and an exit code."""

from __future__ import annotations

import os
import select
import sys

from ..core.errors import ConfigError, StateError, TransportError

_CONFIG_EXIT, _TRANSPORT_EXIT, _STATE_EXIT, _INTERRUPTED_EXIT = 2, 1, 1, 130
_UNREAD_EXIT = 141  # as shells have it of tools that SIGPIPE ended


def main() -> None:
    """Run the command line; the exit code is 0, 1 for a failure and 2 for a wrong configuration."""
    # A worker is one loop; the threads of numpy's linear algebra would only wait for it, busily.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from .commands import app

        code = app(result_action="return_value")
        sys.stdout.flush()
    except ConfigError as error:
        print(f"tocsin: {error}", file=sys.stderr)
        code = _CONFIG_EXIT
    except TransportError as error:
        print(f"tocsin: {error}", file=sys.stderr)
        code = _TRANSPORT_EXIT
    except StateError as error:
        print(f"tocsin: unreadable: {error}", file=sys.stderr)
        code = _STATE_EXIT
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tocsin"):
            raise
        print(
            f"{error.name} is not installed: pip install 'tocsin[worker]' for the command line, "
            "'tocsin[all]' for everything",
            file=sys.stderr,
        )
        code = _CONFIG_EXIT
    except BrokenPipeError:
        if not _is_unread():
            raise
        code = _UNREAD_EXIT
    except KeyboardInterrupt:
        code = _INTERRUPTED_EXIT
    sys.exit(code if isinstance(code, int) else 0)


def _is_unread() -> bool:
    """Return whether it is what is printed that nobody reads, as behind `| head`; if so, print no more."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not output.poll(0):
        return False
    # Python flushes what is left at its exit, and would say that it cannot.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


if __name__ == "__main__":
    main()
