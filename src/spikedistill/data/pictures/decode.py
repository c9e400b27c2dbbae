"""The one decoder of picture files: JPEG, PNG and what else Pillow reads become uint8 [C, H, W]."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from spikedistill.errors import DataError
from spikedistill.machine.reading import regular

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNELS = {1: "L", 3: "RGB"}
"""Pillow's name for pictures of so many channels."""

LARGEST = 256 * 1024**2
"""Bytes of a file."""
LARGEST_PIXELS = 2**26
"""Of a picture: some kilobytes can claim gigabytes of one colour."""

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of grey pictures of 16 bits; "I" is also that of 32 bits, in a TIFF or made from an array."""
SHORT_FORMATS = ("PNG", "PPM")
"""Formats whose numbers have no more than 16 bits."""


def decode(source: Path | bytes, channels: int = 3, name: str | None = None, turned: bool = True) -> Tensor:
    """A picture as uint8 [channels, H, W]: grey and colour are converted to what is wanted.

    Grey pictures of 16 bits are scaled to 8; Pillow's own conversion would cut everything above 255 to white. A camera
    that was turned says so (EXIF), and the picture is turned back.

    Args:
        source: a file, or the bytes of one.
        channels: 1 for grey, 3 for red, green and blue.
        name: what to call the picture in an error; the file where there is one.
        turned: whether pictures of a turned camera are turned back; else they are refused, as nobody knows which way
            somebody saw them who marked boxes on them.

    Raises:
        DataError: not a readable picture.
    """
    from PIL import ExifTags, Image, ImageOps

    try:
        # Opening reads the header only. Damage further on is met in `pixels_of`, so that belongs inside the try.
        file = io.BytesIO(source) if isinstance(source, bytes) else regular(source, LARGEST)
        with Image.open(file) as picture:
            width, height = picture.size  # from the header: nothing has been unpacked yet
            if width * height > LARGEST_PIXELS:
                raise ValueError(f"it has {width} × {height} pixels; at most {LARGEST_PIXELS:,} are read")
            if not turned and picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                raise ValueError(
                    "its camera was turned (EXIF), and boxes may be marked on either form; save it upright"
                )
            ImageOps.exif_transpose(picture, in_place=True)
            pixels = pixels_of(picture, CHANNELS[channels])
    except Exception as error:  # each format meets damage in its own way
        name = name or str(source if isinstance(source, Path) else "a picture")
        raise DataError(f"{name} is not a readable picture ({error}); replace or remove it") from error
    # Pillow gives rows, columns, channels, and leaves out the one channel of a grey picture.
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], channels).permute(2, 0, 1)


def pixels_of(picture: Image, mode: str) -> np.ndarray:
    """A Pillow picture as uint8 [H, W] or [H, W, 3].

    Raises:
        ValueError: pixels of 32 bits, whose range nobody knows.
    """
    if picture.mode == "F" or (picture.mode == "I" and picture.format not in SHORT_FORMATS):
        raise ValueError("its pixels are numbers of 32 bits without a known range; save it with 8 or 16 bits")
    # Palettes, transparency, CMYK and black-and-white are left to Pillow's conversion.
    if picture.mode in DEEP_MODES:
        picture = _shallow(picture)
    return np.array(picture.convert(mode))


def _shallow(picture: Image) -> Image:
    """A grey picture of 16 bits with 8."""
    from PIL import Image

    values = np.asarray(picture).astype(np.int64)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 257 = 65535 / 255; to the nearest
