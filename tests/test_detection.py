"""Detection: boxes and maps, loss, scores, model. Recordings with boxes are in test_scenes.py."""

import io
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
from spikedistill.tasks import Boxes, Detection
from spikedistill.tasks.average_precision import average_precision
from spikedistill.tasks.boxes import Smallest
from spikedistill.tasks.detection import matched
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


# ---------------------------------------------------------------- scores


def coco(found, boxes):
    """The library itself, fed by hand."""
    import contextlib

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, said = COCO(), []
        annotations = []
        for k in range(len(boxes)):
            for x, y, w, h, c in boxes[k].tolist():
                if c >= 0:
                    annotations.append({"id": len(annotations) + 1, "image_id": k + 7, "category_id": int(c) + 1})
                    annotations[-1] |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            for x, y, w, h, score, c in found[k].tolist():
                said.append({"image_id": k + 7, "category_id": int(c) + 1, "bbox": [x, y, w, h], "score": score})
        truth.dataset = {"images": [{"id": k + 7} for k in range(len(boxes))], "annotations": annotations, "info": {}}
        truth.dataset["categories"] = [{"id": k + 1} for k in range(len(NAMES))]
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(said), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3].tolist()


def test_perfect_answers_have_a_precision_of_one():
    boxes = random_boxes(12, most=1).boxes
    meter = Detection().meter()
    meter.add(maps_of(boxes), boxes)
    assert meter.columns()["map"] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_the_precision_is_the_librarys(seed):
    boxes = random_boxes(20, seed=seed)
    noise = torch.randn(boxes.boxes[..., :4].shape, generator=torch.Generator().manual_seed(seed)) * 3
    wrong = boxes.boxes.clone()
    wrong[..., :4] = (wrong[..., :4] + noise).clamp(min=1)
    said = torch.rand(20, wrong.shape[1], 1, generator=torch.Generator().manual_seed(seed + 50))
    found = torch.cat([wrong[..., :4], said, wrong[..., 4:].clamp(min=0)], -1)
    ours = average_precision(found, boxes.boxes, len(NAMES))
    assert [ours["map"], ours["map50"], ours["map75"]] == pytest.approx(coco(found, boxes.boxes), abs=1e-12)
    assert 0.02 < ours["map"] < 0.98


def test_the_precision_adds_up_over_processes():
    boxes = random_boxes(20, seed=5).boxes
    noise = torch.randn(20, 7, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.8
    noise[:, 3:5] /= USUAL
    output = maps_of(boxes) + noise
    whole, parts = Detection().meter(), [Detection().meter() for _ in range(3)]
    whole.add(output, boxes)
    parts[0].add(output[:9], boxes[:9])
    parts[0].add(output[9:12], boxes[9:12, :3])  # of a data set with room for fewer boxes
    parts[1].add(output[12:], boxes[12:])
    together = Detection().meter()
    for part in parts:  # one has nothing to say
        together.add_state(part.state())
    short = boxes.clone()
    short[9:12, 3:] = -1
    other = Detection().meter()
    other.add(output, short)
    assert together.columns() == pytest.approx(other.columns())
    assert whole.columns()["map"] > 0.1
    assert Detection().meter().columns() == {}


def test_what_is_found_counts_once():
    true = torch.tensor([[0.0, 0, 10, 10, 1], [40, 40, 10, 10, 2]])
    said = torch.tensor(
        [
            [1.0, 0, 10, 10, 0.9, 1],  # found
            [0.0, 0, 10, 10, 0.8, 1],  # the same once more
            [40, 40, 10, 10, 0.7, 1],  # of another class
            [40, 40, 10, 12, 0.6, 2],  # found
            [40, 44, 10, 10, 0.5, 2],  # not near enough
        ]
    )
    assert matched(said, true).tolist() == [True, False, False, True, False]
    assert matched(said, true[:0]).tolist() == [False] * 5


def test_the_inspector_says_what_became_of_each_class():
    boxes = random_boxes(20, most=1, seed=2)
    finds = Detection().inspector(boxes.description())
    output = maps_of(boxes.boxes)
    output[:5, :3] = -10.0  # nothing is seen in five of them
    finds.add(output, boxes.boxes)
    missed = int((boxes.boxes[:5, :, 4] >= 0).sum())
    assert finds.counts[:, 0].sum() == sum(boxes.counts().values())
    assert finds.counts[:, 0].sum() - finds.counts[:, 1].sum() == missed > 0
    assert finds.counts[:, 2].sum() == 0
    assert "a" in finds.lines()[1]


def test_hits_are_where_the_heatmap_is_right():
    boxes = random_boxes(20, most=1, seed=2).boxes
    hits = Detection().training_meter()
    output = maps_of(boxes)
    hits.add(output, boxes)
    assert hits.columns() == {"hit": 1.0}
    output[:10, :3] = -10
    half = Detection().training_meter()
    half.add(output, boxes)
    half.add_state(hits.state())
    there = (boxes[..., 4] >= 0).sum(1)
    assert half.columns()["hit"] == pytest.approx(float(1 - there[:10].sum() / (2 * there.sum())))


def one_answer(box, height, width, sure=5.0):
    """What a network with one class would say of one box, everything else being surely none."""
    output = torch.full((1, 5, height, width), -20.0)
    middles = Middles.of(torch.tensor([[[*box, 0.0]]]), height, width)
    row, column = int(middles.row), int(middles.column)
    output[0, 0, row, column] = sure
    output[0, 1:3, row, column] = middles.size[0, 0] / USUAL
    output[0, 3:, row, column] = middles.offset[0, 0]
    return output


def test_the_score_is_of_the_sample_and_not_of_its_padding():
    """GEN1 has 240 × 304 pixels, and the network's map 64 × 80 cells, those of 256 × 320."""
    truth = Boxes.of([torch.tensor([[254.0, 180, 50, 60, 0]])], ["car"], (240, 304))
    large = one_answer((246.0, 170, 66, 80), 64, 80)  # reaches beyond the sensor, where it is cut to 58 × 70
    task, description = Detection(), truth.description()
    meter, without = task.meter(description), task.meter()
    for each in (meter, without):
        each.add(large, truth.boxes)
    assert meter.columns()["map"] == pytest.approx(0.5)  # 3000 of 4060 overlap
    assert without.columns()["map"] == pytest.approx(0.2)
    evaluated = sd.evaluate(
        Says(large), [(torch.zeros(1, 1, 4, 4), truth.boxes)], 1, task=task, description=description
    )
    assert evaluated.score[1] == pytest.approx(0.5)
    # cells below row 240 are none of the sample's
    beyond = found_boxes(one_answer((100.0, 242, 20, 8), 64, 80), 3, (240, 304))
    assert (beyond[..., 4] < 1e-6).all()


class Says(torch.nn.Module):
    """Answers the same whatever it sees."""

    def __init__(self, answer):
        super().__init__()
        self.answer = torch.nn.Parameter(answer)

    def forward(self, x):
        return (x.mean((1, 2, 3), keepdim=True) * 0 + self.answer)  # fmt: skip


def test_found_boxes_that_are_too_small_to_count_are_none():
    """As published results on GEN1 have it: a found car of 20 pixels is no mistake where no such car counts."""
    truth = Boxes.of([torch.tensor([[100.0, 100, 50, 40, 0]])], ["car"], (240, 304), smallest=Smallest(30.0, 10.0))
    said = torch.maximum(one_answer((100.0, 100, 50, 40), 64, 80, 2.0), one_answer((20.0, 20, 20, 20), 64, 80, 5.0))
    for description, expected in ((truth.description(), 1.0), (truth.description() | {"smallest": [0, 0]}, 0.5)):
        meter = Detection().meter(description)
        meter.add(said, truth.boxes)
        assert meter.columns()["map"] == pytest.approx(expected, abs=0.01)
    assert truth.description()["smallest"] == [30.0, 10.0]
    assert "smallest" not in Boxes.of([torch.zeros(0, 5)], ["car"], (8, 8)).description()


def test_of_equal_neighbours_one_is_a_box():
    for logits in ((4.0, 4.0), (20.0, 18.0)):  # the sigmoids of both are 1.0 in float32
        output = torch.full((1, 5, 6, 6), -30.0)
        output[0, 0, 2, 2:4] = torch.tensor(logits)
        assert int((found_boxes(output, 10, (24, 24))[0, :, 4] > 0.5).sum()) == 1
    flat = found_boxes(torch.zeros(1, 6, 4, 4), 100, (16, 16))
    assert int((flat[0, :, 4] > 0).sum()) == 2  # one of each class


def test_boxes_may_be_arrays_and_lists():
    found = Boxes.of([np.array([[1.0, 2, 3, 4, 0]]), [[1, 2, 3, 4, 1]], torch.zeros(0, 5)], NAMES, (20, 20))
    assert found.boxes[:, 0, 4].tolist() == [0, 1, -1]


def test_answers_are_boxes_in_words_and_to_be_drawn():
    boxes = Boxes.of([torch.tensor([[10.0, 20, 30, 40, 2]])], NAMES, (ROWS, COLUMNS))
    output = maps_of(boxes.boxes)[0]
    said = Detection().answer(output, boxes.description())
    assert said.startswith("c 100% at x 10, y 20, 30 × 40")
    (mark,) = Detection(sure=0.9).marks(output, boxes.description())
    assert mark.box == pytest.approx((10, 20, 30, 40), abs=1e-3)
    assert Detection().answer(torch.full((7, HEIGHT, WIDTH), -9.0), boxes.description()).startswith("nothing")


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
