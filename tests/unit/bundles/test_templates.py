"""Sources of packages: all of them are installed, filled in strictly, and made whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from qtools.core import plugins
from qtools.pipeline.bundles import _templates


def test_every_template_reaches_the_wheel() -> None:
    """setuptools' patterns pass over names that begin with a dot."""
    hidden = [path for path in _templates.HERE.rglob("*") if path.name.startswith(".")]
    assert not hidden


def test_every_platform_says_what_it_is() -> None:
    for name in plugins.names("qtools.pipeline.bundles"):
        kind = plugins.find("qtools.pipeline.bundles", name, "BUNDLE")
        assert kind.title and kind.how and kind.formats
        assert not any(each.startswith(".") for each in kind.formats)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_templates, "HERE", tmp_path / "templates")
    (tmp_path / "templates" / "toy" / "{{ where }}").mkdir(parents=True)
    return tmp_path / "templates" / "toy"


def test_templates_are_filled_in(folder: Path, made_up, tmp_path: Path) -> None:
    (folder / "{{ where }}" / "a.txt.j2").write_text(
        "{{ input.name | literal }} {{ contract.labels[2] | literal }} <\n"
    )
    (folder / "page.html.j2").write_text("{{ contract.labels[2] }}")
    (folder / "as it is.bin").write_bytes(b"{{ where }}\xff")
    _templates.place("toy", made_up().content, tmp_path / "out", where="deep")
    assert (tmp_path / "out/deep/a.txt").read_text() == '"image" "cat \\\\ \\"dog\\"" <\n'
    assert "&#34;dog&#34;" in (tmp_path / "out/page.html").read_text()
    assert (tmp_path / "out/as it is.bin").read_bytes() == b"{{ where }}\xff"


def test_a_name_that_nobody_gave_is_an_error(folder: Path, made_up, tmp_path: Path) -> None:
    (folder / "a.txt.j2").write_text("{{ inptu.name }}")
    with pytest.raises(UndefinedError):
        _templates.place("toy", made_up().content, tmp_path / "out", where="deep")
