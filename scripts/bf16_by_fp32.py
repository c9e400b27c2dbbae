"""Train with bf16 on a processor that has no bf16 units, to see its accuracy: not its speed.

python scripts/bf16_by_fp32.py train cifar10-foundation --data.root FOLDER --precision bf16 --seed 0

Such processors compute bf16 convolutions 8 to 40 times slower than fp32. Here a convolution of bf16 tensors, and its
backward, is one of the same tensors in fp32 whose result is rounded to bf16: what a bf16 unit does, which
multiplies exactly and adds in fp32. Everything else (autocast, kernels, branches, loss) is the bf16 path as it is.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from spikedistill.cli import main

OPERATIONS = ("convolution", "convolution_backward")


def install() -> torch.library.Library:
    """Replace the operations for CPU tensors, as long as what is returned lives."""
    library = torch.library.Library("aten", "IMPL")
    for name in OPERATIONS:
        overload = getattr(torch.ops.aten, name).default
        original = torch.library.get_kernel(overload, "CPU")
        library.impl(name, _in_fp32(original), "CPU", with_keyset=True, allow_override=True)
    return library


def _in_fp32(original: Any) -> Any:
    def operation(keys: Any, *arguments: Any) -> Any:
        if arguments[0].dtype != torch.bfloat16:
            return original.call_boxed(keys, *arguments)
        wide = [a.float() if isinstance(a, Tensor) else a for a in arguments]
        found = original.call_boxed(keys, *wide)
        if isinstance(found, Tensor):
            return found.bfloat16()
        return tuple(None if f is None else f.bfloat16() for f in found)

    return operation


if __name__ == "__main__":
    library = install()
    sys.exit(main(sys.argv[1:]))
