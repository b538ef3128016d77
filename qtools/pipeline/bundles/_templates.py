"""Sources of a package: everything in templates/NAME is copied as it is, and what ends in .j2 is filled in first.

A template sees `contract`, `vectors`, `tolerance`, `input`, `output`, `artifact`, `preparation`, `size`, `layout`, and
what its plugin adds. `| literal` makes a string, a number or a list of any value, as C++, Kotlin, Swift, JavaScript and
JSON have them alike. Names of files and folders may hold `{{ ... }}` as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from qtools.core import files
from qtools.pipeline.picture_vectors import Content

HERE = Path(__file__).parent / "templates"
FILLED = ".j2"
BUILT = "__pycache__"


def place(name: str, content: Content, folder: Path, **more: Any) -> None:
    """Writes a platform's sources.

    Args:
        name: Folder in templates/.
        content: What they are filled with.
        folder: The bundle's folder.
        **more: Further names that its templates use.
    """
    source = HERE / name
    filling = Environment(
        loader=FileSystemLoader(source),
        undefined=StrictUndefined,
        autoescape=select_autoescape(enabled_extensions=("html" + FILLED,), default_for_string=False),
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filling.filters["literal"] = literal
    names = _names(content) | more
    for path in sorted(source.rglob("*")):
        if not path.is_file() or BUILT in path.parts:
            continue
        target = folder / filling.from_string(path.relative_to(source).as_posix()).render(names)
        if path.suffix == FILLED:
            template = filling.get_template(path.relative_to(source).as_posix())
            files.write_text(target.with_suffix(""), template.render(names))
        else:
            files.write_bytes(target, path.read_bytes())


def literal(value: Any) -> str:
    """A value as source text; strings keep what is no ASCII."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _names(content: Content) -> dict[str, Any]:
    whole = content.whole
    return {
        "contract": content.contract,
        "vectors": content.vectors,
        "tolerance": content.tolerance,
        "boxes_tolerance": content.boxes,
        "input": whole.input,
        "output": whole.output,
        "artifact": whole.artifact,
        "preparation": whole.preparation,
        "size": whole.size,
        "layout": whole.layout,
    }
