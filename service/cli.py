"""Where the `carryout` command begins and ends."""

import sys

EXIT_INTERRUPTED = 130
"""What shells say of a program ended by Ctrl-C."""


def main() -> None:
    """Exit 2 where the options or the configuration are wrong, 1 where something else is.

    Ctrl-C ends it without a word, also while modules are loaded: hence none but `sys` before the `try`.
    """
    try:
        from service.commands import run  # noqa: PLC0415 (see above)

        sys.exit(run())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
