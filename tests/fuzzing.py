"""A fuzzer for the readers of foreign bytes: good files, changed at random, must give an error of ours or be read.

    python tests/fuzzing.py [CASES_FACTOR] [SEED]      1: a million cases in all

A case is (reader, seed, number), so each can be made again: `python tests/fuzzing.py --case READER SEED NUMBER`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import bad_files
import numpy as np
import torch
from made_events import aedat3, recording

import spikedistill as sd
from spikedistill.data.events import Framing, write_aedat2
from spikedistill.data.events.aedat import read_aedat2
from spikedistill.data.events.aedat3 import read_aedat3
from spikedistill.data.events.atis import read_atis
from spikedistill.data.events.dat import read_dat, write_dat
from spikedistill.data.events.event import Sensor
from spikedistill.data.events.frames import read_frames_npz
from spikedistill.data.events.hdf5 import read_hdf5
from spikedistill.data.events.recordings import frames_of_file, read_events_npz
from spikedistill.data.pictures.boxed import coco_boxes, voc_boxes
from spikedistill.data.pictures.decode import decode
from spikedistill.data.pictures.tables import parquet_table, read_tables
from spikedistill.data.scenes.box_files import LabelledBoxes, read_boxes, write_boxes
from spikedistill.data.tensors import read_values
from spikedistill.machine.reading import plain_json, plain_yaml, text_of
from spikedistill.report.metrics import read_metrics
from spikedistill.training.checkpoints import load_checkpoint, load_weights, save_checkpoint, save_weights
from spikedistill.training.config import FORMAT, check_config
from spikedistill.training.recipe_files import parse_recipe

SECONDS = 10.0
"""What one case may take."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """One reader: how it is called on a file, good files, and how many of a million cases it gets."""

    read: Callable[[Path], object]
    corpus: tuple[bytes, ...]
    cases: int
    suffix: str = ""
    seal: Callable[[bytes], bytes] = lambda content: content


def _picture(kind: str) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def _atis(count: int) -> bytes:
    rows = [[k % 34, (3 * k) % 34, k % 2 << 7, k >> 8, k & 255] for k in range(count)]
    return np.array(rows, np.uint8).tobytes()


def _aedat2(count: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "a.aedat"
        write_aedat2(place, recording(count))
        return place.read_bytes()


def _hdf5() -> bytes:
    import h5py

    file, events = io.BytesIO(), recording(60)
    with h5py.File(file, "w") as recorded:
        for name in "xypt":
            recorded.create_dataset(f"events/{name}", data=getattr(events, name), chunks=True, compression="gzip")
    return file.getvalue()


def _dat(count: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_dat(Path(folder) / "a.dat", recording(count), Sensor(128, 128))
        return (Path(folder) / "a.dat").read_bytes()


def _boxes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        boxes = torch.tensor([[1.0, 2, 3, 4, 0], [5, 6, 7, 8, 1]])
        write_boxes(Path(folder) / "a.npy", LabelledBoxes(np.array([1000, 2000]), boxes))
        return (Path(folder) / "a.npy").read_bytes()


def _saved(save: Callable[[Path], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return (Path(folder) / name).read_bytes()


def _parquet() -> bytes:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    cells = [{"bytes": bad_files.png(8), "path": None} for _ in range(6)]
    pq.write_table(bad_files.table(list(range(6)), cells), file)
    return file.getvalue()


def _sealed(content: bytes) -> bytes:
    """A checkpoint with its digest made right again, so that what is behind it is reached."""
    body = content[:-34] + b"\0\0"
    return content[:-34] + (32).to_bytes(2, "little") + hashlib.blake2b(body, digest_size=32).digest()


CONFIG = {
    "format": FORMAT,
    "model": {"name": "resnet18", "width": 2},
    "task": {"name": "classification"},
    "timesteps": 4,
    "precision": "fp32",
    "input": {"kind": "image", "shape": [1, 8, 8], "mean": [0.5], "std": [0.25]},
    "targets": {"classes": ["a", "b"]},
}
STATE = {"learner": {"w": torch.zeros(3)}, "progress": {"epoch": 1, "rows": [{"a": 1.0}]}, "random": torch.zeros(5)}
RECIPE = (
    b"rule: {name: rate, timesteps: 4}\nmodel: {name: resnet18, width: 2}\nseed: 3\noptimizer: {epochs: 2, lr: 0.1}\n"
)
SCENES = CONFIG | {
    "task": {"name": "detection"},
    "input": {"kind": "scenes", "shape": [2, 8, 8], "framing": {"timesteps": 4, "window": 50.0, "sensor": [8, 8]}},
    "targets": {"classes": ["a", "b"], "size": [8, 8]},
}
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3.5, 4], "iscrowd": 0}],
}
VOC = (
    b"<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>9</ymax></bndbox>"
    b"</object></annotation>"
)
METRICS = b"epoch,lr,loss,seconds\n1,0.1,2.5,3.0\n2,0.05,2.0,3.1\n"


def _read_config(path: Path) -> None:
    check_config(plain_json(path), str(path))


def _read_recipe(path: Path) -> None:
    parse_recipe(text_of(path), [], path.name)


def _read_weights(path: Path) -> None:
    (path.parent / "model.safetensors").write_bytes(path.read_bytes())
    (path.parent / "config.json").write_text(json.dumps(CONFIG))
    load_weights(path.parent)


def readers() -> dict[str, Reader]:
    """Every reader of bytes that may come from anybody."""
    zipped = bad_files.zipped
    frames = zipped({"frames.npy": bad_files.npy(np.ones((2, 2, 128, 128), "f4"))})
    checkpoint = _saved(lambda folder: save_checkpoint(folder / "c.pt", STATE), "c.pt")
    weights = _saved(lambda folder: save_weights(folder, {"w": torch.zeros(3)}, CONFIG), "model.safetensors")
    described = {"shape": [6]}
    npy = bad_files.npy(np.arange(6, dtype="f4"))
    framing = Framing(2, size=16)
    return {
        "aedat2": Reader(read_aedat2, (_aedat2(40), _aedat2(1)), 250_000, ".aedat"),
        "aedat3": Reader(read_aedat3, (aedat3(recording(40), 16), aedat3(recording(1))), 50_000, ".aedat"),
        "aedat3 repaired": Reader(
            lambda p: read_aedat3(p, repair=True), (aedat3(recording(40), 16),), 20_000, ".aedat"
        ),
        "hdf5": Reader(read_hdf5, (_hdf5(),), 10_000, ".h5"),
        "aedat2 repaired": Reader(lambda p: read_aedat2(p, repair=True), (_aedat2(40),), 100_000, ".aedat"),
        "atis": Reader(lambda p: read_atis(p, Sensor(34, 34)), (_atis(40), _atis(1)), 150_000, ".bin"),
        "dat": Reader(read_dat, (_dat(40), _dat(1)), 150_000, ".dat"),
        "boxes of recordings": Reader(read_boxes, (_boxes(),), 50_000, ".npy"),
        "boxes of COCO": Reader(coco_boxes, (json.dumps(COCO).encode(),), 50_000, ".json"),
        "boxes of VOC": Reader(voc_boxes, (VOC,), 50_000, ".xml"),
        "events npz": Reader(read_events_npz, (zipped(bad_files.events(20)),), 120_000, ".npz"),
        "frames npz": Reader(lambda p: read_frames_npz(p, 2), (frames,), 20_000, ".npz"),
        "any recording": Reader(lambda p: frames_of_file(p, framing), (_aedat2(40),), 30_000, ".aedat"),
        "npy": Reader(lambda p: read_values(p, described), (npy,), 150_000, ".npy"),
        "picture": Reader(decode, tuple(map(_picture, ("png", "jpeg", "gif", "bmp", "webp", "tiff"))), 100_000, ".png"),
        "parquet": Reader(lambda p: read_tables([parquet_table(p)], 3, 8), (_parquet(),), 15_000, ".parquet"),
        "yaml": Reader(lambda p: plain_yaml(text_of(p), "x"), (RECIPE,), 50_000, ".yaml"),
        "recipe": Reader(_read_recipe, (RECIPE,), 4_000, ".yaml"),
        "config": Reader(_read_config, (json.dumps(CONFIG).encode(), json.dumps(SCENES).encode()), 80_000, ".json"),
        "weights": Reader(_read_weights, (weights,), 40_000, ".bin"),
        "checkpoint": Reader(load_checkpoint, (checkpoint,), 30_000, ".pt"),
        "checkpoint, sealed again": Reader(load_checkpoint, (checkpoint,), 10_000, ".pt", _sealed),
        "metrics": Reader(read_metrics, (METRICS,), 30_000, ".csv"),
    }


WORDS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80")
SPECIAL = (0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x22, 0x2D, 0x5B, 0x7B)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A file with one to four changes."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        kind = chance.randrange(7)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 1 and place < len(data):
            data[place] = chance.choice(SPECIAL)
        elif kind == 2:
            del data[place : place + chance.randint(1, 16)]
        elif kind == 3:
            data[place:place] = chance.randbytes(chance.randint(1, 8))
        elif kind == 4:
            data[place : place + 4] = chance.choice(
                (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80")
            )
        elif kind == 5:
            block = data[place : place + chance.randint(1, 64)]
            data[place:place] = block * chance.randint(1, 3)
        else:
            del data[place:]
    return bytes(data)


def case(reader: Reader, name: str, seed: int, number: int) -> bytes:
    """The bytes of one case."""
    chance = random.Random(f"{name} {seed} {number}")
    return reader.seal(mutated(chance.choice(reader.corpus), chance))


def run(name: str, reader: Reader, seed: int, count: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """How many cases were refused and read, and what went wrong, each with its number."""
    found: Counter[str] = Counter()
    problems = []
    place = folder / f"case{reader.suffix}"
    for number in range(count):
        place.write_bytes(case(reader, name, seed, number))
        start = time.perf_counter()
        try:
            reader.read(place)
            found["read"] += 1
        except sd.SpikedistillError:
            found["refused"] += 1
        except Exception as error:
            problems.append(f"{name} {seed} {number}: {type(error).__name__}: {str(error)[:200]}")
        if time.perf_counter() - start > SECONDS:
            problems.append(f"{name} {seed} {number}: {time.perf_counter() - start:.0f} s")
    return found, problems


def main(words: list[str]) -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = readers()
    if words[:1] == ["--case"]:
        name, seed, number = words[1], int(words[2]), int(words[3])
        sys.stdout.buffer.write(case(known[name], name, seed, number))
        return 0
    factor, seed = float(words[0]) if words else 1.0, int(words[1]) if len(words) > 1 else 0
    total, bad = 0, 0
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    print("| reader | cases | refused | read | foreign exceptions, hangs | seconds |\n|---|---|---|---|---|---|")
    for name, reader in known.items():
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            start, count = time.perf_counter(), max(1, round(reader.cases * factor))
            found, problems = run(name, reader, seed, count, Path(folder))
        total, bad = total + count, bad + len(problems)
        seconds = time.perf_counter() - start
        print(
            f"| {name} | {count:,} | {found['refused']:,} | {found['read']:,} | {len(problems)} | {seconds:.0f} |",
            flush=True,
        )
        for problem in problems[:20]:
            print(f"    {problem}", flush=True)
    print(f"{total:,} cases, {bad} problems, seed {seed}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
