"""What a package says about itself: inputs and outputs, labels, author, licence, and qtools' own facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporters._coreml import edit, values
from exporters._coreml.blob import BlobWriter
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.ports import Ports

METADATA = "qtools"
ANSWER = "one number per class, before softmax"
SPECIFICATION = {7: 8, 8: 9}
"""Version of the model specification that an operation set belongs to: iOS 17 and iOS 18."""
SYSTEMS = {8: {"iOS": "17", "macOS": "14"}, 9: {"iOS": "18", "macOS": "15"}}
"""Version of the specification -> the first systems that read it."""
LABEL, PROBABILITIES, CLASSES = "classLabel", "classLabel_probs", "classes"
RGB = 20
"""FeatureTypes.proto: ImageFeatureType.ColorSpace."""
ARRAY_FLOAT32 = 65568
"""FeatureTypes.proto: ArrayFeatureType.ArrayDataType."""


@dataclass(frozen=True)
class Ends:
    """How a package is fed and what it answers.

    Attributes:
        takes: Names and shapes of its inputs.
        gives: The same of its outputs.
        pixels: True for an image input, 0 to 255, RGB, of a program that takes pixels.
        labels: One per class, or empty for logits.
    """

    takes: Ports
    gives: Ports
    pixels: bool = False
    labels: Sequence[str] = ()


def exit_of(ends: Ends, shape: tuple[int, ...], writer: BlobWriter) -> list[Any]:
    """From the float32 logits to what the package answers."""
    if not ends.labels:
        return []
    logits = ends.gives.names[0]
    if len(ends.labels) != shape[-1]:
        raise InputError(f"{len(ends.labels)} labels for {shape[-1]} classes", "give one label per class, in order")
    if len(set(ends.labels)) != len(ends.labels):
        raise InputError("two classes have the same label, and Core ML answers by label", "make the labels differ")
    made = [edit.constant("softmax_axis", np.full((), -1, np.int32), "int32", writer)]
    made.append(edit.operation("softmax", "probabilities", (shape, "float32"), {"x": logits, "axis": "softmax_axis"}))
    names = edit.operation("const", CLASSES, ((), "string"), {})
    _list_of_strings(names, ends.labels)
    answer = edit.operation("classify", LABEL, ((), "string"), {"probabilities": "probabilities", "classes": CLASSES})
    answer.outputs.add().name = PROBABILITIES
    dictionary = answer.outputs[1].type.dictionaryType
    values.tensor_type(dictionary.keyType, (), "string")
    values.tensor_type(dictionary.valueType, (), "float32")
    return [*made, names, answer]


def _list_of_strings(const: Any, labels: Sequence[str]) -> None:
    const.outputs[0].type.ClearField("tensorType")
    value = const.attributes["val"]
    for target in (const.outputs[0].type.listType, value.type.listType):
        values.tensor_type(target.type, (), "string")
        target.length.constant.size = len(labels)
    for label in labels:
        values.put(value.immediateValue.list.values.add(), label, "string")


def assemble(source: Any, operations: list[Any], newest: int, ends: Ends, facts: Mapping[str, Any]) -> Any:
    """The Model message.

    Args:
        source: The float model's message; only its version is read.
        operations: The whole program.
        newest: Number of the operation set it needs.
        ends: Input and output.
        facts: "metadata", and optionally "answer", "author", "licence", "description", "version".
    """
    model = type(source)()
    model.specificationVersion = SPECIFICATION[newest]
    program = model.mlProgram
    program.version = source.mlProgram.version
    function = program.functions["main"]
    function.opset = f"CoreML{newest}"
    block = function.block_specializations[function.opset]
    block.operations.extend(operations)
    block.outputs.extend([LABEL, PROBABILITIES] if ends.labels else ends.gives.names)
    for name, shape in zip(ends.takes.names, ends.takes.shapes, strict=True):
        given = function.inputs.add()
        given.name = name
        values.tensor_type(given.type, shape, "float32")
    _describe_ends(model.description, ends, (operations, str(facts.get("answer", ANSWER))))
    _describe_origin(model.description.metadata, facts)
    return model


def _describe_ends(description: Any, ends: Ends, made: tuple[list[Any], str]) -> None:
    """`made`: the program's operations, and what their result holds."""
    operations, answer = made
    for name, shape in zip(ends.takes.names, ends.takes.shapes, strict=True):
        entry = description.input.add()
        entry.name = name
        if ends.pixels:
            image = entry.type.imageType
            image.height, image.width, image.colorSpace = shape[2], shape[3], RGB
            entry.shortDescription = "RGB image, normalised inside the model"
        else:
            _array(entry.type.multiArrayType, shape)
            entry.shortDescription = "RGB image, channels first, normalised" if ends.takes.picture else ""
    if ends.labels:
        label, probabilities = description.output.add(), description.output.add()
        label.name, probabilities.name = LABEL, PROBABILITIES
        label.type.stringType.SetInParent()
        probabilities.type.dictionaryType.stringKeyType.SetInParent()
        description.predictedFeatureName = LABEL
        description.predictedProbabilitiesName = PROBABILITIES
        return
    results = {o.name: o for operation in operations for o in operation.outputs}
    for name in ends.gives.names:
        entry = description.output.add()
        entry.name, entry.shortDescription = name, answer
        _array(entry.type.multiArrayType, values.shape_of(results[name].type.tensorType))


def _array(target: Any, shape: tuple[int, ...]) -> None:
    target.shape.extend(shape)
    target.dataType = ARRAY_FLOAT32


def _describe_origin(metadata: Any, facts: Mapping[str, Any]) -> None:
    metadata.author = str(facts.get("author", "qtools"))
    metadata.license = str(facts.get("licence", ""))
    metadata.shortDescription = str(facts.get("description", ""))
    metadata.versionString = str(facts.get("version", ""))
    metadata.userDefined[METADATA] = files.to_json(facts.get("metadata", {}))
