"""Folders of pictures, AutoAugment, and batches made by workers."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.data import Augmentation, Batches, DataSettings, ImageSet, in_order, load
from spikedistill.data.batches import generator_for
from spikedistill.data.pictures import prepared_picture
from spikedistill.data.pictures.autoaugment import OPERATIONS, SUB_POLICIES, Policies
from spikedistill.data.pictures.changes import Draw, cut_out
from spikedistill.data.pictures.folderset import NUMBERS, random_part
from spikedistill.data.pictures.prepare import normalised
from spikedistill.errors import DataError, InvalidArgument
from spikedistill.tasks import Labels


@pytest.fixture
def pictures(tmp_path):
    """Two classes of small JPEGs of several sizes, six to train and two to test of each."""
    generator = generator_for(0)
    for part, count in (("train", 6), ("val", 2)):
        for c, name in enumerate(("ant", "bee")):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                small = torch.randint(0, 256, (3, 6, 5 + k), dtype=torch.uint8, generator=generator)
                small[c] = 255
                big = v2.functional.resize(small, [240 + 10 * k, 300], antialias=True)
                Image.fromarray(big.permute(1, 2, 0).numpy()).save(folder / f"{k}.jpg", quality=95)
    return tmp_path / "pictures"


def settings(root, **more):
    augmentation = Augmentation(crop=0, flip=True, resized_crop=True)
    return DataSettings("picture-folder", str(root), augmentation=augmentation, **more)


def joined(batches):
    """Inputs and targets of batches, each as one tensor."""
    inputs, targets = zip(*((batch.inputs, batch.targets) for batch in batches), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def evaluated(path, size, enlarged):
    """A picture as torchvision prepares it for evaluation."""
    normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    transform = v2.Compose([v2.ToImage(), v2.Resize(enlarged), v2.CenterCrop(size),
                            v2.ToDtype(torch.float32, scale=True), normalise])  # fmt: skip
    with Image.open(path) as picture:
        return transform(picture)


def test_a_folder_of_pictures(pictures):
    splits = load(settings(pictures))
    assert (len(splits.train), len(splits.test), splits.train.targets.names) == (12, 4, ("ant", "bee"))
    images, labels = joined(in_order(splits.test, 3))
    assert images.shape == (4, 3, 224, 224)
    assert labels.tolist() == [0, 0, 1, 1]
    assert (images[3] - evaluated(pictures / "val" / "bee" / "1.jpg", 224, 256)).abs().max() < 1e-5


def test_the_size_of_what_a_network_sees(pictures):
    test = load(settings(pictures, size=32)).test
    images, _ = joined(in_order(test, 3))
    assert images.shape == (4, 3, 32, 32)
    path = pictures / "val" / "bee" / "1.jpg"
    assert (images[3] - evaluated(path, 32, 37)).abs().max() < 1e-5  # 37 = 32 · 256 / 224
    assert torch.equal(prepared_picture(path, test.description())[0], images[3])
    description = json.loads(json.dumps(test.description()))  # as config.json keeps it
    assert torch.equal(prepared_picture(path, description)[0], images[3])


def test_grey_pictures_have_three_equal_channels(pictures):
    Image.fromarray(torch.arange(200 * 150).remainder(251).to(torch.uint8).view(200, 150).numpy()).save(
        pictures / "val" / "ant" / "0.png"
    )
    test = load(settings(pictures, size=32)).test
    assert test.path(1).name == "0.png"
    pixels = test.read(torch.tensor([1])).parts[0][0]
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[0], pixels[2])
    assert pixels.float().std() > 1


def test_the_changes_of_small_pictures_work_on_folders(pictures):
    """Crop, AutoAugment and Cutout of the whole batch are those of pictures in memory."""
    train = load(settings(pictures, size=32)).train
    index, share = torch.arange(12), torch.arange(3, 9)
    augmentation = Augmentation(crop=4, flip=True, autoaugment=True, cutout=16)
    made = train.finish(train.read_changed(index, share, augmentation, generator_for(5)))

    generator = generator_for(5)
    flips = torch.rand(12, NUMBERS, generator=generator)[:, -1] < 0.5
    draw = Draw.make(12, 32, 32, augmentation, generator)
    images = train.read(index).parts[0]
    images = torch.stack([image.flip(-1) if flip else image for image, flip in zip(images, flips, strict=True)])
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    offsets = draw.offset.tolist()
    cropped = torch.stack([padded[k, :, y : y + 32, x : x + 32] for k, (y, x) in enumerate(offsets)])
    expected = normalised(draw.policy.apply(cropped), train.mean, train.std)
    assert torch.equal(made.inputs, cut_out(expected, 16, draw.centre)[share])
    assert made.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert 0 < flips.sum() < 12
    assert draw.offset.unique().numel() > 3


def test_batches_lie_on_the_device_of_the_samples(pictures):
    """The device "meta" has shapes only: a machine without a GPU can still tell where a batch was sent."""
    train = load(settings(pictures, size=32)).train.to(torch.device("meta"))
    for batch in (next(in_order(train, 5)), next(Batches(train, 5, Augmentation(), 0).epoch(0))):
        assert (batch.inputs.device.type, batch.inputs.shape) == ("meta", (5, 3, 32, 32))
        assert (batch.targets.device.type, batch.targets.shape) == ("meta", (5,))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # said on a machine with one core
@pytest.mark.parametrize("augmentation", [settings("").augmentation, Augmentation(autoaugment=True, cutout=8)])
def test_workers_and_processes_make_the_same_batches(pictures, augmentation):
    train = load(settings(pictures, size=48)).train
    alone = list(Batches(train, 5, augmentation, 1).epoch(3))
    inputs, targets = joined(alone)
    for workers in (1, 2):
        other = joined(Batches(train, 5, augmentation, 1, workers=workers).epoch(3))
        assert torch.equal(inputs, other[0])
        assert torch.equal(targets, other[1])
    shares = [list(Batches(train, 5, augmentation, 1, rank=rank, processes=2).epoch(3)) for rank in (0, 1)]
    for batch, *parts in zip(alone, *shares, strict=True):
        inputs, targets = joined(parts)
        assert torch.equal(batch.inputs, inputs)
        assert torch.equal(batch.targets, targets)
    assert joined(alone)[1].bincount().tolist() == [6, 6]


def test_a_corrupt_picture_stops_the_run_by_name_also_from_a_worker(pictures):
    bad = pictures / "train" / "ant" / "3.jpg"
    bad.write_bytes(b"\xff\xd8 nothing")
    train, augmentation = load(settings(pictures)).train, settings(pictures).augmentation
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"ant/3.jpg is not a readable picture"):
            list(Batches(train, 5, augmentation, 1, workers=workers).epoch(0))
    assert main(["data", "check", str(pictures)]) == 1


def test_pictures_in_folders_below_and_files_that_are_none(pictures, capsys):
    ant = pictures / "train" / "ant"
    (ant / "images").mkdir()
    (ant / "5.jpg").rename(ant / "images" / "deeper é.JPEG")
    (ant / "._0.jpg").write_bytes(b"what macOS leaves beside a file")
    (ant / "notes.txt").touch()
    train = load(settings(pictures)).train
    assert len(train) == 12
    assert train.path(5) == ant / "images" / "deeper é.JPEG"
    assert train.rows(torch.tensor([7, 5])).path(1) == train.path(5)
    assert torch.equal(train.batch(torch.tensor([5])).inputs, train.rows(slice(5, 6)).batch(torch.tensor([0])).inputs)
    assert main(["data", "check", str(pictures)]) == 0
    assert "1 other files, which are not read: ant/notes.txt\n" in capsys.readouterr().out


def test_the_names_of_a_million_files_are_one_block_of_memory(pictures):
    """Python objects are written to when they are used, so that each worker process would get a copy of its own."""
    names = load(settings(pictures)).train.names
    assert names.dtype.kind == "S"
    assert names.nbytes == 12 * len("ant/0.jpg")


def test_check_lists_pictures_by_class(pictures, capsys):
    assert main(["data", "check", str(pictures)]) == 0
    out = capsys.readouterr().out
    assert "train: pictures, 12 in 2 classes (ant 6, bee 6)" in out
    assert "val: pictures, 4 in 2 classes" in out


def test_folders_that_cannot_be_used(pictures, tmp_path):
    (pictures / "train" / "wasp").mkdir()
    with pytest.raises(DataError, match="one folder of pictures for each class; empty: wasp"):
        load(settings(pictures))
    with pytest.raises(DataError, match="has no folder train/ of CLASS"):
        load(settings(tmp_path))
    (pictures / "train" / "wasp").rmdir()
    with pytest.raises(DataError, match=r"holds 2 classes, imagenet has 1000.*picture-folder"):
        load(DataSettings("imagenet", str(pictures)))
    (pictures / "val" / "bee").rename(pictures / "val" / "bees")
    with pytest.raises(DataError, match="classes that the network does not know: bees; it knows ant, bee"):
        load(settings(pictures))
    (pictures / "val" / "bees").rename(pictures / "val" / "bee")
    with pytest.raises(InvalidArgument, match=r"augmentation.roll has no effect on picture folders.*roll 0"):
        next(Batches(load(settings(pictures)).train, 2, Augmentation(roll=2), 0).epoch(0))


def train_preact34(pictures, out, *more):
    words = ["imagenet-preact34", "--data.root", str(pictures), "--data.name", "picture-folder", "--data.workers", "1",
             "--optimizer.batch_size", "4", "--optimizer.epochs", "1", "--out", str(out), *more]  # fmt: skip
    assert main(["train", *words]) == 0


def test_a_network_of_a_folder_trains_and_predicts(pictures, tmp_path, capsys):
    train_preact34(pictures, tmp_path / "run", "--model.width", "2", "--timesteps", "2")
    assert "test accuracy on 4 samples" in capsys.readouterr().out
    picture = pictures / "val" / "bee" / "1.jpg"
    assert main(["predict", str(tmp_path / "run"), str(picture)]) == 0
    assert f"{picture}: " in capsys.readouterr().out
    prepared = sd.Trained.load(tmp_path / "run").prepared(picture)
    assert torch.equal(prepared[0], next(in_order(load(settings(pictures)).test, 4)).inputs[3])


def test_the_recipe_of_cifar10_trains_on_a_folder(pictures, tmp_path, capsys):
    words = ["cifar10-resnet18", "--data.name", "picture-folder", "--data.root", str(pictures), "--data.size", "32",
             "--model.width", "2", "--timesteps", "2", "--optimizer.epochs", "1", "--optimizer.batch_size", "4",
             "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(["train", *words]) == 0
    assert "test accuracy on 4 samples" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["input"]["shape"], config["input"]["enlarged"]) == ([3, 32, 32], 37)
    assert main(["predict", str(tmp_path / "run"), str(pictures / "val" / "bee" / "1.jpg")]) == 0
    assert main(["train", "cifar10-resnet18", "--data.size", "64"]) == 1
    assert "data.size has no effect on 'cifar10'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_papers_imagenet_network_takes_real_steps(pictures, tmp_path, capsys):
    train_preact34(pictures, tmp_path / "run")
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 2
    assert "test accuracy on 4 samples" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["input"]["shape"] == [3, 224, 224]
    assert config["targets"]["classes"] == ["ant", "bee"]


def test_cifar_as_a_folder_of_pictures(tmp_path):
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8, generator=generator_for(0))
    for k, image in enumerate(images):
        folder = tmp_path / ("train" if k < 10 else "test") / names[k % 10]
        folder.mkdir(parents=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "0.png")
    splits = load(DataSettings("cifar10", str(tmp_path)))
    assert torch.equal(splits.train.images, images[:10])
    assert torch.equal(splits.test.targets.numbers, torch.arange(10))


def test_random_part_is_a_part():
    picture = torch.arange(40 * 60).remainder(251).to(torch.uint8).view(1, 40, 60).repeat(3, 1, 1)
    for k in range(20):
        assert random_part(picture, 16, torch.rand(NUMBERS, generator=generator_for(k))).shape == (3, 16, 16)
    half = (0.5 - 0.08) / 0.92  # half of the area, square: 35 × 35 of 40 × 60
    numbers = torch.cat([torch.tensor([half, 0.5]).repeat(10), torch.tensor([0.99, 0.0, 0.0, 0.0])])
    part = v2.functional.resize(picture[:, 5:40, 0:35], [16, 16], antialias=True)  # 0.99: the lowest it can lie
    assert torch.equal(random_part(picture, 16, numbers), part)
    whole = torch.cat([torch.tensor([1.0, 0.5]).repeat(10), torch.zeros(4)])  # all of it, square: does not fit 40 × 60
    centre = v2.functional.resize(picture[:, :, 4:57], [16, 16], antialias=True)  # 4/3 of the height in the middle
    assert torch.equal(random_part(picture, 16, whole), centre)


# ---------------------------------------------------------------- AutoAugment


def test_the_policies_and_operations_are_those_of_torchvision():
    reference = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    names = {
        "translate_x": "TranslateX",
        "translate_y": "TranslateY",
        "shear_y": "ShearY",
        "autocontrast": "AutoContrast",
    }
    ours = [tuple((names.get(n, n.title()), p, level) for n, p, level in pair) for pair in SUB_POLICIES]
    assert ours == reference._policies
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=generator_for(0))
    for name, operation in OPERATIONS.items():
        make, signed = reference._AUGMENTATION_SPACE[names.get(name, name.title())]
        magnitudes = make(10, 32, 32)
        assert signed == operation.signed
        for level in (0, 4, 9):
            strength = 0.0 if magnitudes is None else float(magnitudes[level])
            for sign in (1, -1) if signed else (1,):
                expected = reference._apply_image_or_video_transform(
                    images, names.get(name, name.title()), sign * strength,
                    interpolation=v2.InterpolationMode.NEAREST, fill={},
                )  # fmt: skip
                found = operation.apply(images, sign * operation.strength(level, 32))
                assert (found.int() - expected.int()).abs().max() <= 1, (name, level, sign)  # 0.4 in two precisions


def test_each_picture_gets_its_own_policy():
    images = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8, generator=generator_for(0))
    before = images.clone()
    policy = Policies.draw(60, generator_for(1))
    together = policy.apply(images)
    assert torch.equal(images, before)
    assert 20 < (together != images).flatten(1).any(1).sum() < 60
    for k in range(60):
        row = torch.tensor([k])
        assert torch.equal(policy.rows(row).apply(images[row])[0], together[k])


def test_autoaugment_comes_after_crop_and_flip_and_before_cutout():
    images = torch.randint(0, 256, (30, 3, 16, 16), dtype=torch.uint8, generator=generator_for(0))
    data = ImageSet(images, Labels(torch.zeros(30).long(), ("a",)), (0.5,) * 3, (0.25,) * 3)
    index = torch.arange(30)
    augmentation = Augmentation(crop=2, autoaugment=True, cutout=4)
    out = data.finish(data.read_changed(index, index, augmentation, generator_for(3))).inputs
    draw = Draw.make(30, 16, 16, augmentation, generator_for(3))
    cropped = data.read_changed(index, index, Augmentation(crop=2), generator_for(3)).parts[0]
    expected = normalised(draw.policy.apply(cropped), data.mean, data.std)
    kept = out != 0
    assert torch.equal(out[kept], expected[kept])
    assert torch.equal(out, cut_out(expected, 4, draw.centre))


def test_bench_data(capsys, monkeypatch):
    from spikedistill.bench import data

    monkeypatch.setattr(data.samples_per_second, "__defaults__", (0.05, 2))
    assert main(["bench", "data"]) == 0
    out = capsys.readouterr().out
    assert "noise in the form of cifar10" in out
    assert out.count("samples/s") == 3
