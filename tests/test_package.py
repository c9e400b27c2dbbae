"""What holds for the package as a whole."""

from __future__ import annotations

import subprocess
import sys

import spikedistill as sd
from spikedistill.training.recipe import Recipe


def test_importing_is_fast_and_does_not_import_torch():
    code = (
        "import sys, time; t = time.perf_counter(); import spikedistill, spikedistill.cli; "
        "assert 'torch' not in sys.modules; assert time.perf_counter() - t < 0.5; "
        "import spikedistill.training.recipe_files; "
        "assert not {'torchvision', 'matplotlib', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    for name in sd.__all__:
        assert getattr(sd, name) is not None
    assert Recipe().timesteps == 4
