"""Data: the embedded pictures, parquet, torchvision's files, batches and their random changes."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from spikedistill.data import DATASETS, Augmentation, Batches, DataSettings, ImageSet, in_order, load
from spikedistill.data.augmentation import Draw
from spikedistill.data.batches import generator_for
from spikedistill.data.check import check
from spikedistill.data.pictures.memory import augment, cut_out
from spikedistill.errors import DataError


def pictures(count=20, channels=3, size=8, classes=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % classes
    return ImageSet(images, labels, tuple("abcd"), (0.5,) * channels, (0.25,) * channels)


def test_the_embedded_pictures():
    splits = load(DataSettings(validation_rows=500))
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (5500, 500, 1000)
    assert splits.train.images.shape[1:] == (1, 28, 28)
    assert set(splits.train.labels.tolist()) == set(range(10))
    everything = load(DataSettings()).train.images.float() / 255
    assert everything.mean().item() == pytest.approx(splits.train.mean[0], abs=0.01)
    assert everything.std().item() == pytest.approx(splits.train.std[0], abs=0.01)


def test_validation_rows_are_training_rows_that_are_not_trained_on():
    whole, splits = load(DataSettings()), load(DataSettings(validation_rows=100))
    rows = {image.numpy().tobytes() for image in whole.train.images}
    train = [image.numpy().tobytes() for image in splits.train.images]
    held_out = [image.numpy().tobytes() for image in splits.validation.images]
    assert set(train) | set(held_out) == rows
    assert len(train) + len(held_out) == len(whole.train)
    other = load(DataSettings(validation_rows=100, split_seed=1))
    assert not torch.equal(other.validation.labels, splits.validation.labels)


def test_augmentation_is_crop_then_flip_of_the_padded_picture():
    data, how = pictures(), Augmentation(crop=2)
    draw = Draw.make(20, 8, 8, how, generator_for(1))
    out = augment(data.images, how, draw)
    padded = torch.nn.functional.pad(data.images, (2, 2, 2, 2))
    for k in range(20):
        y, x = draw.offset[k].tolist()
        expected = padded[k, :, y : y + 8, x : x + 8]
        assert torch.equal(out[k], expected.flip(-1) if draw.flip[k] else expected)
    assert 0 < draw.flip.sum() < 20
    assert draw.offset.min() == 0
    assert draw.offset.max() == 4
    unchanged = Augmentation(crop=0, flip=False)
    assert torch.equal(augment(data.images, unchanged, Draw.make(20, 8, 8, unchanged, generator_for(1))), data.images)


def test_cutout_is_a_square_clipped_at_the_edge():
    images = torch.ones(2, 1, 8, 8)
    out = cut_out(images, 4, torch.tensor([[4, 4], [0, 7]]))
    assert (out[0, 0, 2:6, 2:6] == 0).all()
    assert out[0].sum() == 64 - 16
    assert (out[1, 0, :2, 5:] == 0).all()
    assert out[1].sum() == 64 - 6


def test_every_picture_comes_once_an_epoch_in_a_new_order():
    data = pictures()
    none = Augmentation(crop=0, flip=False)
    batches = Batches(data, 6, none, seed=3)
    orders = [torch.cat([x for x, _ in batches.epoch(epoch)]) for epoch in (0, 1)]
    rows = [sorted(x.numpy().tobytes() for x in order.contiguous()) for order in orders]
    assert rows[0] == rows[1] == sorted(x.numpy().tobytes() for x in data.finish(data.images).contiguous())
    assert not torch.equal(orders[0], orders[1])
    assert len(batches) == 4
    assert len(Batches(data, 6, none, seed=3, drop_last=True)) == 3


def test_a_batch_can_be_made_again_without_those_before_it():
    batches = Batches(pictures(), 6, Augmentation(crop=2, cutout=3), seed=3)
    whole, rest = list(batches.epoch(5)), list(batches.epoch(5, start=2))
    assert len(rest) == 2
    for (a, la), (b, lb) in zip(whole[2:], rest, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)


def test_processes_share_the_batches_of_one_process():
    how = Augmentation(crop=2)
    one = list(Batches(pictures(), 6, how, 3).epoch(0))
    two = [list(Batches(pictures(), 6, how, 3, rank=rank, processes=2).epoch(0)) for rank in range(2)]
    for (images, labels), *shares in zip(one, *two, strict=True):
        assert torch.equal(images, torch.cat([x for x, _ in shares]))
        assert torch.equal(labels, torch.cat([y for _, y in shares]))


def test_no_sample_is_left_out_where_the_rest_is_less_than_the_processes():
    how = Augmentation(crop=0, flip=False)
    data = pictures()
    size = (len(data) - 1) // 2  # leaves one sample, or two, for three processes
    batches = [Batches(data, size, how, 0, rank=rank, processes=3) for rank in range(3)]
    labels = torch.cat([y for share in batches for _, y in share.epoch(0)])
    assert sorted(labels.tolist()) == sorted(data.labels.tolist())
    assert len(batches[0]) == 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_make_batches_of_samples_on_the_cpu():
    class Elsewhere(ImageSet):
        """Pictures on a device that a worker process cannot use; a move to the CPU gives usable ones."""

        def read(self, *args):
            raise AssertionError("made on the device")

        read_changed = read

        def to(self, device):
            assert device.type == "cpu"
            return ImageSet(self.images, self.labels, self.classes, self.mean, self.std)

    data = pictures()
    away = Elsewhere(data.images, data.labels, data.classes, data.mean, data.std)
    for made, wanted in (
        (Batches(away, 5, Augmentation(), 0, workers=1).epoch(0), Batches(data, 5, Augmentation(), 0).epoch(0)),
        (in_order(away, 5, workers=1), in_order(data, 5)),
    ):
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(made, wanted, strict=True))


def test_what_a_worker_hands_over_is_small():
    data, index = pictures(), torch.arange(4)
    for parts in (data.read(index), data.read_changed(index, index, Augmentation(cutout=2), generator_for(0))):
        assert (parts[0].dtype, parts[0].shape) == (torch.uint8, (4, 3, 8, 8))


def test_workers_find_torchvision_imported():
    """Each would import it anew, two seconds in every epoch."""
    code = """
import sys, torch
from spikedistill.data import Augmentation, Batches, ImageSet

class Watched(ImageSet):
    def read_changed(self, *args):
        assert "torchvision.transforms.v2.functional" in sys.modules
        return super().read_changed(*args)

    def to(self, device):
        return self

data = Watched(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4).long(), ("a",), (0.5,) * 3, (0.5,) * 3)
assert len(list(Batches(data, 2, Augmentation(autoaugment=True), 0, workers=1).epoch(0))) == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_in_order():
    assert torch.equal(torch.cat([labels for _, labels in in_order(pictures(), 7)]), pictures().labels)
    shares = [labels for rank in range(3) for _, labels in in_order(pictures(), 7, rank=rank, processes=3)]
    assert torch.equal(torch.cat(shares), pictures().labels)


# ---------------------------------------------------------------- files


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


def test_parquet(cifar10_folder):
    splits = load(DataSettings("cifar10", root=str(cifar10_folder)))
    assert np.array_equal(splits.train.images.permute(0, 2, 3, 1).numpy(), np.load(cifar10_folder / "train.npy"))
    assert splits.train.labels.tolist() == [k % 10 for k in range(12)]
    first = load(DataSettings("cifar10", root=str(cifar10_folder), train_rows=5, test_rows=2))
    assert (len(first.train), len(first.test)) == (5, 2)


@pytest.mark.parametrize("below", ["data", "plain_text", "cifar10", "cifar10/plain_text", "."])
def test_class_names_come_from_the_metadata_of_a_hub_snapshot(tmp_path, below):
    names = [f"thing {k}" for k in range(10)]
    import json

    metadata = json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})
    pixels = np.zeros((32, 32, 3), np.uint8)
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        write_parquet(tmp_path / below / f"{split}-00000-of-00001.parquet", [png(pixels)], [3], metadata=metadata)
    assert load(DataSettings("cifar10", root=str(tmp_path))).test.classes == tuple(names)


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
    assert splits.test.labels.tolist() == [0, 1, 2, 3]
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
    assert splits.test.classes == tuple("abcdefghij")


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
        ({"validation_rows": 6000}, "leaves nothing"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        load(DataSettings(**settings))


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(DataError, match=r"holds no cifar10.*It holds: readme.txt.*--data.download true"):
        load(DataSettings("cifar10", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file, good: file.write_bytes(file.read_bytes()[:100]), "is not a readable parquet file"),
        (lambda file, good: write_parquet(file, [good, good[:30]], [0, 1]), "row 1: the picture cannot be decoded"),
        (lambda file, good: write_parquet(file, [b"text", good], [0, 1]), "row 0: the picture cannot be decoded"),
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
    assert "row 1: not a readable picture" in train.bad[1]
    assert (test.bad, sum(train.counts.values())) == ([], len(cells) - 1)
