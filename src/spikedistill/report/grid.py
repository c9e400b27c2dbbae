"""A picture of samples as the network gets them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

FRAMES_SHOWN = 5


def grid(inputs: Tensor, names: list[str], path: Path) -> None:
    """Draw a batch: pictures [N, C, H, W] in rows of eight, or event frames [T, N, 2, H, W], one recording a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if inputs.dim() == 5:
        steps = torch.linspace(0, len(inputs) - 1, min(FRAMES_SHOWN, len(inputs))).long()
        cells = [[event_picture(inputs[t, k]) for t in steps.tolist()] for k in range(min(8, inputs.shape[1]))]
        titles = [[names[k], *[f"t = {t + 1}" for t in steps.tolist()[1:]]] for k in range(len(cells))]
    else:
        pictures = [shown(picture) for picture in inputs]
        cells = [pictures[k : k + 8] for k in range(0, len(pictures), 8)]
        titles = [names[k : k + 8] for k in range(0, len(pictures), 8)]
    width = max(map(len, cells))
    figure = Figure(figsize=(1.5 * width, 1.7 * len(cells)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(cells), width, squeeze=False)
    for row, pictures in enumerate(cells):
        for column in range(width):
            axis = axes[row][column]
            axis.axis("off")
            if column < len(pictures):
                axis.imshow(pictures[column].numpy(), cmap="gray", vmin=0, vmax=1)
                axis.set_title(titles[row][column], fontsize=8)
    figure.savefig(path, dpi=100)


def shown(picture: Tensor) -> Tensor:
    """A normalised picture [C, H, W] stretched to 0..1: [H, W] or [H, W, 3]."""
    low, high = picture.min(), picture.max()
    picture = ((picture - low) / (high - low).clamp(min=1e-6)).cpu()
    return picture[0] if len(picture) == 1 else picture.permute(1, 2, 0)


def event_picture(frame: Tensor) -> Tensor:
    """A frame [2, H, W] as [H, W, 3]: white where nothing happened, blue brighter, red darker."""
    off, on = (frame.cpu() / frame.max().clamp(min=1)).sqrt()
    return torch.stack([1 - on, 1 - torch.maximum(on, off), 1 - off], -1)
