"""Files that are damaged, foreign or lie, for the table of bad inputs: made anew, each below a folder of its own."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from bad_runs import recipes, runs
from made_events import recording
from PIL import Image

import spikedistill as sd
from spikedistill.data.events import write_aedat2

CLASSES = ("ant", "bee")


def png(size=16, mode="RGB", colour=80) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (size, size), colour if mode in ("L", "1", "I;16") else (colour,) * len(mode)).save(file, "png")
    return file.getvalue()


def claiming_png(width: int, height: int) -> bytes:
    """A PNG of some bytes whose header says that it is large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 4000))
        + chunk(b"IEND", b"")
    )


def pictures(root: Path, name: str, bad: bytes | None, suffix: str = ".png") -> None:
    """A folder of pictures, one of them bad (None: a pipe)."""
    for split in ("train", "val"):
        for kind in CLASSES:
            folder = root / f"pictures-{name}" / split / kind
            folder.mkdir(parents=True)
            for k in range(3):
                (folder / f"{k}.png").write_bytes(png())
    place = root / f"pictures-{name}" / "train" / "ant" / f"bad{suffix}"
    if bad is None:
        os.mkfifo(place)
    else:
        place.write_bytes(bad)


def all_pictures(root: Path) -> None:
    good = png()
    cases = {
        "empty": b"",
        "text": b"this is no picture",
        "half": good[: len(good) // 2],
        "flipped": bytes([good[0] ^ 1]) + good[1:],
        "bomb": claiming_png(60_000, 60_000),
        "tall": claiming_png(1, 2**31 - 1),
        "zip": zipped({"a.txt": b"x"}),
        "html": b"<html>404 not found</html>",
    }
    for name, content in cases.items():
        pictures(root, name, content)
    pictures(root, "pipe", None)
    for split in ("train", "val"):
        (root / "pictures-no-classes" / split).mkdir(parents=True)
        (root / "pictures-empty-class" / split / "ant").mkdir(parents=True)
    (root / "pictures-no-train").mkdir()
    for kind in CLASSES:
        (root / "pictures-undivided" / kind).mkdir(parents=True)
        (root / "pictures-undivided" / kind / "0.png").write_bytes(good)
    shutil.copytree(root / "pictures-text", root / "pictures-other-classes")
    (root / "pictures-other-classes" / "train" / "ant" / "bad.png").unlink()
    (root / "pictures-other-classes" / "val" / "ant").rename(root / "pictures-other-classes" / "val" / "horse")
    (root / "loop").mkdir()
    (root / "loop" / "train").symlink_to(root / "loop" / "train")


def zipped(members: dict[str, bytes], **changes: int) -> bytes:
    """A zip archive, with fields of its directory overwritten by their place."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    content = bytearray(file.getvalue())
    central = content.rfind(b"PK\x01\x02")
    for field, value in changes.items():
        place, size = {"flags": (8, 2), "method": (10, 2), "crc": (16, 4), "size": (24, 4)}[field]
        content[central + place : central + place + size] = value.to_bytes(size, "little")
        local = {"flags": 6, "method": 8, "crc": 14, "size": 22}[field]
        content[local : local + size] = value.to_bytes(size, "little")
    return bytes(content)


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def claiming_npy(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 64


def events(count: int = 50, **changed: np.ndarray) -> dict[str, bytes]:
    made = recording(count)
    arrays = {"t": made.t, "x": made.x, "y": made.y, "p": made.p} | changed
    return {f"{name}.npy": npy(np.asarray(values)) for name, values in arrays.items()}


def with_one(name: str, value: float, dtype: str) -> dict[str, bytes]:
    made = vars(recording(50))[name].astype(dtype)
    made[7] = value
    return events(**{name: made})


def all_recordings(root: Path) -> None:
    cases = {
        "polarity-2": zipped(with_one("p", 2, "i8")),
        "polarity-256": zipped(with_one("p", 256, "i8")),
        "x-65541": zipped(with_one("x", 65541, "i8")),
        "x-minus": zipped(with_one("x", -1, "i8")),
        "x-128": zipped(with_one("x", 128, "i8")),
        "y-big": zipped(with_one("y", 2.0**40, "f8")),
        "x-3.7": zipped(with_one("x", 3.7, "f8")),
        "t-nan": zipped(with_one("t", float("nan"), "f8")),
        "t-inf": zipped(with_one("t", float("inf"), "f8")),
        "t-back": zipped(with_one("t", 0, "i8")),
        "text": zipped(events() | {"x.npy": npy(np.array(["a"] * 50))}),
        "lengths": zipped(events() | {"x.npy": npy(np.zeros(3, "i2"))}),
        "square": zipped(events() | {"x.npy": npy(np.zeros((50, 2), "i2"))}),
        "objects": zipped(events() | {"x.npy": npy(np.array([{}] * 50, dtype=object), True)}),
        "no-t": zipped({k: v for k, v in events().items() if k != "t.npy"}),
        "no-events": zipped(events(0)),
        "encrypted": zipped(events(), flags=1),
        "method": zipped(events(), method=99),
        "crc": zipped(events(), crc=1),
        "lying-size": zipped(events(), size=2**32 - 2),
        "claims-terabytes": zipped(events() | {"x.npy": claiming_npy("(1099511627776,)")}),
        "negative-shape": zipped(events() | {"x.npy": claiming_npy("(-5,)")}),
        "bad-header": zipped(events() | {"x.npy": b"\x93NUMPY\x01\x00\x04\x00abcd"}),
        "not-npy": zipped(events() | {"x.npy": b"hello"}),
        "not-zip": b"PK\x03\x04 and nothing more",
        "zero": b"",
        "half": zipped(events())[:300],
    }
    for name, content in cases.items():
        for split, files in (("train", {"0": content, "1": zipped(events(60))}), ("test", {"0": zipped(events(60))})):
            for kind in CLASSES:
                folder = root / f"npz-{name}" / split / "events_np" / kind
                folder.mkdir(parents=True)
                for file, body in files.items():
                    (folder / f"{file}.npz").write_bytes(body if kind == "ant" else zipped(events(60)))
    all_aedat(root)
    frames = np.ones((2, 2, 128, 128), "f4")
    for name, value in {"nan": np.nan, "inf": np.inf, "minus": -1, "large": 70_000}.items():
        bad = frames.copy()
        bad[1, 0, 3, 4] = value
        frames_folder(root, name, bad)
    frames_folder(root, "other-T", np.ones((3, 2, 128, 128), "f4"))
    frames_folder(root, "channels", np.ones((2, 3, 128, 128), "f4"))
    frames_folder(root, "complex", frames.astype("c8"))
    frames_folder(root, "empty", np.ones((2, 2, 0, 128), "f4"))


def frames_folder(root: Path, name: str, bad: np.ndarray) -> None:
    for split in ("train", "test"):
        for kind in CLASSES:
            folder = root / f"frames-{name}" / split / "frames_number_2_split_by_number" / kind
            folder.mkdir(parents=True)
            good = npy(np.ones((2, 2, 128, 128), "f4"))
            is_bad = split == "train" and kind == "ant"
            (folder / "0.npz").write_bytes(zipped({"frames.npy": npy(bad) if is_bad else good}))


def all_aedat(root: Path) -> None:
    place = root / "made.aedat"
    write_aedat2(place, recording(60))
    good = place.read_bytes()
    start = good.rfind(b"\r\n") + 2
    cases = {
        "half-event": good[:-3],
        "no-events": good[:start],
        "no-header": good[start:],
        "header-only": good[:20],
        "version-3": b"#!AER-DAT3.1\r\n" + good[start:],
        "version-4": b"#!AER-DAT4.0\r\nnothing",
        "foreign-address": good[:start] + b"\xff\xff\xff\xff" + good[start + 4 :],
        "back": good[:start] + good[start + 80 : start + 160] + good[start:],
        "zero": b"",
    }
    for name, content in cases.items():
        for split in ("train", "test"):
            for kind in CLASSES:
                folder = root / f"aedat-{name}" / split / kind
                folder.mkdir(parents=True)
                (folder / "cif_1.aedat").write_bytes(content if (split, kind) == ("train", "ant") else good)


def table(labels: list[object], pictures: list[object] | None = None, kind: object = None) -> pa.Table:
    cells = [{"bytes": png(32), "path": None} for _ in labels] if pictures is None else pictures
    return pa.table({"img": cells, "label": pa.array(labels, kind)})


def parquet(root: Path, name: str, train: pa.Table | bytes) -> None:
    folder = root / f"parquet-{name}"
    folder.mkdir()
    pq.write_table(table(list(range(10))), folder / "cifar10-test.parquet")
    place = folder / "cifar10-train.parquet"
    if isinstance(train, bytes):
        place.write_bytes(train)
    else:
        pq.write_table(train, place)


def all_parquet(root: Path) -> None:
    labels: list[object] = list(range(10)) * 2
    cells = [{"bytes": png(32), "path": None} for _ in labels]
    parquet(root, "label-minus", table([-1, *labels[1:]]))
    parquet(root, "label-99", table([99, *labels[1:]]))
    parquet(root, "label-text", table(["a"] * 20))
    parquet(root, "label-none", table([None, *labels[1:]]))
    parquet(root, "label-real", table([0.5] * 20))
    parquet(root, "picture-none", table(labels, [None, *cells[1:]]))
    parquet(root, "picture-text", table(labels, [{"bytes": b"hello", "path": None}, *cells[1:]]))
    parquet(root, "picture-size", table(labels, [{"bytes": png(31), "path": None}, *cells[1:]]))
    parquet(root, "picture-bomb", table(labels, [{"bytes": claiming_png(50_000, 50_000), "path": None}, *cells[1:]]))
    parquet(root, "no-label", pa.table({"img": cells}))
    parquet(root, "no-picture", pa.table({"label": labels}))
    parquet(root, "zero-rows", table([], []).cast(table(labels).schema) if labels else table(labels))
    parquet(root, "zero-bytes", b"")
    parquet(root, "text", b"PAR1 and nothing PAR1")
    file = io.BytesIO()
    pq.write_table(table(labels), file)
    content = file.getvalue()
    parquet(root, "half", content[: len(content) // 2])
    parquet(root, "damaged", content[:200] + b"\xff" * 400 + content[600:])
    folder = root / "parquet-is-folder" / "cifar10-train.parquet"
    folder.mkdir(parents=True)


def numbers(root: Path) -> None:
    """Files for a network that learned a `TensorSet` of shape [6], and a run of it."""
    torch.manual_seed(0)
    cases = {
        "short": npy(np.zeros(3, "f4")),
        "nan": npy(np.full(6, np.nan, "f4")),
        "text": npy(np.array(["a"] * 6)),
        "objects": npy(np.array([{}] * 6, dtype=object), True),
        "claims": claiming_npy("(99999999999,)"),
        "zero": b"",
    }
    for name, content in cases.items():
        (root / f"{name}.npy").write_bytes(content)
    samples = sd.TensorSet(torch.randn(8, 6), sd.Labels(torch.arange(8) % 2, ("a", "b")))
    words = ["--optimizer.epochs", "1", "--optimizer.batch_size", "4", "--branches.enabled", "false"]
    words += ["--data.augmentation.crop", "0", "--data.augmentation.flip", "false", "--model.import", "tiny_net:tiny"]
    (root / "tiny_net.py").write_text(
        "import spikedistill as sd\nfrom torch import nn\n\n\ndef tiny(num_classes):\n"
        "    return nn.Sequential(nn.Linear(6, 4), sd.LIF(), nn.Linear(4, num_classes))\n"
    )
    sd.train(sd.load_recipe("fashion-small", words), root / "numbers", data=sd.Splits(samples, None, samples))


def make_all(root: Path, good: Path) -> None:
    """Everything that the table of bad inputs names, below `root`; `good` is a finished run."""
    all_pictures(root)
    all_recordings(root)
    all_parquet(root)
    recipes(root)
    runs(root, good)
    numbers(root)
    (root / "file").write_text("a file")
    (root / "nothing").mkdir()
    (root / "picture.png").write_bytes(png(28))
    Path(root / "full").mkdir()
    (root / "full" / "notes.txt").write_text("mine")
