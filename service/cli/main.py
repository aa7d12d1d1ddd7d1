"""The entry point of the `carryout` command."""

import os
import sys

EXIT_INTERRUPTED = 130
"""The exit code of a program ended by Ctrl-C, as in shells."""


def main() -> None:
    """Exit with 2 if the options or the configuration are wrong, and with 1 after any other failure.

    Ctrl-C ends the command without output, even while modules are loading: so little is imported before the `try`.
    """
    _fill_standard_streams()
    try:
        from service.cli.commands import run  # noqa: PLC0415 (see above)

        sys.exit(run())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _fill_standard_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr /dev/null in its place: a socket would take the
    number, and be written to.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 (stderr)
        pass
    os.close(number)


if __name__ == "__main__":
    main()
