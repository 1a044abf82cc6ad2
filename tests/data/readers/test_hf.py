"""Hugging Face data sets on disk: parquet, save_to_disk, and image folders with metadata."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.images import Unreadable, decode
from cmapkd.data.readers import open_samples
from pictures import config, picture


def png(k: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(k).integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def table(n: int, first: int = 0, **columns: list):
    """n images as structs of bytes and path, with the given columns."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'cmapkd[hf]'")
    images = [{"bytes": png(first + k), "path": f"{first + k}.png"} for k in range(n)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"image": pa.array(images, kind), **columns})


def parquet(path: Path, content, rows: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("pyarrow.parquet").write_table(content, path, row_group_size=rows)
    return path


def saved(folder: Path, content) -> None:
    """As `Dataset.save_to_disk` writes it."""
    ipc = pytest.importorskip("pyarrow.ipc")
    folder.mkdir(parents=True)
    with (folder / "data-00000-of-00001.arrow").open("wb") as file, ipc.new_stream(file, content.schema) as out:
        out.write_table(content, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")


def same(place, k: int) -> None:
    np.testing.assert_array_equal(np.asarray(decode(place)), np.asarray(Image.open(io.BytesIO(png(k)))))


def test_parquet_has_a_picture_a_row_and_splits_by_name(tmp_path: Path) -> None:
    parquet(tmp_path / "data" / "train-00000-of-00002.parquet", table(5, caption=[f"cap {k}" for k in range(5)]))
    parquet(tmp_path / "data" / "train-00001-of-00002.parquet", table(1, 5, caption=["cap 5"]))
    parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", table(2, 6, caption=["x", "y"]))
    found = open_samples(str(tmp_path), config("x"), "train")
    assert found.captions == tuple((f"cap {k}",) for k in range(6)) and found.ids[5] == "train-00001-of-00002/0"
    for k in (4, 0, 5, 2):
        same(found.paths[k], k)
    assert open_samples(str(tmp_path), config("x"), "val").captions == (("x",), ("y",))
    assert len(open_samples(str(tmp_path), config("x"), "all")) == 8
    for split, words in ((None, "holds the splits train, validation"), ("test", "no split 'test'")):
        with pytest.raises(UsageError, match=words):
            open_samples(str(tmp_path), config("x"), split)


def test_captions_may_be_lists_and_columns_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", table(2, words=[["a", "b"], []]))
    found = open_samples(str(path), config("x", text_key="words"))
    assert found.captions == (("a", "b"),) and found.notes == ("1 images without a caption dropped (first: 'a/1')",)
    with pytest.raises(DataError, match="no text or label column.*columns found: image, words; set data.image_key"):
        open_samples(str(path), config("x"))
    with pytest.raises(DataError, match="no column 'gone'; columns found: image, words; set data.text_key"):
        open_samples(str(path), config("x", text_key="gone"))


def test_labels_have_the_names_of_the_feature(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": ["cat", "hot_dog"], "_type": "ClassLabel"}}}}
    content = table(3, label=[1, -1, 0]).replace_schema_metadata({"huggingface": json.dumps(features)})
    found = open_samples(str(parquet(tmp_path / "train.parquet", content)), config("x"))
    assert (
        found.labels == (1, 0)
        and found.classes == ("cat", "hot dog")
        and found.captions[0] == ("a photo of a hot dog",)
    )
    saved(tmp_path / "disk", content)
    assert open_samples(str(tmp_path / "disk"), config("x")).labels == (1, 0)


def test_saved_to_disk_is_read_at_its_places(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").parent.mkdir(exist_ok=True)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    saved(tmp_path / "train", table(5, text=[f"cap {k}" for k in range(5)]))
    saved(tmp_path / "test", table(1, 9, text=["cap 9"]))
    found = open_samples(str(tmp_path), config("x"), "train")
    assert len(found) == 5 and found.captions[4] == ("cap 4",)
    for k in range(5):
        same(found.paths[k], k)
    assert len(open_samples(str(tmp_path), config("x"), "all")) == 6
    (tmp_path / "test" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match="1 of its files are missing"):
        open_samples(str(tmp_path), config("x"), "test")


def test_empty_cells_and_cut_files_are_told(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'cmapkd[hf]'")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    picture(tmp_path / "beside.png", size=(5, 4))
    cells = [{"bytes": None, "path": None}, {"bytes": None, "path": "beside.png"}]
    path = parquet(tmp_path / "a.parquet", pa.table({"image": pa.array(cells, kind), "text": ["a", "b"]}))
    found = open_samples(str(path), config("x"))
    assert decode(found.paths[1]).size == (5, 4)
    with pytest.raises(Unreadable, match=r"a\.parquet/image\[0:0\]: the cell is empty"):
        decode(found.paths[0])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="a.parquet: cannot be read.*cut off"):
        open_samples(str(path), config("x"))


def test_a_column_of_file_names_is_looked_up(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'cmapkd[hf]'")
    place = picture(tmp_path / "images" / "a.png")
    path = parquet(tmp_path / "t.parquet", pa.table({"image": ["a.png"], "text": ["one"]}))
    assert open_samples(str(path), config("x")).paths == (place,)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_an_image_folder_with_metadata_needs_no_pyarrow(tmp_path: Path, name: str) -> None:
    for split in ("train", "validation"):
        for k in "ab":
            picture(tmp_path / split / f"{k}.png")
        rows = [{"file_name": f"{k}.png", "text": f"{split} {k}"} for k in "ab"]
        text = "\n".join(json.dumps(row) for row in rows)
        if name.endswith("csv"):
            text = "\n".join(["file_name,text", *(",".join(row.values()) for row in rows)])
        (tmp_path / split / name).write_text(text + "\n")
    assert open_samples(str(tmp_path), config("x"), "val").captions == (("validation a",), ("validation b",))
    assert open_samples(str(tmp_path / "train"), config("x")).captions == (("train a",), ("train b",))
    assert open_samples(str(tmp_path / "train" / name), config("x")).ids == ("a.png", "b.png")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"file_name": "a.png", "text": "x"}\n{"file_na', "line 2 is not a JSON object"),
        ('{"a": 1, "b": 2}\n', "no row has 'filepath'; keys found: a, b; set data.image_key"),
        ("\n", "the file is empty"),
        ('{"file_name": "z.png", "text": "x"}\n', "none of its images, such as 'z.png'"),
    ],
)
def test_wrong_json_lines_are_told_in_one(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "any.jsonl").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        open_samples(str(tmp_path / "any.jsonl"), config("x"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["data/train-00000-of-00001.parquet", "a.arrow"])
def test_without_pyarrow_a_line_says_how_to_get_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"need pyarrow: pip install 'cmapkd\[hf\]'"):
        open_samples(str(tmp_path / name), config("x"))
