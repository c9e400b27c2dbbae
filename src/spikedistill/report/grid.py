"""A picture of samples as the network gets them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spikedistill.errors import InvalidArgument
from spikedistill.report.figure import new_figure, save_figure
from spikedistill.tasks.task import Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAMES_SHOWN = 5
RECORDINGS_SHOWN = 8
COLUMNS = 8
CELL, SINGLE = 1.5, 4.0
LETTERS = 24
"""As many stand over a cell; more would run into the caption of the next."""
"""Inches, of one sample in a grid and of one alone."""


def grid(inputs: Tensor, captions: list[str], path: Path, marks: Sequence[Sequence[Mark]] = ()) -> int:
    """Draw a batch, in the format that the name of `path` ends with; returns how many samples are shown.

    Args:
        inputs: images [N, C, H, W], eight in a row with a caption over each; or event frames [T, N, 2, H, W], a row
            for each of the first eight recordings with its caption at the left, and up to five time steps.
        captions: N of them.
        marks: what is drawn on each of the N, of recordings on the last step that is shown.

    Raises:
        InvalidArgument: samples that are neither.
    """
    if inputs.dim() not in (4, 5):
        raise InvalidArgument(
            f"samples {list(inputs.shape[1:])} are no pictures and no event frames; they cannot be drawn"
        )
    if inputs.dim() == 5:
        _event_grid(inputs, captions, path, marks)
        return min(RECORDINGS_SHOWN, inputs.shape[1])
    _picture_grid(inputs, captions, path, marks)
    return len(inputs)


def _picture_grid(images: Tensor, captions: list[str], path: Path, marks: Sequence[Sequence[Mark]]) -> None:
    rows = -(-len(images) // COLUMNS)  # rounded up
    width = min(len(images), COLUMNS)
    figure = new_figure(CELL * width, (CELL + 0.2) * rows)
    # Always a grid, also for one row or one picture.
    axes = figure.subplots(rows, width, squeeze=False).flatten()
    for axis in axes[len(images) :]:  # of the last row
        axis.axis("off")
    for axis, image, caption in zip(axes, images, captions, strict=False):
        _show(axis, shown(image))
        axis.set_title(textwrap.shorten(caption, LETTERS, placeholder="…"), fontsize=8)
    for axis, drawn in zip(axes, marks, strict=False):
        draw_marks(axis, drawn)
    save_figure(figure, path, dpi=100)


def draw_marks(axis: Axes, marks: Sequence[Mark]) -> None:
    """Rectangles with their captions, over a picture."""
    from matplotlib.patches import Rectangle

    for mark in marks:
        left, top, width, height = mark.box
        # the middle of the first pixel is 0 to matplotlib, and its edge 0 to a box
        axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor="green", linewidth=1))
        axis.text(left, top - 1, mark.caption, fontsize=6, color="green", va="bottom", clip_on=True)


def _event_grid(frames: Tensor, captions: list[str], path: Path, marks: Sequence[Sequence[Mark]]) -> None:
    # Spread over the recording, from its first step to its last.
    steps = torch.linspace(0, len(frames) - 1, min(FRAMES_SHOWN, len(frames))).long().tolist()
    rows = min(RECORDINGS_SHOWN, frames.shape[1])
    figure = new_figure(CELL * len(steps) + 0.5, CELL * rows + 0.2)
    axes = figure.subplots(rows, len(steps), squeeze=False)
    for row in range(rows):
        axes[row][0].set_ylabel(captions[row], fontsize=8)
        for column, step in enumerate(steps):
            _show(axes[row][column], event_picture(frames[step, row]))
            if row == 0:
                axes[row][column].set_title(f"t = {step + 1}", fontsize=8)
        if row < len(marks):
            draw_marks(axes[row][-1], marks[row])
    save_figure(figure, path, dpi=100)


def marked_picture(inputs: Tensor, marks: Sequence[Mark], caption: str, path: Path) -> None:
    """Draw one sample with what was found on it.

    Args:
        inputs: an image [1, C, H, W], or event frames [T, 1, 2, H, W], of which all events are shown.
    """
    picture = event_picture(inputs[:, 0].sum(0)) if inputs.dim() == 5 else shown(inputs[0])
    height, width = picture.shape[:2]
    figure = new_figure(SINGLE, SINGLE * height / width + 0.3)
    axis = figure.subplots()
    _show(axis, picture)
    axis.set_title(caption, fontsize=8)
    draw_marks(axis, marks)
    save_figure(figure, path, dpi=150)


def _show(axis: Axes, picture: Tensor) -> None:
    """Without ticks and frame; `axis.axis("off")` would take the label of the row away with them."""
    # Fixed limits: a picture that is all of one grey should look so.
    axis.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def shown(picture: Tensor) -> Tensor:
    """A normalised picture [C, H, W] stretched to 0..1: [H, W] or [H, W, 3]; two channels are a frame of events.

    Of more than three, which no screen has, the mean.
    """
    if len(picture) > 3:
        picture = picture.mean(0, keepdim=True)
    if len(picture) == 2:
        return event_picture(picture)
    # Means and deviations differ between data sets; stretching shows all of them without knowing either.
    low, high = picture.min(), picture.max()
    picture = ((picture - low) / (high - low).clamp(min=1e-6)).cpu()
    return picture[0] if len(picture) == 1 else picture.permute(1, 2, 0)


def event_picture(frame: Tensor) -> Tensor:
    """A frame [2, H, W] as [H, W, 3]: white where nothing happened, blue brighter, red darker; else `shown`."""
    if len(frame) != 2:
        return shown(frame)
    off, on = (frame.cpu() / frame.max().clamp(min=1)).sqrt()  # the root makes single events visible beside busy pixels
    return torch.stack([1 - on, 1 - torch.maximum(on, off), 1 - off], -1)
