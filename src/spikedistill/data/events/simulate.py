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
        side: rows and columns of the sensor that the picture covers.
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
    side: int = 96
    amplitude: float = 5.0
    loops: int = 4
    loop_time: int = 200_000
    steps: int = 32

    def __post_init__(self) -> None:
        for name in ("threshold", "dark", "side", "loops", "loop_time", "steps"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(f"camera: {name} is {getattr(self, name)}; expected more than 0")
        if self.side + 2 * self.amplitude > SENSOR:
            raise InvalidArgument(
                f"camera: a picture of {self.side} pixels moved by {self.amplitude} leaves the sensor"
            )


def path(camera: Camera) -> Tensor:
    """Offsets (x, y) of the picture [loops·steps + 1, 2]: a diamond whose corners are `amplitude` from the middle."""
    turn = torch.arange(camera.loops * camera.steps + 1) / camera.steps * 4
    corners = torch.tensor([[0.0, -1.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    side = (turn % 4).floor().long()
    share = (turn % 4 - side)[:, None]
    return camera.amplitude * ((1 - share) * corners[side] + share * corners[side + 1])


def seen(pictures: Tensor, offset: Tensor, camera: Camera) -> Tensor:
    """Log intensity [N, SENSOR, SENSOR] of grey pictures [N, H, W] (0..1), shifted by `offset` (x, y); grey around."""
    scale = SENSOR / camera.side
    shift = -offset * 2 / camera.side
    theta = torch.tensor([[scale, 0.0, float(shift[0])], [0.0, scale, float(shift[1])]]).repeat(len(pictures), 1, 1)
    grid = F.affine_grid(theta, [len(pictures), 1, SENSOR, SENSOR], align_corners=False)
    shown = F.grid_sample(pictures[:, None] - 0.5, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (shown[:, 0] + 0.5 + camera.dark).log()


def simulate(pictures: Tensor, camera: Camera, generator: torch.Generator) -> list[Events]:
    """Record pictures: one `Events` each, upright, in the order of time.

    Args:
        pictures: uint8 [N, C, H, W], grey or colour.
    """
    grey = pictures.float() / 255
    if grey.shape[1] == 3:
        grey = (grey * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    grey, count = grey[:, 0], len(pictures)
    threshold = camera.threshold * (1 + camera.mismatch * torch.randn(count, SENSOR, SENSOR, generator=generator))
    threshold = threshold.clamp(min=camera.threshold / 4)
    offsets, step_time = path(camera), camera.loop_time / camera.steps
    before = seen(grey, offsets[0], camera)
    reference, blind_until = before.clone(), torch.full_like(before, -math.inf)
    found: list[tuple[Tensor, Tensor, Tensor]] = []  # flat pixel, polarity, time
    for k, offset in enumerate(offsets[1:]):
        now = seen(grey, offset, camera)
        _crossings(before, now, reference, threshold, blind_until, k * step_time, step_time, camera, found)
        before = now
    _noise(count, camera, generator, found)
    return _recordings(count, found)


def _crossings(
    before: Tensor,
    now: Tensor,
    reference: Tensor,
    threshold: Tensor,
    blind_until: Tensor,
    start: float,
    span: float,
    camera: Camera,
    found: list[tuple[Tensor, Tensor, Tensor]],
) -> None:
    """Events of one step; `reference` and `blind_until` are moved on in place."""
    flat = [t.view(-1) for t in (before, now, reference, threshold, blind_until)]
    pixels = ((flat[1] - flat[2]).abs() >= flat[3]).nonzero()[:, 0]
    while len(pixels):
        old, new, ref, limit, blind = (t[pixels] for t in flat)
        up = new > ref
        level = torch.where(up, ref + limit, ref - limit)
        flat[2][pixels] = level
        time = start + span * ((level - old) / (new - old)).clamp(0, 1)
        reported = time >= blind
        flat[4][pixels[reported]] = time[reported] + camera.refractory
        found.append((pixels[reported], up[reported], time[reported]))
        pixels = pixels[(new - level).abs() >= limit]


def _noise(count: int, camera: Camera, generator: torch.Generator, found: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    length = camera.loops * camera.loop_time
    mean = torch.tensor(camera.noise * length * 1e-6 * count * SENSOR**2)
    events = int(torch.poisson(mean, generator=generator))
    pixels = torch.randint(count * SENSOR**2, (events,), generator=generator)
    polarity = torch.rand(events, generator=generator) < 0.5
    found.append((pixels, polarity, torch.rand(events, generator=generator) * length))


def _recordings(count: int, found: list[tuple[Tensor, Tensor, Tensor]]) -> list[Events]:
    """Events of each picture, sorted by time."""
    flat, polarity, time = (np.concatenate([t[k].numpy() for t in found]) for k in range(3))
    which, pixel = np.divmod(flat, SENSOR**2)
    time = time.astype(np.int64)
    order = np.lexsort((time, which))
    ends = np.searchsorted(which[order], np.arange(count + 1))
    out = []
    for k in range(count):
        rows = order[ends[k] : ends[k + 1]]
        y, x = np.divmod(pixel[rows], SENSOR)
        out.append(Events(x.astype(np.int16), y.astype(np.int16), polarity[rows].astype(np.int8), time[rows]))
    return out
