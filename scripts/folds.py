"""Folds of recordings in folders of classes, for tests on all of them: docs/results.md, section 7.

    python scripts/folds.py FOLDER OUT [COUNT]

FOLDER/Train/CLASS/FILE and FOLDER/Test/CLASS/FILE become OUT/0 to OUT/COUNT-1 of the same form (default: 5), copied.
Each file is in one test, and each class alike in all folds; which files go together is drawn with seed 0.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    if count < 2:
        sys.exit(f"COUNT is {count}; expected 2 folds or more")
    if out.exists():
        sys.exit(f"{out} exists already; name another folder")
    drawn = random.Random(0)
    kinds = sorted({folder.name for part in ("Train", "Test") for folder in (root / part).glob("*") if folder.is_dir()})
    if not kinds:
        sys.exit(f"{root} has no folders Train/CLASS or Test/CLASS")
    for kind in kinds:
        files = sorted(file for part in ("Train", "Test") for file in (root / part / kind).glob("*"))
        drawn.shuffle(files)
        for k, file in enumerate(files):
            for fold in range(count):
                target = out / str(fold) / ("Test" if k % count == fold else "Train") / kind
                target.mkdir(parents=True, exist_ok=True)
                # both parts may have a file of one name
                shutil.copyfile(file, target / f"{file.parent.parent.name.lower()}-{file.name}")


if __name__ == "__main__":
    main()
