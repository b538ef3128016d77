"""The command line: one file per subcommand, found by its name, exposing COMMAND."""

from __future__ import annotations

import sys

from qtools.core.errors import ExitStatus, QtoolsError


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with an ExitStatus.

    Args:
        arguments: Words after `qtools`; None takes the process's own.
    """
    from qtools.cli._app import build

    words = sys.argv[1:] if arguments is None else arguments
    try:
        build()(words, prog_name="qtools")
    except QtoolsError as error:
        _say(f"error: {error}")
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        _say("interrupted; nothing was left behind")
        sys.exit(ExitStatus.INTERRUPTED)
    except Exception as error:  # broad: the last line of defence turns a bug into one exit code
        if "--debug" in words:
            raise
        _say(f"internal error: {type(error).__name__}: {error}\n  next: run again with --debug, and report the trace")
        sys.exit(ExitStatus.INTERNAL)


def _say(text: str) -> None:
    sys.stderr.write(f"qtools: {text}\n")
