"""The page of a run, served to this machine alone.

Only files of the bundle are given out, and only to a browser that asks for this machine by its own name: a page from
elsewhere that resolves its name to here (DNS rebinding) is refused.
"""

from __future__ import annotations

import json
import mimetypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from qtools.core import files
from qtools.core.errors import InputError, QtoolsError
from qtools.pipeline.demo.answers import Answer, Answering

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
LARGEST = 200_000_000
"""Bytes of a picture that is taken: 66 megapixels."""
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
Asked = Callable[[np.ndarray, int], Answer]
"""A picture, and which way of answering it is meant; its errors are the answer."""


class Later:
    """Ways of answering that are made ready, one after the other, while the page is already open.

    Args:
        makers: Each makes one; its error is the answer to every picture.
    """

    def __init__(self, makers: Sequence[Callable[[], Answering]]) -> None:
        self._ways: list[Future[Answering]] = [Future() for _ in makers]
        self._lock = threading.Lock()
        threading.Thread(target=self._fill, args=(makers,), daemon=True).start()

    def _fill(self, makers: Sequence[Callable[[], Answering]]) -> None:
        for way, make in zip(self._ways, makers, strict=True):
            try:
                way.set_result(make())
            except QtoolsError as error:
                way.set_exception(error)
            except BaseException:
                way.set_exception(InputError("the run could not be opened", "see the terminal"))
                raise

    def __call__(self, picture: np.ndarray, way: int) -> Answer:
        """Waits until that way is ready; one picture at a time.

        Raises:
            QtoolsError: What making it ready ended in, or there is no such way.
        """
        if not 0 <= way < len(self._ways):
            raise InputError(f"there is no way {way} of answering", f"ask for 0 to {len(self._ways) - 1}")
        compute = self._ways[way].result()
        with self._lock:
            return compute(picture)


def serve(folder: Path, answering: Asked, port: int) -> ThreadingHTTPServer:
    """Binds the page to a port; the caller runs and closes it.

    Args:
        folder: What is given out.
        answering: What POST /answers asks.
        port: 0 takes a free one.

    Raises:
        InputError: If the port is taken.
    """

    class Handler(_Handler):
        root, answers = folder.resolve(), staticmethod(answering)

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise InputError(f"port {port} cannot be used: {error.strerror}", "choose another --port, or 0") from error


class _Handler(BaseHTTPRequestHandler):
    root: Path
    answers: Asked
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A file of the bundle."""
        if not self._from_here():
            return
        asked = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
        path = (self.root / asked).resolve()
        inside = path.is_relative_to(self.root) or path.is_relative_to((self.root / "node_modules").resolve())
        if not inside or not path.is_file():
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"not here\n")
            return
        kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self._send(HTTPStatus.OK, kind, files.read_bytes(path))

    def do_POST(self) -> None:
        """A picture: rows of RGB; in the query its sides, and which way of answering is asked."""
        if not self._from_here():
            return
        try:
            picture, way = self._picture()
        except (ValueError, KeyError) as error:
            self.close_connection = True
            self._send(HTTPStatus.BAD_REQUEST, "text/plain", f"{error}\n".encode())
            return
        try:
            body = files.to_json({"answer": type(self).answers(picture, way)})
        except QtoolsError as error:
            body = json.dumps({"error": str(error)})
        self._send(HTTPStatus.OK, "application/json", body.encode())

    def _picture(self) -> tuple[np.ndarray, int]:
        url = urlsplit(self.path)
        if url.path != "/answers":
            raise ValueError("only /answers takes pictures")
        said = dict(part.split("=", 1) for part in url.query.split("&"))
        width, height, length = int(said["width"]), int(said["height"]), int(self.headers["Content-Length"] or 0)
        if min(width, height) < 1 or length != 3 * width * height or length > LARGEST:
            raise ValueError(f"a picture has 3 x width x height bytes, at most {LARGEST}")
        way = int(said["way"])
        return np.frombuffer(self.rfile.read(length), np.uint8).reshape(height, width, 3), way

    def _from_here(self) -> bool:
        name = (self.headers["Host"] or "").rpartition(":")[0] or self.headers["Host"]
        if name in NAMES:
            return True
        self.close_connection = True
        self._send(HTTPStatus.FORBIDDEN, "text/plain", b"ask for 127.0.0.1\n")
        return False

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Silent: the terminal has the address, and that is enough."""
