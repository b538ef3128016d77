"""Assembles the subcommands. Imports typer only, so that --help is quick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from qtools import __version__
from qtools.core import plugins

EXAMPLE = "Example: qtools quantize m1_1 --bits 8 --target tflite"


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"qtools {__version__}")
        raise typer.Exit


# Eager, with a callback of its own: it answers before a missing command is complained about.
Version = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
]


def build() -> Callable[..., Any]:
    """The click command behind `qtools`."""
    app = typer.Typer(
        help=f"Quantize trained hybrid CNN/ViT models for phones, and say what was lost.\n\n{EXAMPLE}",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(version: Version = False) -> None:
        pass

    for name in plugins.names("qtools.cli"):
        command = plugins.find("qtools.cli", name, "COMMAND")
        app.command(name, no_args_is_help=name == "quantize")(command)
    return typer.main.get_command(app)
