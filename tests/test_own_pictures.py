"""Pictures as people have them: folders, cameras that were turned, names of classes; nothing is left out in silence."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_files import png, write_parquet

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.data import Augmentation, Batches, DataSettings, ImageSet, load, load_split
from spikedistill.data.check import check
from spikedistill.data.pictures import prepare, prepared_picture
from spikedistill.data.pictures.autoaugment import OPERATIONS, SUB_POLICIES, Policies
from spikedistill.data.pictures.decode import decode
from spikedistill.data.pictures.folder import find_pictures
from spikedistill.data.pictures.prepare import centre
from spikedistill.data.samples import Raw
from spikedistill.errors import DataError, InvalidArgument
from spikedistill.tasks import Labels


def write(path, height=8, width=8, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


def write_classes(root, **counts):
    """PART=(of a, of b): so many pictures of each class."""
    for part, numbers in counts.items():
        for name, count in zip("ab", numbers, strict=True):
            for k in range(count):
                write(root / part / name / f"{k}.png", value=10 * k)
    return root


# ---------------------------------------------------------------- which are taken


def test_of_a_test_and_a_validation_folder_the_test_is_tested(tmp_path):
    write_classes(tmp_path, train=(4, 4), val=(2, 2), test=(3, 3))
    settings = DataSettings("picture-folder", str(tmp_path), size=8)
    assert len(load(settings).test) == 6
    assert [part.name for part in check(tmp_path)] == [str(tmp_path / name) for name in ("train", "test", "val")]


def test_a_test_folder_without_classes_is_not_taken(tmp_path):
    """ImageNet's has no labels."""
    write_classes(tmp_path, train=(4, 4), val=(2, 2))
    for name in ("0.png", "images/0.png", "unknown/0.png"):  # of ImageNet, of Tiny ImageNet, of competitions
        write(tmp_path / "test" / name)
        assert len(load(DataSettings("picture-folder", str(tmp_path), size=8)).test) == 4


def test_fewer_rows_of_a_folder_are_of_all_classes(tmp_path):
    write_classes(tmp_path, train=(6, 3), val=(4, 4))
    splits = load(DataSettings("picture-folder", str(tmp_path), size=8, train_rows=3, test_rows=2))
    assert splits.train.targets.counts() == {"a": 2, "b": 1}
    assert splits.test.targets.counts() == {"a": 1, "b": 1}
    whole = load(DataSettings("picture-folder", str(tmp_path), size=8, train_rows=9))
    assert whole.train.targets.counts() == {"a": 6, "b": 3}


def test_few_rows_of_classes_of_all_sizes_leave_none_out():
    labels = Labels(torch.tensor([0] * 96 + [1] * 2 + [3] * 2), tuple("abcd"))
    assert labels.rows(labels.some(9)).counts() == {"a": 5, "b": 2, "c": 0, "d": 2}
    assert labels.some(100).tolist() == list(range(100))


def test_rows_that_are_mixed_already_are_the_first():
    labels = Labels(torch.tensor([0, 1, 0, 1]), ("a", "b"))
    assert labels.rows(labels.some(3)).numbers.tolist() == [0, 1, 0]


def test_pictures_beside_the_classes_are_named(tmp_path, capsys):
    write_classes(tmp_path, train=(2, 2), val=(1, 1))
    write(tmp_path / "train" / "loose.png")
    assert find_pictures(tmp_path, True).others == ["loose.png"]
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "1 other files, which are not read: loose.png" in capsys.readouterr().out


def test_a_link_that_leads_back_is_refused(tmp_path):
    write_classes(tmp_path, train=(1, 1))
    (tmp_path / "train" / "a" / "up").symlink_to("..")
    with pytest.raises(DataError, match=r"a/up is a link to .*train, which it lies in"):
        find_pictures(tmp_path, True)
    (tmp_path / "train" / "a" / "up").unlink()
    (tmp_path / "train" / "a" / "below").mkdir()
    (tmp_path / "train" / "a" / "below" / "back").symlink_to(tmp_path / "train" / "a")
    with pytest.raises(DataError, match=r"below/back is a link to"):
        find_pictures(tmp_path, True)
    (tmp_path / "train" / "a" / "below" / "back").unlink()
    write(tmp_path / "elsewhere" / "0.png")
    (tmp_path / "train" / "a" / "more").symlink_to(tmp_path / "elsewhere")  # any other is followed
    assert find_pictures(tmp_path, True).labels.counts() == {"a": 2, "b": 1}


def test_a_snapshot_of_which_a_file_is_missing_is_refused(tmp_path):
    pictures = [png(np.zeros((32, 32, 3), np.uint8))] * 3
    write_parquet(tmp_path / "train-00000-of-00002.parquet", pictures, [0, 1, 2])
    with pytest.raises(DataError, match=r"holds 1 of 2 files \(train-00000-of-00002.parquet\)"):
        load_split(DataSettings("cifar10", str(tmp_path)), True)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", pictures, [0, 1, 2])
    assert len(load_split(DataSettings("cifar10", str(tmp_path)), False)) == 3  # which needs nothing of the other
    write_parquet(tmp_path / "train-00001-of-00002.parquet", pictures, [0, 1, 2])
    assert len(load_split(DataSettings("cifar10", str(tmp_path)), True)) == 6


def test_tables_of_other_classes_are_not_joined(tmp_path):
    pictures = [png(np.zeros((32, 32, 3), np.uint8))] * 2
    names = [f"c{k}" for k in range(10)]
    for shard, order in enumerate((names, names[::-1])):
        metadata = json.dumps({"info": {"features": {"label": {"names": order}}}})
        write_parquet(tmp_path / f"train-{shard:05}-of-00002.parquet", pictures, [0, 1], metadata=metadata)
    with pytest.raises(DataError, match="has other classes than"):
        load_split(DataSettings("cifar10", str(tmp_path)), True)


def test_training_and_test_come_in_one_form(tmp_path):
    pictures = [png(np.zeros((32, 32, 3), np.uint8))] * 10
    write_parquet(tmp_path / "cifar10-train.parquet", pictures, list(range(10)))
    for k in range(10):
        write(tmp_path / "test" / str(k) / "0.png", 32, 32)
    with pytest.raises(DataError, match="training pictures as parquet files and test pictures as folders of classes"):
        load(DataSettings("cifar10", str(tmp_path)))
    for k in range(10):  # both are there as folders
        write(tmp_path / "train" / str(k) / "0.png", 32, 32, value=9)
    assert load(DataSettings("cifar10", str(tmp_path))).train.images.unique().tolist() == [9]


def test_check_reads_what_training_reads(tmp_path):
    write(tmp_path / "boxes" / "train" / "0.png")
    box = {"image_id": 0, "category_id": 0, "bbox": [1, 1, 4, 4]}
    table = {
        "images": [{"id": 0, "file_name": "0.png"}],
        "categories": [{"id": 0, "name": "cat"}],
        "annotations": [box],
    }
    (tmp_path / "boxes" / "train.json").write_text(json.dumps(table))
    (part,) = check(tmp_path / "boxes")
    assert (part.form, part.counts, part.bad) == ("1 pictures with boxes, boxes by class", {"cat": 1}, [])
    write_classes(tmp_path / "notes", train=(2, 2))
    (tmp_path / "notes" / "train" / "a" / "notes.xml").write_text("<x/>")  # is of nobody's boxes
    (part,) = check(tmp_path / "notes")
    assert (part.form, part.counts, part.bad) == ("pictures", {"a": 2, "b": 2}, [])
    below = tmp_path / "snapshot" / "cifar10" / "plain_text"
    below.mkdir(parents=True)
    write_parquet(below / "train-00000-of-00001.parquet", [png(np.zeros((32, 32, 3), np.uint8))], [0])
    assert [part.form for part in check(tmp_path / "snapshot")] == ["parquet"]


# ---------------------------------------------------------------- what is in a file


def test_a_camera_that_was_turned_is_turned_back(tmp_path):
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, :5] = 255  # to be on top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    found = decode(tmp_path / "turned.png")
    assert found.shape == (3, 20, 10)
    assert bool((found[:, :5] == 255).all())
    assert not bool(found[:, 5:].any())
    with pytest.raises(DataError, match="its camera was turned .* save it upright"):  # as pictures with boxes are read
        decode(tmp_path / "turned.png", turned=False)


def test_numbers_of_32_bits_have_no_known_range():
    picture = Image.fromarray(np.full((4, 4), 255, np.int32))
    with pytest.raises(DataError, match="item 0: its pixels are numbers of 32 bits"):
        sd.samples_of([(picture, 0)], ("cat",))


@pytest.mark.parametrize("shape", [(1, 6000), (6000, 1), (3, 400)])
def test_a_line_of_pixels_is_no_line_of_gigabytes(shape, monkeypatch):
    sizes = []
    original = prepare.resize
    monkeypatch.setattr(prepare, "resize", lambda x, *size: sizes.append(size) or original(x, *size))
    picture = torch.arange(shape[0] * shape[1]).reshape(1, *shape).div(shape[0] * shape[1] / 256).byte()
    found = centre(picture, 37, 32)
    assert found.shape == (1, 32, 32)
    assert max(sizes[0]) <= 16 * 37
    assert 110 < float(found.float().mean()) < 146  # its middle


def test_pictures_that_are_no_squares_are_answered_whole(tmp_path):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (16, 24), dtype=np.uint8)
    samples = sd.samples_of([(pixels, 0), (255 - pixels, 1)], ("a", "b"))
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    prepared = prepared_picture(tmp_path / "whole.png", samples.description())
    torch.testing.assert_close(prepared, samples.batch(torch.tensor([0])).inputs)
    Image.fromarray(pixels).resize((48, 32)).save(tmp_path / "larger.png")
    assert prepared_picture(tmp_path / "larger.png", samples.description()).shape == (1, 1, 16, 24)


@pytest.mark.parametrize("value", ["abc", None, {}, np.array([object()]), [torch.zeros(2), torch.zeros(2)]])
def test_items_that_are_no_numbers_are_named(value):
    with pytest.raises(DataError, match="item 0 "):
        sd.samples_of([(value, 0)], ("cat",))


def test_a_picture_that_is_damaged_is_named_where_it_is_read(tmp_path):
    content = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "0.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="item 0: "), Image.open(tmp_path / "0.png") as picture:
        sd.samples_of([(picture, 0)], ("cat",))


def test_numbers_too_large_for_a_network_are_not_finite():
    values = torch.tensor([[1.0], [1e300]], dtype=torch.float64)
    with pytest.raises(DataError, match=r"1 samples are not finite \(NaN, or too large for float32\): \[1\]"):
        sd.TensorSet(values, Labels(torch.tensor([0, 1]), ("a", "b")))


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("crane", "crane"), "two classes have one name: crane"),
        (range(2), "names of classes must be text; given 0, a int"),
    ],
)
def test_classes_have_names_of_their_own(names, words):
    with pytest.raises(DataError, match=words):
        sd.samples_of([(torch.zeros(3), 0), (torch.zeros(3), 1)], names)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.bool])
def test_labels_of_a_type_that_losses_do_not_take_are_refused_by_name(dtype):
    learner = sd.SelfDistillation(sd.create_model("resnet18", 2, width=2), sd.Rate(2), branches=())
    output = learner(torch.zeros(2, 3, 8, 8))
    with pytest.raises(InvalidArgument, match=f"labels must be class indices .* given {dtype}"):
        learner.loss(output, torch.tensor([0, 1]).to(dtype))
    assert Labels(torch.tensor([0, 1]).to(torch.int16), ("a", "b")).numbers.dtype == torch.int64


def test_many_classes_as_bytes_are_counted_where_they_are():
    counts = sd.TASKS["classification"]().inspector({"classes": [str(k) for k in range(30)]})
    counts.add(torch.eye(30)[[29]], torch.tensor([29], dtype=torch.uint8))
    assert counts.counts.nonzero().tolist() == [[29, 29]]


# ---------------------------------------------------------------- batches


def few(count):
    return ImageSet(
        torch.zeros(count, 1, 4, 4, dtype=torch.uint8), Labels(torch.zeros(count).long(), ("a",)), (0,), (1,)
    )


def test_workers_leave_the_random_numbers_of_training_alone():
    """A run that goes on would go on with other ones (dropout)."""
    before = torch.get_rng_state()
    assert len(list(Batches(few(8), 4, Augmentation(crop=1), 0, workers=1).epoch(0))) == 2
    assert torch.equal(torch.get_rng_state(), before)


class Drawing(ImageSet):
    """Samples of somebody who draws where they are read."""

    def read_changed_batches(self, wanted, augmentation):
        drawn = torch.randint(0, 256, (4, 1, 4, 4), dtype=torch.uint8)
        return [Raw((drawn,), self.targets.batch(each.index)) for each in wanted]


def test_what_workers_draw_differs_from_epoch_to_epoch():
    data = few(4)
    batches = Batches(Drawing(data.images, data.targets, (0,), (1,)), 4, Augmentation(), 0, workers=1)
    epochs = [next(batches.epoch(k)).inputs for k in (0, 0, 1)]
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], epochs[2])


@pytest.mark.parametrize(("count", "sizes"), [(33, [16, 17]), (34, [16, 16, 2]), (32, [16, 16]), (1, [1])])
def test_no_batch_is_of_one_sample_that_could_have_company(count, sizes):
    """Batch norm of one value would learn nothing."""
    batches = Batches(few(count), 16, Augmentation(crop=0, flip=False), 0)
    assert [len(batch.inputs) for batch in batches.epoch(0)] == sizes


def test_a_shift_along_the_rows_is_a_share_of_the_rows(monkeypatch):
    number = next(k for k, (first, _) in enumerate(SUB_POLICIES) if first[0] == "translate_y")
    seen = []
    operation = dataclasses.replace(OPERATIONS["translate_y"], apply=lambda x, s: seen.append(s) or x)
    monkeypatch.setitem(OPERATIONS, "translate_y", operation)
    policy = Policies(torch.tensor([number]), torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))
    policy.apply(torch.zeros(1, 3, 16, 24, dtype=torch.uint8))
    level = SUB_POLICIES[number][0][2]
    assert seen == [pytest.approx(150 / 331 * 16 * level / 9)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Augmentation(mixup=float("inf")), "augmentation.mixup is the parameter"),
        (lambda: sd.SelfDistillationLoss(branch_weight=-1.0), "branch_weight is -1.0"),
        (lambda: sd.SelfDistillationLoss(soft_weight=float("nan")), "soft_weight is nan"),
        (
            lambda: sd.ActivationMapDistillation(teacher="x", scaling="norm", temperature=9.0),
            "temperature has no effect with the scaling norm",
        ),
    ],
)
def test_settings_that_cannot_be_meant(make, words):
    with pytest.raises(InvalidArgument, match=words):
        make()
