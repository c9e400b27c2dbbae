"""Recordings for tests, and a writer of AEDAT 4 files: the package `aedat` only reads them."""

from __future__ import annotations

import struct

import numpy as np

from spikedistill.data.events import Events

_STREAM = """<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/"><node name="0" path="/mainloop/\
Recorder/outInfo/0/"><attr key="compression" type="string">NONE</attr><attr key="originalModuleName" type="string">\
capture</attr><attr key="originalOutputName" type="string">events</attr><attr key="typeDescription" type="string">\
Array of events (polarity ON/OFF).</attr><attr key="typeIdentifier" type="string">EVTS</attr><node name="info" path="\
/mainloop/Recorder/outInfo/0/info/"><attr key="sizeX" type="int">128</attr><attr key="sizeY" type="int">128</attr>\
<attr key="source" type="string">DVS128</attr></node></node></node></dv>"""


def aedat4(events, packet=64):
    """An AEDAT 4 file of one uncompressed stream, byte by byte: flatbuffers of one table with one field each."""
    text = _STREAM.encode()
    # root offset, identifier, vtable (size, table size, fields 0 to 2), table (distance to vtable, offset), string
    header = struct.pack("<I4s5H2xiI", 20, b"IOHE", 10, 8, 0, 0, 4, 12, 4) + struct.pack("<I", len(text)) + text + b"\0"
    content = b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(header)) + header
    layout = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("on", "?"), ("", "V3")])
    for start in range(0, len(events), packet):
        rows = np.zeros(len(events.t[start : start + packet]), layout)
        for name, values in (("t", events.t), ("x", events.x), ("y", events.y), ("on", events.p)):
            rows[name] = values[start : start + packet]
        table = struct.pack("<I4s3H2xiII", 16, b"EVTS", 6, 8, 4, 8, 4, len(rows)) + rows.tobytes()
        content += struct.pack("<iiI", 0, len(table) + 4, len(table)) + table
    return content


def recording(count=200, seed=0, sensor=128):
    random = np.random.default_rng(seed)
    x, y = random.integers(0, sensor, (2, count)).astype(np.int16)
    p = random.integers(0, 2, count).astype(np.int8)
    return Events(x, y, p, np.sort(random.integers(0, 10**6, count)))


def atis(events):
    """A recording in N-MNIST's form, written from its description: 5 bytes an event."""
    t = events.t % 2**23
    rows = [events.x, events.y, events.p.astype(np.int64) << 7 | t >> 16, t >> 8 & 255, t & 255]
    return np.stack(rows, 1).astype(np.uint8).tobytes()


def aedat3(events, packet=64, over=0):
    """A recording in AEDAT 3.1, written from its description, with a packet of another kind at its beginning."""
    header = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
    content = header + struct.pack("<hhiiiiii", 0, 1, 8, 4, 0, 1, 1, 1) + struct.pack("<Ii", 3, 0)
    for start in range(0, len(events), packet):
        rows = slice(start, start + packet)
        word = events.x[rows].astype(np.int64) << 17 | events.y[rows].astype(np.int64) << 2 | events.p[rows] << 1 | 1
        pairs = np.stack([word, events.t[rows] - (over << 31)], 1).astype("<u4")
        content += struct.pack("<hhiiiiii", 1, 1, 8, 4, over, len(pairs), len(pairs), len(pairs)) + pairs.tobytes()
    return content


def of_digit(seed, count=300):
    """A recording on 34×34 pixels."""
    return recording(count, seed, sensor=34)


def n_mnist(root):
    """A folder as N-MNIST's: four recordings of each digit in Train, two in Test."""
    for part, number in (("Train", 4), ("Test", 2)):
        for digit in range(10):
            folder = root / part / str(digit)
            folder.mkdir(parents=True)
            for k in range(number):
                (folder / f"{digit}{k}.bin").write_bytes(atis(of_digit(100 * digit + 10 * number + k)))
    return root
