"""The .mlpackage folder: read without trusting it, written with the same bytes every time."""

from __future__ import annotations

import json
import uuid
from pathlib import Path, PurePosixPath
from typing import Any

from exporters._coreml.archive import MAX_BYTES, is_archive
from exporters._coreml.blob import BlobReader
from exporters._coreml.sdk import coremltools
from qtools.core import files
from qtools.core.errors import InputError

AUTHOR = "com.apple.CoreML"
MODEL = f"{AUTHOR}/model.mlmodel"
WEIGHTS_FOLDER = f"{AUTHOR}/weights"
WEIGHT_FILE = "@model_path/weights/weight.bin"
"""How a program names its weight file: relative to the folder of model.mlmodel."""
MAX_MANIFEST_BYTES = 1 << 20
MAX_MODEL_BYTES = 1 << 30
_AGAIN = "a truncated or corrupt package; export it again"
_NAMESPACE = uuid.UUID("6f1f8a55-0a52-5c0e-9f1e-3f0f6d6f7174")
"""Any fixed number: ids of package items are derived from it, so that two builds agree."""


class Package:
    """A package opened for reading.

    Attributes:
        spec: The CoreML.Specification.Model message.
    """

    def __init__(self, path: Path) -> None:
        self._root = _folder(path)
        self._model = self._item(self._manifest())
        self.spec = _parse(self._model)
        self._blobs: dict[str, BlobReader] = {}

    def blob(self, name: str) -> BlobReader:
        """The weight file a program calls `name`, e.g. "@model_path/weights/weight.bin"."""
        if name not in self._blobs:
            relative = name.removeprefix("@model_path/")
            if relative == name:
                raise InputError(f"{self._root.name} keeps weights at '{name}', outside the package")
            base = self._model.parent.relative_to(self._root)
            file = self._inside(PurePosixPath(base.as_posix()) / relative)
            self._blobs[name] = BlobReader(files.read_bytes(file, MAX_BYTES), f"{self._root.name}: {file.name}")
        return self._blobs[name]

    def _manifest(self) -> str:
        """Path of the root model below Data/, as the manifest has it."""
        manifest = self._inside(PurePosixPath("Manifest.json"))
        try:
            content = json.loads(files.read_text(manifest, MAX_MANIFEST_BYTES))
            path = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{manifest} is no Core ML package manifest: {error!r}") from error
        if not isinstance(path, str):
            raise InputError(f"{manifest} is no Core ML package manifest: the model's path is no text")
        return path

    def _item(self, path: str) -> Path:
        return self._inside(PurePosixPath("Data") / path)

    def _inside(self, relative: PurePosixPath) -> Path:
        """A regular file inside the package, reached through no link."""
        if relative.is_absolute() or ".." in relative.parts or "\x00" in str(relative) or "\\" in str(relative):
            raise InputError(f"{self._root.name} names a file outside itself: '{relative}'")
        current = self._root
        for part in relative.parts:
            current /= part
            if current.is_symlink():
                raise InputError(f"{self._root.name} holds a link where a file should be: '{relative}'")
        if not current.is_file():
            raise InputError(f"{self._root.name} has no file '{relative}'", "export the package again")
        return current


def _folder(path: Path) -> Path:
    if path.suffix == ".zip" or is_archive(path):
        raise InputError(f"{path} is an archive, not an .mlpackage folder", "unpack it first")
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if not path.is_dir():
        raise InputError(f"{path} is a file; an .mlpackage is a folder with a Manifest.json")
    return path


def _parse(file: Path) -> Any:
    from google.protobuf.message import DecodeError

    spec = coremltools().proto.Model_pb2.Model()
    try:
        spec.ParseFromString(files.read_bytes(file, MAX_MODEL_BYTES))
    except (DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(f"{file.name} is truncated or no Core ML model: {error}") from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise InputError(f"{file.name} is no ML Program but '{spec.WhichOneof('Type')}'", "convert to an ML Program")
    return spec


def main_block(spec: Any) -> tuple[Any, Any]:
    """The function "main" of an ML Program and the block of it that runs."""
    functions = spec.mlProgram.functions
    if "main" not in functions:
        raise InputError("the package has no function 'main'", _AGAIN)
    function = functions["main"]
    if function.opset not in function.block_specializations:
        raise InputError(f"the package has no program for its own opset '{function.opset}'", _AGAIN)
    return function, function.block_specializations[function.opset]


def write(path: Path, spec: Any, weights: bytes) -> Path:
    """Writes a package. The folder appears whole, an older one is replaced.

    Args:
        path: Where, ending in .mlpackage.
        spec: The Model message.
        weights: Content of the weight file.
    """
    with files.whole_folder(path, replace=True) as folder:
        data = folder / "Data"
        files.write_bytes(data / MODEL, spec.SerializeToString(deterministic=True))
        files.write_bytes(data / WEIGHTS_FOLDER / "weight.bin", weights)
        entries = {
            str(uuid.uuid5(_NAMESPACE, where)): {"author": AUTHOR, "description": what, "name": name, "path": where}
            for where, name, what in (
                (MODEL, "model.mlmodel", "CoreML Model Specification"),
                (WEIGHTS_FOLDER, "weights", "CoreML Model Weights"),
            )
        }
        manifest = {
            "fileFormatVersion": "1.0.0",
            "itemInfoEntries": entries,
            "rootModelIdentifier": str(uuid.uuid5(_NAMESPACE, MODEL)),
        }
        files.write_text(folder / "Manifest.json", json.dumps(manifest, indent=4, sort_keys=True) + "\n")
    return path
