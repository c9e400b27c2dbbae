"""What holds for the package as a whole."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import spikedistill as sd
from spikedistill.machine.environment import environment
from spikedistill.training.recipe import Recipe


def test_importing_is_fast_and_does_not_import_torch():
    code = (
        "import sys, time; t = time.perf_counter(); import spikedistill, spikedistill.cli; "
        "assert 'torch' not in sys.modules; assert time.perf_counter() - t < 0.5; "
        "import spikedistill.training.recipe_files, spikedistill.training.run; "
        "assert not {'torchvision', 'matplotlib', 'pyarrow', 'jsonargparse'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_says_what_it_is():
    for name in sd.__all__:
        assert getattr(sd, name).__doc__
    assert Recipe().timesteps == 4
    with pytest.raises(AttributeError, match="no attribute 'lif'"):
        _ = sd.lif


KEYS = {"commit", "spikedistill", "python", "torch", "torchvision", "machine", "processor", "threads", "cuda"}


def test_the_environment_is_known_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = environment()
    assert set(found) == KEYS
    assert found["commit"] is None
    assert found["torch"]


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_a_foreign_repository_is_not_taken_for_ours_and_runs_nothing(tmp_path):
    """A package that was installed into somebody's repository has no commit, and that repository's hooks do not run."""
    package = Path(sd.__file__).parent
    home = tmp_path / "site-packages"
    shutil.copytree(package / "machine", home / "spikedistill" / "machine")
    for name in ("__init__.py", "errors.py"):
        shutil.copy(package / name, home / "spikedistill" / name)
    harm = tmp_path / "harm"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "theirs"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run([*git, "config", "core.fsmonitor", f"touch {harm}; false"], check=True)
    code = "from spikedistill.machine.environment import environment; print(environment()['commit'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "None", done.stderr
    assert not harm.exists()


@pytest.mark.whole
def test_modules_can_be_imported_in_any_order():
    """No module relies on another having been imported before it; that none import in a circle, test_house looks at."""
    for name in ("core.signal", "training.trained"):
        code = f"import spikedistill.{name}"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert importlib.import_module(f"spikedistill.{name}")
