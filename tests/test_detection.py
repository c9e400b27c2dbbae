"""Detection: boxes and maps, targets, and the loss."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spikedistill as sd
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.pictures.changes import Draw, cropped_and_flipped, motion_of
from spikedistill.errors import DataError, InvalidArgument
from spikedistill.objectives import CenterPoints, HeatmapDistillation
from spikedistill.report.counts import draw_counts
from spikedistill.tasks import Boxes, Detection
from spikedistill.tasks.heatmaps import STRIDE, USUAL, Middles, found_boxes, heatmaps, radius

ROWS, COLUMNS = 96, 128
HEIGHT, WIDTH = ROWS // STRIDE, COLUMNS // STRIDE
NAMES = tuple("abc")


def maps_of(boxes):
    """What a network would say that knows the boxes [N, B, 5]."""
    classes = len(NAMES)
    middles = Middles.of(boxes, HEIGHT, WIDTH)
    output = torch.zeros(len(boxes), classes + 4, HEIGHT, WIDTH, dtype=boxes.dtype)
    heat = heatmaps(boxes, classes, HEIGHT, WIDTH).clamp(1e-6, 1 - 1e-6)
    output[:, :classes] = torch.logit(heat)
    for n, k in middles.there.nonzero().tolist():
        cell = (n, slice(classes, None), int(middles.row[n, k]), int(middles.column[n, k]))
        output[cell] = torch.cat([middles.size[n, k] / USUAL, middles.offset[n, k]])
    return output


def random_boxes(samples, most=4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def drawn(count):
        size = torch.rand(count, 2, generator=generator) * 30 + 4
        place = torch.rand(count, 2, generator=generator) * (torch.tensor([COLUMNS, ROWS]) - size)
        kind = torch.randint(len(NAMES), (count, 1), generator=generator)
        return torch.cat([place, size, kind], 1)

    counts = torch.randint(most + 1, (samples,), generator=generator).tolist()
    return Boxes.of([drawn(count) for count in counts], NAMES, (ROWS, COLUMNS))


# ---------------------------------------------------------------- boxes and maps


@st.composite
def separate_boxes(draw):
    """One box in each of some fields of 32×32 pixels: their middles lie apart."""
    fields = draw(st.lists(st.integers(0, 11), min_size=0, max_size=6, unique=True))
    boxes = []
    for field in fields:
        w, h = draw(st.floats(2, 20)), draw(st.floats(2, 20))
        x, y = draw(st.floats(5, 30 - w / 2 - 3)), draw(st.floats(5, 30 - h / 2 - 3))
        middle = (32 * (field % 4) + x, 32 * (field // 4) + y)
        left, top = max(middle[0] - w / 2, 0), max(middle[1] - h / 2, 0)
        w, h = min(w, COLUMNS - left), min(h, ROWS - top)
        boxes.append([left, top, w, h, draw(st.integers(0, 2))])
    return torch.tensor(boxes, dtype=torch.float64).view(-1, 5)


@given(separate_boxes())
@settings(deadline=None, max_examples=60)
def test_boxes_to_maps_to_boxes_is_the_identity(boxes):
    batch = Boxes.of([boxes.float()], NAMES, (ROWS, COLUMNS)).boxes.double()
    found = found_boxes(maps_of(batch), 20, (ROWS, COLUMNS))[0]
    sure = found[found[:, 4] > 0.9]
    assert len(sure) == len(boxes)
    back = torch.cat([sure[:, :4], sure[:, 5:]], 1)
    key = [f"{row[0]:.2f} {row[1]:.2f}" for row in back.tolist()]
    order = [f"{row[0]:.2f} {row[1]:.2f}" for row in batch[0].tolist() if row[4] >= 0]
    assert sorted(key) == sorted(order)
    for row in back:
        assert ((batch[0] - row).abs().amax(1) < 1e-3).any()


def near_boxes():
    """Two large boxes of one class whose bells meet, and a small one: float64 [1, 3, 5]."""
    rows = [[2.0, 2, 90, 80, 1], [30, 10, 90, 80, 1], [60, 60, 9, 7, 0]]
    return Boxes.of([torch.tensor(rows)], NAMES, (ROWS, COLUMNS)).boxes.double()


@pytest.mark.parametrize("boxes", [random_boxes(5).boxes.double(), near_boxes()], ids=["random", "near"])
def test_heatmaps_are_the_obvious_ones(boxes):
    found = heatmaps(boxes, 3, HEIGHT, WIDTH)
    expected = torch.zeros_like(found)
    for n, row in enumerate(boxes.tolist()):
        for x, y, w, h, c in row:
            if c < 0:
                continue
            column, line = int((x + w / 2) / 4), int((y + h / 2) / 4)
            deviation = (2 * float(radius(torch.tensor([w / 4, h / 4], dtype=torch.float64))) + 1) / 6
            for i in range(HEIGHT):
                for j in range(WIDTH):
                    value = math.exp(-((i - line) ** 2 + (j - column) ** 2) / (2 * deviation**2))
                    expected[n, int(c), i, j] = max(expected[n, int(c), i, j], value)
    assert torch.allclose(found, expected, atol=1e-12)
    assert (found == 1).sum() >= 3


@given(st.floats(0.5, 60), st.floats(0.5, 60))
@settings(deadline=None)
def test_radius_is_where_the_overlap_ends(w, h):
    r = float(radius(torch.tensor([w, h], dtype=torch.float64)))

    def worst(r):
        shifted = max(w - r, 0) * max(h - r, 0)
        smaller = max(w - 2 * r, 0) * max(h - 2 * r, 0)
        return min(shifted / (2 * w * h - shifted), smaller / (w * h), w * h / ((w + 2 * r) * (h + 2 * r)))

    assert worst(r) == pytest.approx(0.7, abs=1e-9)
    assert worst(1.01 * r) < 0.7


def test_boxes_move_with_what_they_are_of():
    boxes = random_boxes(16, most=1, seed=3)
    whole = boxes.boxes.round()  # so that pixels show them exactly
    images = torch.zeros(16, 1, ROWS, COLUMNS, dtype=torch.uint8)
    for image, (x, y, w, h, c) in zip(images, whole[:, 0].int().tolist(), strict=True):
        if c >= 0:
            image[0, y : y + h, x : x + w] = 1
    draw = Draw.make(16, ROWS, COLUMNS, Augmentation(crop=8, flip=True), torch.Generator().manual_seed(1))
    moved = cropped_and_flipped(images, 8, draw)
    found = boxes.moved(whole, motion_of(draw, 8, (ROWS, COLUMNS)))
    assert 0 < int(draw.flip.sum()) < 16
    seen = 0
    for image, (x, y, w, h, c) in zip(moved, found[:, 0].tolist(), strict=True):
        if c < 0:
            continue
        rows, columns = image[0].nonzero().T
        assert [x, y, x + w, y + h] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        seen += 1
    assert seen > 5


def test_a_box_whose_middle_has_left_is_none():
    boxes = Boxes.of([torch.tensor([[0.0, 0, 10, 10, 1], [50, 50, 10, 10, 2]])], NAMES, (ROWS, COLUMNS))
    motion = sd.tasks.Motion(torch.ones(1, 2), torch.tensor([[-6.0, 0.0]]), (ROWS, COLUMNS))
    found = boxes.moved(boxes.boxes, motion)[0]
    assert found[:, 4].tolist() == [-1, 2]
    assert found[1].tolist() == [44, 50, 10, 10, 2]
    cut = boxes.moved(boxes.boxes, motion._replace(shift=torch.tensor([[-4.0, 0.0]])))[0, 0]
    assert cut.tolist() == [0, 0, 6, 10, 1]


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([-1, 0, 10, 10, 0], "is not inside the 128 × 96 pixels"),
        ([120, 0, 10, 10, 0], "is not inside"),
        ([0, 0, 0, 10, 0], "has no area"),
        ([0, 0, math.nan, 10, 0], "not finite"),
        ([0, 0, 5, math.inf, 0], "not finite"),
        ([0, 0, 5, 5, 3], "is of class 3, and there are 3: 0 to 2"),
        ([0, 0, 5, 5, -1], "is of class -1"),
        ([0, 0, 5, 5, 0.5], "is of class 0.5"),
    ],
)
def test_boxes_that_cannot_be_are_named(box, words):
    good = torch.tensor([[1.0, 1, 5, 5, 0]])
    with pytest.raises(DataError, match="the boxes of 1 of 2 samples cannot be used:\n  sample 1: box 0") as error:
        Boxes.of([good, torch.tensor([box], dtype=torch.float32)], NAMES, (ROWS, COLUMNS))
    assert words in str(error.value)


def test_boxes_are_numbered_by_the_names_of_their_classes():
    boxes = random_boxes(6)
    other = boxes.matched({"classes": ["z", "c", "b", "a"]})
    assert [m.caption for row in other.marks(other.boxes) for m in row] == [
        m.caption for row in boxes.marks(boxes.boxes) for m in row
    ]
    assert (other.boxes[..., 4] < 0).equal(boxes.boxes[..., 4] < 0)
    assert sum(other.counts().values()) == sum(boxes.counts().values()) > 0
    with pytest.raises(DataError, match="classes that the network does not know: b, c; it knows a"):
        boxes.matched({"classes": ["a"]})


def test_samples_without_a_box_cannot_be_scored():
    none = Boxes.of([torch.zeros(0, 5)] * 3, NAMES, (ROWS, COLUMNS))
    with pytest.raises(DataError, match="none of the 3 validation samples has a box"):
        Detection().refuse_unscorable(none, "validation")
    Detection().refuse_unscorable(random_boxes(8), "test")
    found = sd.Evaluation(3, {4: {}}, "map", {})
    with pytest.raises(InvalidArgument, match="there is no map of these 3 samples"):
        _ = found.score


def test_boxes_are_drawn_as_shares_of_the_boxes(tmp_path):
    boxes = random_boxes(6, seed=1)
    finds = Detection().inspector(boxes.description())
    logits = maps_of(boxes.boxes)
    logits[3:, : len(NAMES)] = -9.0  # of half of the samples nothing is said
    finds.add(logits, boxes.boxes)
    grid = finds.grid()
    assert grid.counts[:, 0].tolist() == grid.whole.tolist()
    assert 0 < int(grid.counts[:, 1].sum()) < int(grid.whole.sum())
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spikedistill.report.counts.save_figure", lambda figure, path: drawn.append(figure))
        draw_counts(grid, tmp_path / "a.png")
    axes = drawn[0].axes[0]
    shares = torch.as_tensor(axes.images[0].get_array()) / 100
    torch.testing.assert_close(shares[:, 0], torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(shares[:, 1], grid.counts[:, 1] / grid.whole.double())
    assert f"({int(grid.whole.sum())} boxes)" in axes.get_title()


def test_the_task_refuses_what_does_not_fit():
    task, boxes = Detection(), random_boxes(4).boxes
    task.check(torch.zeros(4, 7, HEIGHT, WIDTH), boxes)
    with pytest.raises(InvalidArgument, match=r"needs a network that says something of every place.*\(4, 10\)"):
        task.check(torch.zeros(4, 10), boxes)
    with pytest.raises(InvalidArgument, match=r"boxes must be \[N, B, 5\].*torch.int64 \(4,\)"):
        task.check(torch.zeros(4, 7, HEIGHT, WIDTH), torch.zeros(4, dtype=torch.long))
    with pytest.raises(InvalidArgument, match="classes up to 2, and the network has 1 heatmaps"):
        task.check(torch.zeros(4, 5, HEIGHT, WIDTH), boxes)
    with pytest.raises(InvalidArgument, match="detection needs samples with boxes; the targets of these have classes"):
        task.head_size({"classes": ["a"]})
    with pytest.raises(InvalidArgument, match="expected a confidence"):
        Detection(sure=1.5)
    with pytest.raises(InvalidArgument, match="self_distillation is for logits"):
        sd.SelfDistillationLoss()(sd.Output(torch.zeros(4, 7, 2, 2), {}, {}), sd.Batch(torch.empty(0), boxes))


# ---------------------------------------------------------------- objectives


@pytest.mark.parametrize("boxes", [random_boxes(3, seed=1).boxes.double(), near_boxes()], ids=["random", "near"])
def test_the_loss_is_that_of_centernet(boxes):
    output = torch.randn(len(boxes), 7, HEIGHT, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    terms = CenterPoints()(sd.Output(output, {}, {}), sd.Batch(torch.empty(0), boxes))
    truth, heat = heatmaps(boxes, 3, HEIGHT, WIDTH), output[:, :3].sigmoid()
    focal = size = offset = 0.0
    for n, k, i, j in np.ndindex(*truth.shape):
        y, p = float(truth[n, k, i, j]), float(heat[n, k, i, j])
        focal -= (1 - p) ** 2 * math.log(p) if y == 1 else (1 - y) ** 4 * p**2 * math.log(1 - p)
    count = 0
    for n, row in enumerate(boxes.tolist()):
        for x, y, w, h, c in row:
            if c < 0:
                continue
            count += 1
            middle = ((x + w / 2) / 4, (y + h / 2) / 4)
            cell = output[n, 3:, int(middle[1]), int(middle[0])].tolist()
            size += abs(8 * cell[0] - w / 4) + abs(8 * cell[1] - h / 4)
            offset += abs(cell[2] - middle[0] % 1) + abs(cell[3] - middle[1] % 1)
    assert float(terms.total) == pytest.approx((focal + 0.1 * size + offset) / count, rel=1e-9)
    assert float(terms["size"]) == pytest.approx(size / count, rel=1e-9)


@pytest.mark.parametrize("value", [-200.0, 0.0, 200.0])
@pytest.mark.parametrize("count", [0, 3])
def test_the_loss_is_finite_whatever_is_said_and_without_boxes(value, count):
    boxes = random_boxes(2, seed=1).boxes if count else torch.full((2, 4, 5), -1.0)
    output = torch.full((2, 7, HEIGHT, WIDTH), value).requires_grad_()
    terms = CenterPoints()(sd.Output(output, {"a": output * 1.0}, {}), sd.Batch(torch.empty(0), boxes))
    terms.total.backward()
    assert output.grad is not None
    assert torch.isfinite(terms.total)
    assert torch.isfinite(output.grad).all()
    if not count:
        assert float(terms["size"]) == float(terms["offset"]) == 0


def test_heatmap_distillation_is_of_heatmaps_alone():
    output, teacher = torch.randn(2, 2, 7, 5, 6, dtype=torch.float64)
    batch = sd.Batch(torch.empty(0), None, {"t": sd.Output(teacher, {}, {})})
    loss = HeatmapDistillation(teacher="t", weight=2.0)(sd.Output(output, {}, {}), batch).total
    expected = 2 * ((output[:, :3].sigmoid() - teacher[:, :3].sigmoid()) ** 2).mean()
    assert torch.allclose(loss, expected)
    same = torch.cat([teacher[:, :3], output[:, 3:]], 1)
    assert float(HeatmapDistillation(teacher="t")(sd.Output(same, {}, {}), batch).total) == 0
