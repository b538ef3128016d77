"""What the doctor says on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from reports.doctor import Ability, Diagnosis, Explanation, Host
from reports.environment import Environment
from reports.render import doctor


def text(show, value) -> str:
    console = Console(file=io.StringIO(), width=100)
    show(value, console)
    return console.file.getvalue()


def test_a_mistake_comes_with_its_remedy() -> None:
    why = Explanation(("mirrored", "bytes [bold]as\x1b[2J they are"), ("do not mirror", "feed codes"), 0.0)
    found = Diagnosis("input", "0", "mistake", 12.345, "levels", None, (why,), 47, "do not mirror; feed codes")
    said = text(doctor.show, found)
    assert "input of vector 0: mistake (12.3 levels)" in said and "next: do not mirror; feed codes" in said
    assert "mirrored and bytes [bold]as" in said and "\x1b" not in said
    fine = Diagnosis("output", "1", "within tolerance", 0.05, "real units", 0.1, (), 0, "nothing")
    assert "within tolerance (0.05 real units, 0.1 allowed)" in text(doctor.show, fine)


def test_what_a_machine_lacks_is_said() -> None:
    seen = Environment("Debian", "x86_64", "a CPU", ("avx2",), 2, "3.11", {"torch": "2.14", "onnx": "not installed"})
    abilities = (Ability("device", "ios", False, "an iPhone runs signed apps only", "hand it over"),)
    host = Host("0.1", seen, 2**33, abilities, {"torch": ">=2"}, ("onnx",))
    said = text(doctor.show_host, host)
    assert "missing: onnx" in said and "8.0 GiB" in said and "not installed" in said
    assert "an iPhone runs signed apps only; hand it over" in " ".join(said.split())
