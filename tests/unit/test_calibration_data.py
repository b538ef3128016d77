"""Where images and labels come from: class folders, flat folders, CSV files, and each way they can be wrong."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.data import open_folder
from calibration.sampling import select
from qtools.core.errors import InputError


def _save(path: Path, shade: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade, 0, 0)).save(path)
    return path


def _classes(root: Path, *names: str, each: int = 2) -> Path:
    for shade, name in enumerate(names):
        for number in range(each):
            _save(root / name / f"{number}.png", shade)
    return root


def test_class_folders_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    source = open_folder(_classes(tmp_path, "dog", "cat", "emu"))
    assert source.names == ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "emu/0.png", "emu/1.png")
    assert source.labels is not None and source.labels.tolist() == [0, 0, 1, 1, 2, 2]
    image, label = source[2]
    assert image.shape == (4, 6, 3) and label == 1 and image[0, 0].tolist() == [0, 0, 0]
    assert "sorted order" in source.labelling and source.classes == ("cat", "dog", "emu")


def test_an_empty_class_folder_keeps_its_place(tmp_path: Path) -> None:
    _classes(tmp_path, "cat", "emu")
    (tmp_path / "dog").mkdir()
    source = open_folder(tmp_path, 3)
    assert source.labels is not None and source.labels.tolist() == [0, 0, 2, 2]
    assert source.classes == ("cat", "dog", "emu")


def test_class_folders_follow_the_names_of_the_model(tmp_path: Path) -> None:
    source = open_folder(_classes(tmp_path, "cat", "dog"), ["zebra", "dog", "cat"])
    assert source.labels is not None and source.labels.tolist() == [2, 2, 1, 1]
    assert "by name" in source.labelling and source.classes == (), "the zebra has no folder"
    assert open_folder(tmp_path, ["dog", "cat"]).classes == ("dog", "cat")


def test_integer_folders_are_class_indices_not_words(tmp_path: Path) -> None:
    source = open_folder(_classes(tmp_path, "0", "2", "10", each=1), 11)
    assert dict(zip(source.names, source.labels, strict=True)) == {"0/0.png": 0, "2/0.png": 2, "10/0.png": 10}
    assert source.classes == (), "numbers are no names"


def test_suffixes_hidden_files_and_depth(tmp_path: Path) -> None:
    _save(tmp_path / "a" / "deep" / "x.PNG")
    _save(tmp_path / "a" / "y.JpEg")
    _save(tmp_path / "b" / "z.webp")
    _save(tmp_path / "b" / ".hidden.png")
    _save(tmp_path / ".cache" / "no.png")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    source = open_folder(tmp_path)
    assert source.names == ("a/deep/x.PNG", "a/y.JpEg", "b/z.webp")
    assert source.labels is not None and source.labels.tolist() == [0, 0, 1]


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    _classes(tmp_path, "a", "b", each=1)
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert open_folder(tmp_path).names == ("a/0.png", "b/0.png")


def test_a_linked_class_folder_is_followed(tmp_path: Path) -> None:
    _save(tmp_path / "store" / "x.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "store", target_is_directory=True)
    assert open_folder(tmp_path / "data").names == ("cat/x.png",)


def test_a_flat_folder_has_no_labels_whatever_its_names_say(tmp_path: Path) -> None:
    _save(tmp_path / "0_n01440764.jpeg")
    _save(tmp_path / "1_n01443537.jpeg")
    source = open_folder(tmp_path, 1000)
    assert len(source) == 2 and source.labels is None and source[0][1] is None


def test_csv_labels_by_number_and_by_name(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png", "c.png"):
        _save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("\ufefflabel,file,note\n2,c.png,x\n0,a.png,\n1,sub/b.png,\n", "utf-8")
    source = open_folder(tmp_path, 3)
    assert source.names == ("a.png", "c.png", "sub/b.png")
    assert source.labels is not None and source.labels.tolist() == [0, 2, 1]
    (tmp_path / "other.csv").write_text("file,label\na.png,dog\nc.png,cat\n")
    named = open_folder(tmp_path / "other.csv", ["cat", "cow", "dog"])
    assert named.labels is not None and named.labels.tolist() == [2, 0]
    assert open_folder(tmp_path / "other.csv", 2).classes == ("cat", "dog") and source.classes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,1\n", "path, label"),
        ("", "nothing"),
        ("file,label\nb.png,1\n", "b.png"),
        ("file,label\na.png,\n", "line 2 has no label"),
        ("file,label\n,1\n", "line 2 has no file"),
        ("file,label\na.png\n", "line 2 has no label"),
        ("file,label\na.png,7\n", "label 7 is outside the model's 3 classes"),
        ("file,label\na.png,1\na.png,2\n", "second label"),
        ("file,label\n", "lists no image"),
        ("file,label\na.png,cat\n", "1 classes, and the model has 3"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    _save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        open_folder(tmp_path, 3)
    assert "labels.csv" in caught.value.what and caught.value.next_step


def test_a_csv_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"file,label\n\xff\xfe\x00.png,1\n")
    with pytest.raises(InputError, match=r"labels\.csv cannot be read"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("folders", "classes", "message"),
    [
        (("cat", "dog"), 3, "2 classes, and the model has 3"),
        (("cat", "dog"), 1, "2 classes, and the model has 1"),
        (("0", "3"), 3, "label 3 is outside the model's 3 classes \\(0 to 2\\)"),
        (("cat", "dgo"), ["cat", "dog"], "'dgo' is no class of the model. Did you mean dog"),
        (("1", "01"), 3, "the same number"),
    ],
)
def test_class_folders_that_do_not_fit(
    tmp_path: Path, folders: tuple[str, ...], classes: int | list[str], message: str
) -> None:
    _classes(tmp_path, *folders)
    with pytest.raises(InputError, match=message) as caught:
        open_folder(tmp_path, classes)
    assert caught.value.next_step


def test_missing_empty_wrong_and_mixed_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder .*nowhere"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no image"):
        open_folder(tmp_path)
    with pytest.raises(InputError, match=r"x\.png is neither"):
        open_folder(_save(tmp_path / "x.png"))
    _save(tmp_path / "cat" / "y.png")
    with pytest.raises(InputError, match=r"x\.png.*beside class folders.*cat"):
        open_folder(tmp_path)


def test_the_digest_sees_content_label_name_and_order(tmp_path: Path) -> None:
    def digest(root: Path, classes: list[str] | None = None) -> str:
        return open_folder(root, classes).digest

    _classes(tmp_path / "one", "cat", "dog")
    _classes(tmp_path / "two", "cat", "dog")
    assert digest(tmp_path / "one") == digest(tmp_path / "two"), "the place of the folder does not count"
    assert digest(tmp_path / "one") != digest(tmp_path / "one", ["dog", "cat"])
    source = open_folder(tmp_path / "one")
    assert select(source, 4, seed=0).digest != select(source, 4, seed=1).digest
    before = digest(tmp_path / "one")
    (tmp_path / "one" / "cat" / "0.png").rename(tmp_path / "one" / "cat" / "7.png")
    assert digest(tmp_path / "one") != before
    old = (tmp_path / "two" / "dog" / "1.png").read_bytes()
    (tmp_path / "two" / "dog" / "1.png").write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
    assert digest(tmp_path / "two") != before, "same name, size and label, one bit of content"


def test_only_selected_images_are_hashed(tmp_path: Path) -> None:
    source = open_folder(_classes(tmp_path, "cat", "dog", each=5))
    chosen = select(source, 3)
    kept = {source.names[i] for i in chosen.indices}
    for name in set(source.names) - kept:
        (tmp_path / name).unlink()
    assert len(chosen.digest) == 64
    (tmp_path / next(iter(kept))).unlink()
    with pytest.raises(InputError, match="cannot be read"):
        _ = select(replace(source, _fingerprints={}), 3).digest


def test_data_is_read_without_torch() -> None:
    code = (
        "import sys, calibration.data, calibration.sampling, calibration.batches, calibration.ranges.mse; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_source_and_array_agree(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert (open_folder(tmp_path)[0][0] == pixels).all()
