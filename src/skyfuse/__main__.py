"""The program: it listens for Ctrl-C before the command line is loaded, which takes a moment."""

from __future__ import annotations

from skyfuse import stop


def main() -> None:
    """Run the command line; see `skyfuse.cli.main`."""
    try:
        stop.listen()
        from skyfuse.cli import main as run
    except BaseException:
        # An import that is interrupted may raise anything.
        code = stop.code()
        if code is None:
            raise
        stop.end(code)
    run()


if __name__ == "__main__":
    main()
