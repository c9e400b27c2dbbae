"""Data: the embedded pictures, parquet, torchvision's files, batches and their random changes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_files import png, write_parquet

from spikedistill.data import DATASETS, Augmentation, Batches, DataSettings, ImageSet, in_order, load
from spikedistill.data.batches import generator_for
from spikedistill.data.dataset import DataSet, Request
from spikedistill.data.pictures import prepared_picture
from spikedistill.data.pictures.changes import Draw, cropped_and_flipped, cut_out
from spikedistill.data.pictures.decode import decode
from spikedistill.errors import DataError, InvalidArgument
from spikedistill.tasks import Labels, Targets


def pictures(count=20, channels=3, size=8, classes=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    labels = Labels(torch.arange(count) % classes, tuple("abcd"))
    return ImageSet(images, labels, (0.5,) * channels, (0.25,) * channels)


def joined(batches):
    """Inputs and targets of batches, each as one tensor."""
    inputs, targets = zip(*((batch.inputs, batch.targets) for batch in batches), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def same(batches, others):
    return all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
        for a, b in zip(batches, others, strict=True)
    )


def test_the_embedded_pictures():
    splits = load(DataSettings(validation_rows=500))
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (5500, 500, 1000)
    assert splits.train.images.shape[1:] == (1, 28, 28)
    assert set(splits.train.targets.numbers.tolist()) == set(range(10))
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
    assert not torch.equal(other.validation.targets.numbers, splits.validation.targets.numbers)


def test_augmentation_is_crop_then_flip_of_the_padded_picture():
    data = pictures()
    draw = Draw.make(20, 8, 8, Augmentation(crop=2), generator_for(1))
    out = cropped_and_flipped(data.images, 2, draw)
    padded = torch.nn.functional.pad(data.images, (2, 2, 2, 2))
    for k in range(20):
        y, x = draw.offset[k].tolist()
        expected = padded[k, :, y : y + 8, x : x + 8]
        assert torch.equal(out[k], expected.flip(-1) if draw.flip[k] else expected)
    assert 0 < draw.flip.sum() < 20
    assert draw.offset.min() == 0
    assert draw.offset.max() == 4
    index = torch.arange(20)
    unchanged = data.read_changed(index, index, Augmentation(crop=0, flip=False), generator_for(1))
    assert torch.equal(unchanged.parts[0], data.images)


@pytest.mark.parametrize("augmentation", [Augmentation(crop=2, autoaugment=True, cutout=4), Augmentation(flip=True)])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_batches_changed_together_are_those_changed_alone(augmentation, start, monkeypatch):
    data, index = pictures(), torch.arange(6)
    monkeypatch.setattr("spikedistill.data.batches.AT_ONCE", 13)  # two of the four batches
    batches = Batches(data, 6, augmentation, seed=3, rank=1, processes=2)
    made = list(batches.epoch(5, start))
    assert len(made) == 4 - start
    for k, batch in enumerate(made, start):
        rows = batches.order(5)[6 * k : 6 * k + 6]
        share = index[: len(rows)].tensor_split(2)[1]
        alone = data.finish(data.read_changed(rows, share, augmentation, generator_for(3, 5, k, 1)))
        assert torch.equal(batch.inputs, alone.inputs)
        assert torch.equal(batch.targets, alone.targets)


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
    (first, targets), (second, _) = (joined(batches.epoch(epoch)) for epoch in (0, 1))
    rows = [sorted(x.numpy().tobytes() for x in epoch.contiguous()) for epoch in (first, second)]
    everything = data.batch(torch.arange(20)).inputs.contiguous()
    assert rows[0] == rows[1] == sorted(x.numpy().tobytes() for x in everything)
    assert not torch.equal(first, second)
    assert torch.equal(first, data.batch(batches.order(0)).inputs)
    assert torch.equal(targets, data.targets.batch(batches.order(0)))
    assert [len(batch) for batch in batches.epoch(0)] == [6, 6, 6, 2]
    assert len(batches) == 4
    assert len(Batches(data, 6, none, seed=3, drop_last=True)) == 3


def test_a_batch_can_be_made_again_without_those_before_it():
    batches = Batches(pictures(), 6, Augmentation(crop=2, cutout=3), seed=3)
    whole, rest = list(batches.epoch(5)), list(batches.epoch(5, start=2))
    assert len(rest) == 2
    assert same(whole[2:], rest)
    assert not same(whole, batches.epoch(4))


def test_processes_share_the_batches_of_one_process():
    augmentation = Augmentation(crop=2)
    one = list(Batches(pictures(), 6, augmentation, 3).epoch(0))
    two = [list(Batches(pictures(), 6, augmentation, 3, rank=rank, processes=2).epoch(0)) for rank in range(2)]
    for whole, *shares in zip(one, *two, strict=True):
        inputs, targets = joined(shares)
        assert torch.equal(whole.inputs, inputs)
        assert torch.equal(whole.targets, targets)


def test_no_sample_is_left_out_where_the_rest_is_less_than_the_processes():
    data = pictures()
    size = (len(data) - 1) // 2  # leaves one sample, or two, for three processes
    batches = [Batches(data, size, Augmentation(0, False), 0, rank=rank, processes=3) for rank in range(3)]
    labels = torch.cat([joined(share.epoch(0))[1] for share in batches])
    assert sorted(labels.tolist()) == sorted(data.targets.numbers.tolist())
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
            return ImageSet(self.images, self.targets, self.mean, self.std)

    data = pictures()
    away = Elsewhere(data.images, data.targets, data.mean, data.std)
    assert same(Batches(away, 5, Augmentation(), 0, workers=1).epoch(0), Batches(data, 5, Augmentation(), 0).epoch(0))
    assert same(in_order(away, 5, workers=1), in_order(data, 5))


class Numbered(Targets):
    """Targets of two tensors, as boxes and masks would be."""

    def __init__(self, rows):
        self.numbers = rows

    def __len__(self):
        return len(self.numbers)

    def rows(self, index):
        return Numbered(self.numbers[index])

    def to(self, device):
        return Numbered(self.numbers.to(device))

    def batch(self, index):
        return self.numbers[index], -self.numbers[index].float()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1])
def test_targets_may_be_several_tensors(workers):
    data = pictures().with_targets(Numbered(torch.arange(20)))
    batches = [*in_order(data.rows(slice(4, None)), 7, workers), *Batches(data, 6, Augmentation(), 0).epoch(0)]
    first, second = (torch.cat(parts) for parts in zip(*(batch.targets for batch in batches), strict=True))
    assert first[:16].tolist() == list(range(4, 20))
    assert sorted(first[16:].tolist()) == list(range(20))
    assert torch.equal(second, -first.float())


def test_samples_need_a_row_of_targets_each():
    with pytest.raises(DataError, match="20 samples, but targets of 3"):
        pictures().with_targets(Labels(torch.arange(3), tuple("abc")))
    with pytest.raises(DataError, match=r"images must be uint8 \[M, C, H, W\]; given torch.float32 \(2, 3, 8, 8\)"):
        ImageSet(torch.zeros(2, 3, 8, 8), Labels(torch.arange(2), tuple("ab")), (0.5,) * 3, (0.5,) * 3)


def test_what_a_worker_hands_over_is_small():
    data, index = pictures(), torch.arange(4)
    for raw in (data.read(index), data.read_changed(index, index, Augmentation(cutout=2), generator_for(0))):
        assert (raw.parts[0].dtype, raw.parts[0].shape) == (torch.uint8, (4, 3, 8, 8))
        assert raw.targets.tolist() == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_change_that_is_not_known_is_refused_in_our_words_also_from_a_worker(workers):
    batches = Batches(pictures(), 5, Augmentation(roll=3), 0, workers=workers)
    with pytest.raises(InvalidArgument, match=r"^augmentation.roll has no effect on pictures in memory.*roll 0$"):
        next(batches.epoch(0))


@pytest.mark.whole
def test_workers_find_torchvision_imported():
    """Each would import it anew, two seconds in every epoch."""
    code = """
import sys, torch
from spikedistill.data import Augmentation, Batches, ImageSet
from spikedistill.tasks import Labels

class Watched(ImageSet):
    def read_changed(self, *args):
        assert "torchvision.transforms.v2.functional" in sys.modules
        return super().read_changed(*args)

    def to(self, device):
        return self

assert not {"torchvision", "PIL", "pyarrow", "matplotlib"} & set(sys.modules)  # imported where they are used
labels = Labels(torch.zeros(4).long(), ("a",))
data = Watched(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), labels, (0.5,) * 3, (0.5,) * 3)
assert len(list(Batches(data, 2, Augmentation(autoaugment=True), 0, workers=1).epoch(0))) == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_in_order():
    everything = pictures().targets.numbers
    assert torch.equal(joined(in_order(pictures(), 7))[1], everything)
    shares = [batch for rank in range(3) for batch in in_order(pictures(), 7, rank=rank, processes=3)]
    assert torch.equal(joined(shares)[1], everything)


# ---------------------------------------------------------------- the table of data sets, and its targets


def test_another_data_set_is_a_row_of_the_table(monkeypatch):
    def read(dataset: DataSet, request: Request) -> ImageSet:
        images = torch.full((6 if request.train else 3, 1, dataset.size, dataset.size), 9, dtype=torch.uint8)
        return ImageSet(images, Labels(torch.arange(len(images)) % 2, ("on", "off")), dataset.mean, dataset.std)

    row = DataSet("mine", read, kind="memory", settings=("size",), channels=1, size=4, mean=(0.5,), std=(0.25,))
    monkeypatch.setitem(DATASETS, "mine", row)
    splits = load(DataSettings("mine", size=4, test_rows=2))
    assert (len(splits.train), len(splits.test), splits.division) == (6, 2, "")
    with pytest.raises(InvalidArgument, match="data.root has no effect on 'mine'"):
        DataSettings("mine", root="folder")


def test_test_samples_are_numbered_as_the_training_samples(monkeypatch):
    names = {True: ("ant", "bee", "wasp"), False: ("bee", "ant")}

    def read(dataset, request):
        found = names[request.train]
        images = torch.zeros(len(found), 1, 4, 4, dtype=torch.uint8)
        return ImageSet(images, Labels(torch.arange(len(found)), found), (0.5,), (0.25,))

    row = DataSet("mine", read, kind="memory", settings=(), channels=1, size=4)
    monkeypatch.setitem(DATASETS, "mine", row)
    test = load(DataSettings("mine")).test
    assert (test.targets.names, test.targets.numbers.tolist()) == (("ant", "bee", "wasp"), [1, 0])
    names[False] = ("bee", "hornet")
    with pytest.raises(DataError, match="classes that the network does not know: hornet"):
        load(DataSettings("mine"))


# ---------------------------------------------------------------- decoding


def test_grey_pictures_of_16_bits_are_scaled(tmp_path):
    """Pillow's own conversion makes everything above 255 white."""
    values = np.array([[0, 128, 129, 257], [25700, 32768, 65406, 65535]], np.uint16)
    expected = [[0, 0, 1, 1], [100, 128, 254, 255]]
    for suffix in ("png", "tiff", "pgm"):
        Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
        assert decode(tmp_path / f"deep.{suffix}", 1)[0].tolist() == expected
        assert decode(tmp_path / f"deep.{suffix}", 3).tolist() == [expected] * 3
    bright = 257 * np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) // 4
    for split in ("train", "test"):
        Image.fromarray(bright).save(tmp_path / "bright.png")
        write_parquet(tmp_path / f"cifar10-{split}.parquet", [(tmp_path / "bright.png").read_bytes()], [0])
    images = load(DataSettings("cifar10", root=str(tmp_path))).train.images
    assert (images[0].int() - torch.from_numpy(bright // 257).int()).abs().max() <= 1


def test_grey_and_colour_are_converted_and_what_cannot_be_read_is_named(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert decode(png(grey)).tolist() == [grey.tolist()] * 3
    colour = np.stack([grey, grey * 2, grey * 3], -1)
    assert np.array_equal(decode(png(colour)).permute(1, 2, 0).numpy(), colour)
    assert np.array_equal(decode(png(colour), 1)[0].numpy(), np.array(Image.fromarray(colour).convert("L")))
    Image.fromarray(np.array([[0.5, 1.5]], np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(DataError, match=r"float.tiff is not a readable picture \(its pixels are numbers of 32 bits"):
        decode(tmp_path / "float.tiff")
    Image.fromarray(np.array([[0, 200]], np.int32)).save(tmp_path / "wide.tiff")
    with pytest.raises(DataError, match="wide.tiff is not .*pixels are numbers of 32 bits"):
        decode(tmp_path / "wide.tiff")
    with pytest.raises(DataError, match="nowhere.png is not a readable picture"):
        decode(tmp_path / "nowhere.png")


def test_a_picture_file_is_prepared_as_in_evaluation(tmp_path):
    for data in (pictures(), pictures(channels=1)):
        pixels = data.images[3].permute(1, 2, 0).numpy()
        Image.fromarray(pixels if len(data.mean) == 3 else pixels[:, :, 0]).save(tmp_path / "a.png")
        found = prepared_picture(tmp_path / "a.png", data.description())
        assert torch.equal(found, data.batch(torch.tensor([3])).inputs)
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255  # of another size: the middle, with the aspect kept
    Image.fromarray(wide).save(tmp_path / "wide.png")
    found = prepared_picture(tmp_path / "wide.png", pictures().description())
    assert torch.equal(found, torch.full((1, 3, 8, 8), 2.0))
    wide = np.repeat(np.repeat(wide, 4, 0), 4, 1)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert prepared_picture(tmp_path / "wide.png", pictures().description()).shape == (1, 3, 8, 8)
    with pytest.raises(DataError, match="none.png is not a readable picture"):
        prepared_picture(tmp_path / "none.png", pictures().description())
