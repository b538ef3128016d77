"""qtools demo: a page where a picture is answered by float network, simulation and artifact, side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Option = typer.Option

RunFolder = Annotated[Path, typer.Argument(help="The run folder.")]
Weights = Annotated[str, Option(help="The float weights, for a run on a file of your own.")]
Builder = Annotated[
    str, Option(help="package.module:function of the float network, for a run on a module of your own.")
]
Port = Annotated[int, Option(help="Port on this machine; 0 takes a free one.", min=0, max=65535)]
Quiet = Annotated[bool, Option("--no-open", help="Do not open a browser.")]
Debug = Annotated[bool, Option("--debug", help="Show the Python trace of an internal error.")]


def demo(
    run: RunFolder,
    weights: Weights = "",
    builder: Builder = "",
    port: Port = 0,
    no_open: Quiet = False,
    debug: Debug = False,
) -> None:
    """Serve a page, to this machine alone, where a dropped picture is answered by float, simulation and artifact.

    Where the run's web bundle has its runtime installed, the browser runs the artifact too. Ctrl-C ends it.

    Example: qtools demo runs/m1_1-reference-w8a8-tflite
    """
    from tempfile import TemporaryDirectory

    from qtools.cli._progress import Bars

    with TemporaryDirectory(prefix="qtools-demo-") as folder:
        with Bars() as bars:
            bars.stage("start")
            from qtools.pipeline.demo.page import DemoConfig, write
            from qtools.pipeline.demo.server import serve

            page = write(DemoConfig(run, weights, builder), Path(folder), bars)
            server = serve(Path(folder), page.answers, port)
            bars.stage("ready")
        address = f"http://{server.server_address[0]!s}:{server.server_address[1]}/"
        sys.stdout.write(f"page      {address}\n")
        if page.not_in_browser:
            sys.stdout.write(f"browser   does not run the artifact itself: {page.not_in_browser}\n")
        sys.stdout.flush()
        if not no_open:
            import webbrowser

            webbrowser.open(address)
        with server:
            server.serve_forever()


COMMAND = demo
