"""Recipes and folders of runs that are damaged or lie, for the table of bad inputs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import yaml


def recipes(root: Path) -> None:
    deep = "{a: " * 80 + "1" + "}" * 80
    texts = {
        "list": "[1, 2]",
        "word": "just words",
        "number": "3",
        "broken": "model: {width: ",
        "tabs": "model:\n\twidth: 3",
        "two": "a: 1\n---\nb: 2",
        "python": "model: !!python/object/apply:os.system ['touch harm']",
        "tag": "model: !thing 3",
        "alias": "model: &m {width: 3}\nbranches: *m",
        "itself": "model: &m\n  width: *m",
        "bomb": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]",
        "deep": f"model: {deep}",
        "data-list": "data: []",
        "model-number": "model: 3",
        "model-list": "model: [resnet18]",
        "rule-list": "rule: [rate]",
        "objectives-list": "objectives: [self_distillation]",
        "objectives-none": "objectives: {}",
        "optimizer-number": "optimizer: 0.1",
        "unknown": "modle: resnet18",
        "unknown-below": "model: {widht: 3}",
        "null-model": "model: null",
        "width-text": "model: {width: wide}",
        "width-real": "model: {width: 3.5}",
        "width-list": "model: {width: [3]}",
        "width-minus": "model: {width: -3}",
        "timesteps-zero": "timesteps: 0",
        "timesteps-huge": "timesteps: 1.5",
        "date": "seed: 2024-13-45",
        "key-list": "? [a, b]\n: 3",
        "duplicate-colon": "model:: 3",
    }
    for name, text in texts.items():
        (root / f"{name}.yaml").write_text(text)
    (root / "utf16.yaml").write_bytes("model: {width: 3}".encode("utf-16"))
    (root / "latin.yaml").write_bytes(b"# \xe9\xff\nmodel: {width: 3}")
    (root / "null.yaml").write_bytes(b"model: \0")
    (root / "folder.yaml").mkdir()
    os.mkfifo(root / "pipe.yaml")
    (root / "large.yaml").write_bytes(b"#" * (17 * 1024**2))


def runs(root: Path, good: Path) -> None:
    """Copies of a finished run, each with something changed."""

    def copy(name: str) -> Path:
        return shutil.copytree(good, root / f"run-{name}")

    config = json.loads((good / "config.json").read_text())
    changes = {
        "format": {"format": "other 3"},
        "no-model": {"model": None},
        "model-unknown": {"model": {"name": "resnet99"}},
        "model-import": {"model": {"name": "harm:build"}},
        "model-option": {"model": {"name": "resnet18", "widht": 2}},
        "model-wider": {"model": {"name": "resnet18", "width": 4}},
        "model-huge": {"model": {"name": "resnet18", "width": 0}},
        "task": {"task": {"name": "riddles"}},
        "timesteps-text": {"timesteps": "four"},
        "timesteps-zero": {"timesteps": 0},
        "timesteps-huge": {"timesteps": 10**9},
        "precision": {"precision": "fp8"},
        "input-none": {"input": None},
        "input-kind": {"input": {**config["input"], "kind": "smell"}},
        "input-shape": {"input": {**config["input"], "shape": [1, 28, -28]}},
        "input-shape-huge": {"input": {**config["input"], "shape": [1, 60000, 60000]}},
        "input-mean": {"input": {**config["input"], "mean": [0.1, 0.2]}},
        "input-std": {"input": {**config["input"], "std": [0.0]}},
        "input-mean-text": {"input": {**config["input"], "mean": "0.5"}},
        "targets": {"targets": {"classes": []}},
        "targets-numbers": {"targets": {"classes": [1, 2]}},
        "targets-fewer": {"targets": {"classes": ["a", "b"]}},
    }
    for name, change in changes.items():
        (copy(f"config-{name}") / "config.json").write_text(json.dumps(config | change))
    contents: dict[str, tuple[str, bytes]] = {
        "config-half": ("config.json", (good / "config.json").read_bytes()[:50]),
        "config-list": ("config.json", b"[]"),
        "config-deep": ("config.json", b"[" * 5000 + b"]" * 5000),
        "config-latin": ("config.json", b'{"format": "\xff"}'),
        "config-number": ("config.json", b"1" * 5000),
        "weights-half": ("model.safetensors", (good / "model.safetensors").read_bytes()[:500]),
        "weights-zero": ("model.safetensors", b""),
        "weights-claim": ("model.safetensors", (2**62).to_bytes(8, "little") + b"{}"),
        "weights-text": ("model.safetensors", b"hello"),
        "recipe-half": ("recipe.yaml", (good / "recipe.yaml").read_bytes()[:60]),
        "recipe-zero": ("recipe.yaml", b""),
        "recipe-latin": ("recipe.yaml", b"seed: \xff"),
        "checkpoint-zero": ("checkpoint.pt", b""),
        "checkpoint-text": ("checkpoint.pt", b"x" * 500),
        "checkpoint-flipped": ("checkpoint.pt", flipped((good / "checkpoint.pt").read_bytes())),
        "result-half": ("result.json", b'{"test_samples": 3'),
        "result-nan": ("result.json", b'{"test_samples": 3, "test_accuracy": {"2": NaN}}'),
        "result-none": ("result.json", b'{"test_samples": 3, "test_accuracy": {}}'),
        "metrics-half": ("metrics.csv", b"epoch,loss\n1,"),
        "metrics-text": ("metrics.csv", b"epoch,seconds\na,b\n"),
        "metrics-zero": ("metrics.csv", b""),
    }
    for name, (file, content) in contents.items():
        folder = copy(name)
        (folder / file).write_bytes(content)
        (folder / "checkpoint-before.pt").unlink(missing_ok=True)
    for file in ("config.json", "model.safetensors", "recipe.yaml", "checkpoint.pt", "result.json", "metrics.csv"):
        folder = copy(f"no-{file.partition('.')[0]}")
        (folder / file).unlink()
        (folder / "checkpoint-before.pt").unlink(missing_ok=True)
    for name, change in {
        "lr": {"optimizer": {"lr": 7.0}},
        "seed": {"seed": 9},
        "rule": {"rule": {"timesteps": 7}},
    }.items():
        folder = copy(f"edited-{name}")
        values = yaml.safe_load((good / "recipe.yaml").read_text())
        for group, fields in change.items():
            values[group] = values[group] | fields if isinstance(fields, dict) else fields
        (folder / "recipe.yaml").write_text(yaml.safe_dump(values))


def flipped(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]
