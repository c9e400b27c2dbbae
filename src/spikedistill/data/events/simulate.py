"""An event camera in front of a moving picture, for those who have no recordings. What it makes is simulated, not real.

CIFAR10-DVS was recorded by moving each picture on a screen in a repeated closed loop before a DVS128. Here the picture
is enlarged and moved along the sides of a diamond in small steps; each pixel reports when its log intensity has changed
by its threshold since its last report:

    L = log(I + dark),   an event of polarity sign(L − L_ref) for each threshold crossed, then L_ref moves by it

Thresholds differ from pixel to pixel (mismatch), a pixel is blind for a while after an event (refractory time), and
noise events come at random. Times are interpolated within a step, in µs.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.data.events.event import SENSOR, Events
from spikedistill.errors import InvalidArgument


@dataclasses.dataclass(frozen=True)
class Camera:
    """The sensor and the movement.

    Args:
        threshold: change of log intensity that makes an event.
        mismatch: standard deviation of the thresholds between pixels, as a share of the threshold.
        refractory: µs for which a pixel is blind after an event.
        noise: events per pixel and second that nothing causes.
        dark: intensity (of 0..1) added before the logarithm.
        sensor: its rows and columns.
        side: rows and columns of the sensor that the picture covers.
        around: intensity beside the picture.
        amplitude: how far the picture moves from the middle, in pixels of the sensor.
        loops: how often it goes around.
        loop_time: µs of one loop.
        steps: positions computed in one loop.
    """

    threshold: float = 0.25
    mismatch: float = 0.1
    refractory: int = 1000
    noise: float = 0.2
    dark: float = 0.05
    sensor: int = SENSOR
    side: int = 96
    around: float = 0.5
    amplitude: float = 5.0
    loops: int = 4
    loop_time: int = 200_000
    steps: int = 32

    def __post_init__(self) -> None:
        for name in ("threshold", "dark", "side", "loops", "loop_time", "steps"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(f"camera: {name} is {getattr(self, name)}; expected more than 0")
        if self.side + 2 * self.amplitude > self.sensor:
            raise InvalidArgument(
                f"camera: a picture of {self.side} pixels moved by {self.amplitude} leaves the sensor"
            )


def path(camera: Camera) -> Tensor:
    """Offsets (x, y) of the picture [loops·steps + 1, 2]: a diamond whose corners are `amplitude` from the middle."""
    # Counted in sides of the diamond, four to a loop; its whole part is the side, the rest how far along it.
    turn = torch.arange(camera.loops * camera.steps + 1) / camera.steps * 4
    corners = torch.tensor([[0.0, -1.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    side = (turn % 4).floor().long()
    share = (turn % 4 - side)[:, None]
    return camera.amplitude * ((1 - share) * corners[side] + share * corners[side + 1])


def seen(pictures: Tensor, offset: Tensor, camera: Camera) -> Tensor:
    """Log intensity [N, sensor, sensor] of grey pictures [N, H, W] (0..1), shifted by `offset` (x, y)."""
    # affine_grid maps from the sensor to the picture in coordinates −1..1, so the scale is the inverse of the size.
    scale = camera.sensor / camera.side
    shift = -offset * 2 / camera.side
    theta = torch.tensor([[scale, 0.0, float(shift[0])], [0.0, scale, float(shift[1])]]).repeat(len(pictures), 1, 1)
    grid = F.affine_grid(theta, [len(pictures), 1, camera.sensor, camera.sensor], align_corners=False)
    # Shifted, so that the zeros around the picture are what is around it.
    shown = F.grid_sample(
        pictures[:, None] - camera.around, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return (shown[:, 0] + camera.around + camera.dark).log()


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The sensor's pixels, one for each of N pictures, flat [N · sensor²]; the first two are changed in place.

    Attributes:
        reference: log intensity of the last report.
        blind_until: µs before which nothing is reported.
        threshold: change of log intensity that is reported.
    """

    reference: Tensor
    blind_until: Tensor
    threshold: Tensor


Found = list[tuple[Tensor, Tensor, Tensor]]
"""Events in pieces: flat pixel, polarity, time in µs."""


def simulate(pictures: Tensor, camera: Camera, generator: torch.Generator) -> list[Events]:
    """Record pictures: one `Events` each, upright, in the order of time.

    Args:
        pictures: uint8 [N, C, H, W], grey or colour.
    """
    grey, count = _grey(pictures), len(pictures)
    spread = torch.randn(count, camera.sensor, camera.sensor, generator=generator)
    threshold = camera.threshold * (1 + camera.mismatch * spread)
    threshold = threshold.clamp(min=camera.threshold / 4)  # one near 0 would report without end
    offsets, step_time = path(camera), camera.loop_time / camera.steps
    before = seen(grey, offsets[0], camera)
    blind_until = torch.full_like(before, -math.inf)
    pixels = Pixels(before.flatten().clone(), blind_until.flatten(), threshold.flatten())
    found: Found = []
    for k, offset in enumerate(offsets[1:]):
        now = seen(grey, offset, camera)
        found += _crossings(before.flatten(), now.flatten(), pixels, (k * step_time, step_time), camera.refractory)
        before = now
    found.append(_noise(count, camera, generator))
    return _recordings(count, camera.sensor, found)


def _grey(pictures: Tensor) -> Tensor:
    """Intensity 0..1 [N, H, W] of uint8 pictures [N, C, H, W]."""
    grey = pictures.float() / 255
    if grey.shape[1] == 3:
        grey = (grey * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return grey[:, 0]


def _crossings(before: Tensor, now: Tensor, pixels: Pixels, span: tuple[float, float], refractory: int) -> Found:
    """Events of one step, in which log intensity goes from `before` to `now`; `span` is its start and length in µs."""
    found: Found = []
    start, length = span
    chosen = ((now - pixels.reference).abs() >= pixels.threshold).nonzero()[:, 0]
    while len(chosen):  # a pixel may cross several thresholds in a step, one in each round
        old, new, reference = before[chosen], now[chosen], pixels.reference[chosen]
        limit, blind = pixels.threshold[chosen], pixels.blind_until[chosen]
        up = new > reference
        # The level of this crossing: also the reference for the next one, whether it is reported or not.
        level = torch.where(up, reference + limit, reference - limit)
        pixels.reference[chosen] = level
        time = start + length * ((level - old) / (new - old)).clamp(0, 1)
        reported = time >= blind
        pixels.blind_until[chosen[reported]] = time[reported] + refractory
        found.append((chosen[reported], up[reported], time[reported]))
        chosen = chosen[(new - level).abs() >= limit]
    return found


def _noise(count: int, camera: Camera, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    length = camera.loops * camera.loop_time
    # Poisson noise is the same for all pixels and times, so it is drawn at once for all recordings.
    mean = torch.tensor(camera.noise * length * 1e-6 * count * camera.sensor**2)
    events = int(torch.poisson(mean, generator=generator))
    pixels = torch.randint(count * camera.sensor**2, (events,), generator=generator)
    polarity = torch.rand(events, generator=generator) < 0.5
    return pixels, polarity, torch.rand(events, generator=generator) * length


def _recordings(count: int, sensor: int, found: Found) -> list[Events]:
    """Events of each picture, sorted by time."""
    flat, polarity, time = (np.concatenate([piece[k].numpy() for piece in found]) for k in range(3))
    # A flat number says which picture and which pixel of its sensor.
    which, pixel = np.divmod(flat, sensor**2)
    time = time.astype(np.int64)
    # By recording, and by time within each; the last key counts most.
    order = np.lexsort((time, which))
    ends = np.searchsorted(which[order], np.arange(count + 1))
    out = []
    for k in range(count):
        rows = order[ends[k] : ends[k + 1]]
        y, x = np.divmod(pixel[rows], sensor)
        out.append(Events(x.astype(np.int16), y.astype(np.int16), polarity[rows].astype(np.int8), time[rows]))
    return out
