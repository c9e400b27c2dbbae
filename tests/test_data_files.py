"""Pictures in files: parquet, torchvision's forms, the hub."""

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spikedistill.data import DATASETS, DataSettings, load, load_split
from spikedistill.data.check import check
from spikedistill.data.pictures.tables import Table, read_tables
from spikedistill.errors import DataError


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, images, labels, label_column="label", metadata=None, image_column="img"):
    cells = [{"bytes": cell, "path": None} for cell in images]
    table = pa.table({image_column: cells, label_column: labels})
    if metadata:
        table = table.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, path)


@pytest.fixture
def cifar10_folder(tmp_path):
    generator = np.random.default_rng(0)
    for split, rows in (("train", 12), ("test", 4)):
        pixels = generator.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
        np.save(tmp_path / f"{split}.npy", pixels)
        write_parquet(tmp_path / f"cifar10-{split}.parquet", [png(p) for p in pixels], [k % 10 for k in range(rows)])
    return tmp_path


def test_a_table_with_fewer_rows_than_it_says_is_refused():
    """What nobody wrote would be whatever lay in memory."""
    cell = {"bytes": png(np.zeros((32, 32, 3), np.uint8))}
    table = Table("lying.parquet", 5, tuple("ab"), lambda: iter([(cell, 0), (cell, 1)]), lambda: iter([0, 1]))
    with pytest.raises(DataError, match="lying.parquet says that it has 5 rows, and has 2"):
        read_tables([table], 3, 32)


@pytest.mark.parametrize("given", [[0] * 6 + [1] * 6, [0, 1] * 6])
def test_some_rows_of_a_file_that_is_sorted_by_class_are_of_all_classes(tmp_path, given):
    """The first rows of such a file would be of one class, and the accuracy 100 %."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    pictures = [png(p) for p in pixels]
    pictures[-1] = b"no picture, and not wanted"
    write_parquet(tmp_path / "cifar10-train.parquet", pictures, given)
    some = load_split(DataSettings("cifar10", root=str(tmp_path), train_rows=4), train=True)
    rows = [0, 1, 6, 7] if given[1] == 0 else [0, 1, 2, 3]
    assert some.targets.numbers.tolist() == [given[row] for row in rows]
    assert np.array_equal(some.images.permute(0, 2, 3, 1).numpy(), pixels[rows])


def test_parquet(cifar10_folder):
    splits = load(DataSettings("cifar10", root=str(cifar10_folder)))
    assert np.array_equal(splits.train.images.permute(0, 2, 3, 1).numpy(), np.load(cifar10_folder / "train.npy"))
    assert splits.train.targets.numbers.tolist() == [k % 10 for k in range(12)]
    first = load(DataSettings("cifar10", root=str(cifar10_folder), train_rows=5, test_rows=2))
    assert (len(first.train), len(first.test)) == (5, 2)
    assert len(load_split(DataSettings("cifar10", root=str(cifar10_folder), test_rows=3), train=False)) == 3


@pytest.mark.parametrize("below", ["data", "plain_text", "cifar10", "cifar10/plain_text", "."])
def test_class_names_come_from_the_metadata_of_a_hub_snapshot(tmp_path, below):
    names = [f"thing {k}" for k in range(10)]
    metadata = json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})
    pixels = np.zeros((32, 32, 3), np.uint8)
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        write_parquet(tmp_path / below / f"{split}-00000-of-00001.parquet", [png(pixels)], [3], metadata=metadata)
    assert load(DataSettings("cifar10", root=str(tmp_path))).test.targets.names == tuple(names)


def test_the_hub_through_the_datasets_library(cifar10_folder, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cifar10_folder / "cache")
    local = cifar10_folder / "hub"  # the library reads a folder as it reads the hub
    local.mkdir()
    for split in ("train", "test"):
        (cifar10_folder / f"cifar10-{split}.parquet").rename(local / f"{split}-00000.parquet")
    splits = load(DataSettings("cifar10", root=f"hub:{local}", train_rows=11))
    assert np.array_equal(splits.train.images.permute(0, 2, 3, 1).numpy(), np.load(cifar10_folder / "train.npy")[:11])
    assert splits.test.targets.numbers.tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match="hub:nobody/nothing cannot be loaded"):
        load(DataSettings("cifar10", root="hub:nobody/nothing"))
    with pytest.raises(DataError, match="imagenet is read from a folder, not from hub:x"):
        load(DataSettings("imagenet", root="hub:x"))


def test_torchvisions_files(tmp_path):
    """CIFAR-10 as torchvision unpacks it; its checksums are of the real files, so the reading is tested past them."""
    import torchvision.datasets.cifar as cifar

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1, 2]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    (part, other) = check(tmp_path)  # here the checksums are asked
    assert part.name.endswith("cifar10, training rows")
    assert "corrupted" in part.bad[0]
    assert "corrupted" in other.bad[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar, "check_integrity", lambda *args: True)
        splits = load(DataSettings("cifar10", root=str(tmp_path)))
        assert [part.counts["c"] for part in check(tmp_path)] == [5, 1]
    assert splits.train.images.shape == (15, 3, 32, 32)
    assert np.array_equal(splits.test.images.numpy().reshape(3, 3072), pixels)
    assert splits.test.targets.names == tuple("abcdefghij")


def test_the_folders_of_torchvisions_files():
    import torchvision.datasets

    for spec in DATASETS.values():
        if spec.torchvision:
            kind = getattr(torchvision.datasets, spec.torchvision[0])
            assert getattr(kind, "base_folder", kind.__name__) == spec.torchvision[1]


def test_torchvisions_files_cut_short(tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for name in ("images-idx3", "labels-idx1"):
            (folder / f"{part}-{name}-ubyte").touch()
    with pytest.raises(DataError, match="holds no fashion-mnist"):
        load(DataSettings("fashion-mnist", root=str(tmp_path)))
    assert [len(part.bad) for part in check(tmp_path)] == [1, 1]


def test_a_download_is_tried_when_asked_for(tmp_path, monkeypatch):
    import torchvision.datasets

    asked = []

    def download(root, train, download):
        asked.append((root, train, download))
        raise RuntimeError("no network in this test")

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", download)
    with pytest.raises(DataError, match="cifar100 could not be downloaded to .*new: no network in this test"):
        load(DataSettings("cifar100", root=str(tmp_path / "new"), download=True))
    assert asked == [(str(tmp_path / "new"), True, True)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cifar10"}, "where is cifar10.*--data.root"),
        ({"name": "cifar10", "root": "/nowhere"}, "/nowhere is not a folder"),
        ({"name": "cifar11"}, "unknown dataset 'cifar11'; did you mean cifar1"),
        ({"root": "/tmp"}, "data.root has no effect"),
        ({"train_rows": 7000}, "only 6000 rows"),
        ({"train_rows": 0}, "train_rows is 0"),
        ({"train_rows": 7, "test_rows": 1001}, "data.test_rows=1001, but there are only 1000 rows"),
        ({"validation_rows": 6000}, "leaves nothing"),
        ({"validation_rows": -1}, "validation_rows is -1; expected at least 0$"),
        ({"name": "cifar10", "size": 64}, r"data.size has no effect on 'cifar10' .*it is for imagenet, picture-folder"),
        ({"name": "picture-folder", "size": 0}, "data.size is 0; expected at least 1, or null"),
        ({"name": "picture-folder", "download": True}, "data.download has no effect on 'picture-folder'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        load(DataSettings(**settings))


def test_a_part_is_not_taken_from_torchvisions_files_beside_another_form(tmp_path):
    write_parquet(tmp_path / "cifar10-train.parquet", [png(np.zeros((32, 32, 3), np.uint8))] * 10, list(range(10)))
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="holds training pictures as parquet files and no test pictures in that form"):
        load(DataSettings("cifar10", root=str(tmp_path)))


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(DataError, match=r"holds no cifar10.*It holds: readme.txt.*--data.download true"):
        load(DataSettings("cifar10", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file, good: file.write_bytes(file.read_bytes()[:100]), "is not a readable parquet file"),
        (lambda file, good: write_parquet(file, [good, good[:30]], [0, 1]), "row 1 is not a readable picture"),
        (lambda file, good: write_parquet(file, [b"text", good], [0, 1]), "row 0 is not a readable picture"),
        (
            lambda file, good: write_parquet(file, [png(np.zeros((8, 9, 3), np.uint8))], [0]),
            "row 0: the picture is 9×8, expected 32×32",
        ),
        (lambda file, good: write_parquet(file, [good], [0], "target"), "no column fine_label or label; it has img, t"),
        (lambda file, good: write_parquet(file, [good, good], [1, None]), "row 1: the label is None, expected a whole"),
        (lambda file, good: write_parquet(file, [good], [10]), "labels run from 10 to 10, but there are 10 classes"),
    ],
)
def test_damaged_parquet_is_refused_by_file_and_row(cifar10_folder, damage, message):
    damage(cifar10_folder / "cifar10-train.parquet", png(np.zeros((32, 32, 3), np.uint8)))
    with pytest.raises(DataError, match=message):
        load(DataSettings("cifar10", root=str(cifar10_folder)))


def test_check_counts_the_rows_of_parquet_and_names_bad_ones(cifar10_folder):
    assert [part.bad for part in check(cifar10_folder)] == [[], []]
    file = cifar10_folder / "cifar10-train.parquet"
    table = pq.read_table(file)
    cells = table.column("img").to_pylist()
    cells[1] = {"bytes": b"nothing", "path": None}
    labels = [None, *table.column("label").to_pylist()[1:]]
    write_parquet(file, [cell["bytes"] for cell in cells], labels)
    test, train = check(cifar10_folder)
    assert "row 0: the label is None" in train.bad[0]
    assert "row 1 is not a readable picture" in train.bad[1]
    assert (test.bad, sum(train.counts.values())) == ([], len(cells) - 1)
    file.write_bytes(file.read_bytes()[:100])
    (_, train) = check(cifar10_folder)
    assert "cifar10-train.parquet is not a readable parquet file" in train.bad[0]
