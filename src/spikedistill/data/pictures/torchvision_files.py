"""Data sets in torchvision's own files, downloaded by it where the user wants that."""

from __future__ import annotations

import torch
from torch import Tensor

from spikedistill.data.dataset import DataSet, Request
from spikedistill.data.pictures.folder import content
from spikedistill.errors import DataError
from spikedistill.tasks.classification import Labels


def read_torchvision(dataset: DataSet, request: Request) -> tuple[Tensor, Labels]:
    """Images uint8 [M, C, H, W] and their classes.

    Raises:
        DataError: missing, damaged, or not to be downloaded.
    """
    import torchvision.datasets

    # Readers of this kind are given to such rows of the table only.
    assert dataset.torchvision is not None
    root = request.folder()
    if not request.download and not root.is_dir():
        raise DataError(
            f"data.root {root} is not a folder; give the folder that holds {request.name}, or have it downloaded "
            "there: --data.download true"
        )
    # The table has the name and not the class, so that torchvision is imported only where it is used.
    make = getattr(torchvision.datasets, dataset.torchvision[0])
    try:
        data = make(str(root), train=request.train, download=request.download)
    except Exception as error:  # each class and file meets damage in its own way
        if request.download:
            raise DataError(f"{request.name} could not be downloaded to {root}: {error}") from error
        raise DataError(
            f"{root} holds no {request.name}: neither {dataset.parquet}-train.parquet nor torchvision's files "
            f"({error}). It holds: {content(root)}. To download it there: --data.download true"
        ) from error
    images = torch.as_tensor(data.data)  # grey [M, H, W], colour [M, H, W, 3]
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images, Labels(torch.as_tensor(data.targets), tuple(data.classes))
