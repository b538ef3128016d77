"""The command line: one file per subcommand, found by its name, exposing COMMAND."""

from __future__ import annotations

import sys

from qtools.cli import _stop
from qtools.core.errors import ExitStatus, QtoolsError


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with an ExitStatus.

    Args:
        arguments: Words after `qtools`; None takes the process's own.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if arguments is None:
        _stop.listen()
    try:
        _run(words)
    except QtoolsError as error:
        _say(f"error: {error}")
        sys.exit(error.exit_status)
    except SystemExit as end:  # typer turns a KeyboardInterrupt into one too
        if end.code in _stop.EXIT_CODES.values():
            _say("interrupted; nothing was left behind")
        raise
    except Exception as error:  # broad: the last line of defence turns a bug into one exit code
        if "--debug" in words:
            raise
        _say(f"internal error: {type(error).__name__}: {error}\n  next: run again with --debug, and report the trace")
        sys.exit(ExitStatus.INTERNAL)


def _run(words: list[str]) -> None:
    from qtools.cli._app import build

    try:
        build()(words, prog_name="qtools", obj=tuple(words))
    except Exception:
        _stop.check()  # an SDK may make an error of its own out of Ctrl-C
        raise


def _say(text: str) -> None:
    # a message may quote a foreign file, and no name in one may move the cursor
    shown = "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    sys.stderr.write(f"qtools: {shown}\n")
