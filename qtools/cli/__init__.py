"""The command line: one file per subcommand, found by its name, exposing COMMAND."""

from __future__ import annotations

import sys

from qtools.core import process, stop


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with an ExitStatus.

    Args:
        arguments: Words after `qtools`; None takes the process's own.
    """
    words = sys.argv[1:] if arguments is None else arguments
    process.run("qtools", lambda: _run(words), own=arguments is None, debug="--debug" in words)


def _run(words: list[str]) -> None:
    from qtools.cli._app import build

    with stop.heard():
        build()(words, prog_name="qtools", obj=tuple(words))
