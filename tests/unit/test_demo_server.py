"""The page's server: files of the bundle, pictures answered, and nothing for anybody else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest

from qtools.core.errors import InputError
from qtools.pipeline.demo.answers import Answer
from qtools.pipeline.demo.server import LARGEST, Later, serve


def answer(picture: np.ndarray, way: int = 0) -> Answer:
    if picture.shape == (1, 1, 3):
        raise InputError("the run could not be opened", "name its weights")
    row = {"index": int(picture.sum()), "label": "<b>", "probability": 1.0}
    return Answer(f"{way} {picture.shape}", (row,), "1 ms")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("the page")
    (folder / "page.js").write_text("code")
    (tmp_path / "secret").write_text("not for you")
    (folder / "link").symlink_to(tmp_path / "secret")
    server = serve(folder, answer, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return found


def test_the_page_and_its_code_are_given_out(port: int) -> None:
    status, headers, body = ask(port, "GET", "/?picture=0.png")
    assert (status, headers["Content-Type"], body) == (200, "text/html", b"the page")
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert ask(port, "GET", "/page.js")[1]["Content-Type"] == "text/javascript"


@pytest.mark.parametrize(
    "path", ["/../secret", "/%2e%2e/secret", "/link", "/..%2fsecret", "//etc/passwd", "/none", "/."]
)
def test_nothing_else_is(port: int, path: str) -> None:
    status, _, body = ask(port, "GET", path)
    assert status == 404 and b"secret" not in body and b"not for you" not in body


def test_a_name_from_elsewhere_is_refused(port: int) -> None:
    assert ask(port, "GET", "/", Host="evil.example")[0] == 403
    assert ask(port, "POST", "/answers?width=1&height=2", bytes(6), Host="evil.example:80")[0] == 403
    assert ask(port, "GET", "/", Host=f"localhost:{port}")[0] == 200


def test_a_picture_is_answered(port: int) -> None:
    status, _, body = ask(port, "POST", "/answers?width=3&height=2&way=1", bytes(range(18)))
    assert status == 200
    row = json.loads(body)["answer"]
    assert row["title"] == "1 (2, 3, 3)" and row["top"][0] == {"index": 153, "label": "<b>", "probability": 1.0}


def test_what_went_wrong_with_the_run_is_told(port: int) -> None:
    status, _, body = ask(port, "POST", "/answers?width=1&height=1&way=0", bytes(3))
    assert status == 200 and "name its weights" in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/answers?width=3&height=3", bytes(5)),
        ("/answers?width=-1&height=-1", bytes(3)),
        ("/answers?width=x&height=1", bytes(3)),
        ("/answers?width=1", bytes(3)),
        ("/answers", b""),
        ("/answers?width=1&height=1", bytes(3)),
        ("/other?width=1&height=1", bytes(3)),
    ],
)
def test_what_is_no_picture_is_refused(port: int, path: str, body: bytes) -> None:
    assert ask(port, "POST", path, body)[0] == 400


def test_a_body_that_claims_too_much_is_not_read(port: int) -> None:
    side = LARGEST // 3 + 1
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("POST", f"/answers?width={side}&height=1")
    connection.putheader("Content-Length", str(3 * side))
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()


def test_a_port_that_is_taken_is_an_error(port: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"port {port} cannot be used"):
        serve(tmp_path, answer, port)


def test_pictures_wait_until_what_they_ask_is_ready() -> None:
    """The first way answers while the second is still made."""
    loaded = threading.Event()

    def slow():
        loaded.wait(10)
        return lambda picture: answer(picture, 1)

    later, picture = Later((lambda: answer, slow)), np.ones((2, 2, 3), np.uint8)
    assert later(picture, 0).title == "0 (2, 2, 3)" and not loaded.is_set()
    threading.Timer(0.05, loaded.set).start()
    assert later(picture, 1).title == "1 (2, 2, 3)"
    with pytest.raises(InputError, match="no way 2"):
        later(picture, 2)


def test_a_network_that_cannot_be_loaded_is_every_pictures_answer() -> None:
    def make():
        raise InputError("other weights", "give the file")

    later, picture = Later((make, lambda: answer)), np.ones((2, 2, 3), np.uint8)
    assert later(picture, 1).title == "0 (2, 2, 3)"
    for _ in range(2):
        with pytest.raises(InputError, match="other weights"):
            later(picture, 0)
