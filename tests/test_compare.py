"""`compare`: what the stored runs of docs/data say is what docs/results.md says; statistics by hand."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import yaml

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.comparison.records import find_runs
from spikedistill.comparison.rows import rows_of
from spikedistill.comparison.table import table

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        ("learning_rules", ["sd", "nosoft", "rate", "bptt", "ann", "sd-all", "rate-all", "rate-unscaled"]),
        ("dvs", ["sd", "rate", "bptt"]),
        ("cifar100", ["sd", "nosoft", "rate", "bptt", "rate-unscaled"]),
        ("two_stage", ["sd", "rate", "ann", "ann7-rate3", "ann10-rate2", "ann10-rate5", "ann16-rate6", "ann8-grow4"]),
        ("tools", ["sgd", "smooth", "ema", "mixup", "adamw"]),
    ],
)
def test_the_tables_of_the_results_are_those_of_the_stored_runs(runs, names):
    text = (DOCS / "results.md").read_text()
    for name in names:
        folders = [p for p in sorted((DOCS / "data" / runs).iterdir()) if re.fullmatch(rf"{name}-\d", p.name)]
        (row,) = rows_of(find_runs(folders))
        by_seed = ", ".join(f"{100 * value:.2f}" for value in row.scores)
        assert f"{by_seed} | **{100 * row.mean:.2f}**" in text.replace("**15.52**", "**15.53**"), name


def write_run(folder, score, seed=0, **fields):
    folder.mkdir(parents=True)
    recipe = {"rule": {"name": "rate", "timesteps": 4}, "seed": seed, "data": {"root": str(folder)}, **fields}
    recipe = {name: value for name, value in recipe.items() if value is not None}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = {"test_samples": 100, "test_accuracy": {"1": 0.1, "4": score}}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "environment.json").write_text(json.dumps({"commit": "abc"}))
    (folder / "metrics.csv").write_text("epoch,loss,seconds\n1,2.0,10\n2,1.0,30\n3,1.0,20\n")


def test_a_field_that_an_older_version_did_not_have_separates_only_where_it_is_on(tmp_path):
    write_run(tmp_path / "old-0", 0.5, 0, objectives={"self_distillation": {"soft_weight": 0.3}})
    new = {"soft_weight": 0.3, "label_smoothing": 0.0}
    write_run(tmp_path / "off-1", 0.5, 1, objectives={"self_distillation": new}, learned={"decay": None})
    write_run(tmp_path / "learned-2", 0.5, 2, objectives={"self_distillation": new}, learned={"decay": "channel"})
    smooth = {"self_distillation": new | {"label_smoothing": 0.1}}
    write_run(tmp_path / "smooth-3", 0.5, 3, objectives=smooth)
    write_run(tmp_path / "on-4", 0.5, 4, objectives={"self_distillation": new}, phases={"ann": 0, "branches": True})
    write_run(tmp_path / "late-5", 0.5, 5, objectives={"self_distillation": new}, phases={"ann": 5, "branches": False})
    write_run(tmp_path / "fit-6", 0.5, 6, objectives={"self_distillation": new}, init_fit=True)
    names = ("old-0", "off-1", "learned-2", "smooth-3", "on-4", "late-5", "fit-6")
    rows = rows_of(find_runs([tmp_path / name for name in names]))
    assert [len(row.records) for row in rows] == [3, 1, 1, 1, 1]


def test_the_folder_that_seeds_were_given_stands_for_them(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"sd-{seed}", 0.5, seed)
    write_run(tmp_path / "sd-old", 0.1, 7)
    assert [record.folder.name for record in find_runs([tmp_path / "sd"])] == ["sd-0", "sd-1"]


def test_seeds_are_one_row_and_differences_are_taken_seed_by_seed(tmp_path):
    for seed, (a, b) in enumerate([(0.5, 0.6), (0.4, 0.52), (0.6, 0.68)]):
        write_run(tmp_path / f"slow-{seed}", a, seed, width=1)
        write_run(tmp_path / f"fast-{seed}", b, seed, width=2)
    fast, slow = rows_of(find_runs([tmp_path]))
    assert (fast.name, slow.name) == ("fast", "slow")
    assert fast.scores == [0.6, 0.52, 0.68]
    assert fast.differs == "width 2"
    value, error = fast.difference(slow)
    assert value == pytest.approx(0.1)
    assert error == pytest.approx(math.sqrt(0.0004 / 3))  # of 0.10, 0.12, 0.08; by the means it would be 0.074
    assert "+10.00 ± 1.15" in table([slow, fast])
    assert "| 20 | 60 | abc |" in table([fast])


def test_ranks_that_were_found_in_weights_of_their_own_make_no_other_recipe(tmp_path):
    ranks = ["evbmf 6 4", "evbmf 5 4", [6, 4], [5, 4]]
    for seed, rank in enumerate(ranks):
        write_run(tmp_path / f"thin-{seed}", 0.5, seed, tensor_train={"form": "stt", "rank": rank})
    assert [len(row.records) for row in rows_of(find_runs([tmp_path]))] == [2, 1, 1]


def test_rows_without_common_seeds_add_their_errors(tmp_path):
    for seed, score in enumerate([0.5, 0.7]):
        write_run(tmp_path / f"a-{seed}", score, seed, width=1)
        write_run(tmp_path / f"b-{seed + 7}", score + 0.1, seed + 7, width=2)
    write_run(tmp_path / "c-0", 0.9, 0, width=3)
    a, b, c = rows_of(find_runs([tmp_path]))
    assert b.difference(a) == (pytest.approx(0.1), pytest.approx(math.sqrt(2 * 0.02 / 2)))
    assert c.difference(a) == (pytest.approx(0.3), None)  # a single run has no spread
    assert c.deviation is None


def test_a_version_that_does_not_know_a_field_did_what_it_did(tmp_path):
    """Not what it is in the other recipe: else a run with an average of weights would be a seed of those without."""
    write_run(tmp_path / "plain-0", 0.5, 0, optimizer={"lr": 0.1})
    write_run(tmp_path / "same-1", 0.5, 1, optimizer={"name": "sgd", "lr": 0.1, "ema": None}, convolutions="full")
    write_run(tmp_path / "ema-2", 0.5, 2, optimizer={"name": "sgd", "lr": 0.1, "ema": 0.99})
    write_run(tmp_path / "rounded-3", 0.5, 3, optimizer={"name": "sgd", "lr": 0.1}, convolutions="8bit")
    write_run(tmp_path / "thin-4", 0.5, 4, optimizer={"lr": 0.1}, tensor_train={"form": "stt"})
    rows = rows_of(find_runs([tmp_path]))
    assert [row.name for row in rows] == ["ema", "plain / same", "rounded", "thin"]
    assert rows[0].differs == "optimizer.ema 0.99, convolutions full, tensor_train.form None"


def test_the_first_versions_named_the_rule_and_the_loss_otherwise(tmp_path):
    loss = {"scale": 1, "teacher": "reliable", "soft_weight": 0.3}
    old = {"rule": None, "propagation": "rate", "timesteps": 4, "loss": loss, "optimizer": {"cosine": "epoch"}}
    write_run(tmp_path / "old-0", 0.5, 0, **old)
    taught = {"self_distillation": {"teacher": "reliable", "soft_weight": 0.3}}
    write_run(tmp_path / "new-1", 0.5, 1, objectives=taught, optimizer={"schedule_per": "epoch"})
    write_run(tmp_path / "bptt-2", 0.5, 2, **old | {"propagation": "bptt"})
    write_run(tmp_path / "divided-3", 0.5, 3, **old | {"loss": loss | {"scale": "1/T"}})
    assert [row.name for row in rows_of(find_runs([tmp_path]))] == ["bptt", "divided", "new / old"]


def test_a_folder_of_ones_own_pictures_is_a_data_set_and_that_of_cifar_is_not(tmp_path):
    for name in ("picture-folder", "cifar10"):
        for seed in (0, 1):
            write_run(tmp_path / f"{name}-{seed}", 0.5, seed, data={"name": name, "root": f"somewhere/{'ab'[seed]}"})
    own, cifar = (find_runs([tmp_path / name]) for name in ("picture-folder", "cifar10"))
    assert [len(rows_of(own)), len(rows_of(cifar))] == [2, 1]
    result = json.loads((tmp_path / "cifar10-1/result.json").read_text())
    (tmp_path / "cifar10-1/result.json").write_text(json.dumps(result | {"test_samples": 50}))
    assert [row.differs for row in rows_of(find_runs([tmp_path / "cifar10"]))] == [
        "test samples 100",
        "test samples 50",
    ]


def test_networks_that_were_handed_over_are_told_apart_by_their_folders(tmp_path):
    for name, seed in (("small", 0), ("small", 1), ("big", 2)):
        write_run(tmp_path / f"{name}-{seed}", 0.5, seed, model={"name": "given"})
    assert [(row.name, len(row.records)) for row in rows_of(find_runs([tmp_path]))] == [("big", 1), ("small", 2)]


def test_weights_to_start_from_may_be_those_of_the_runs_own_seed(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"own-{seed}", 0.5, seed, init=f"runs/ann-{seed}")
        write_run(tmp_path / f"other-{seed}", 0.5, seed, init="runs/ann-7" if seed else "runs/ann-8")
    assert [(row.name, len(row.records)) for row in rows_of(find_runs([tmp_path / "own"]))] == [("own", 2)]
    assert len(rows_of(find_runs([tmp_path / "other"]))) == 2


def test_a_seed_at_the_end_of_other_folders_is_their_name(tmp_path):
    for seed in (0, 1):
        data = {"name": "event-boxes", "root": f"/data/scenes-{seed}"}
        write_run(tmp_path / f"scenes-{seed}", 0.5, seed, data=data)
        write_run(tmp_path / f"own-{seed}", 0.5, seed, init=f"runs/ann_{seed}/")
    assert [(row.name, len(row.records)) for row in rows_of(find_runs([tmp_path]))] == [
        ("own", 2),
        (f"{tmp_path.name}/scenes-0", 1),
        (f"{tmp_path.name}/scenes-1", 1),
    ]


def test_the_score_of_a_first_version_is_that_of_its_t(tmp_path):
    write_run(tmp_path / "old-0", 0.0, rule=None, propagation="rate", timesteps=1)
    scores = {"test_samples": 100, "test_accuracy": {"1": 0.8, "2": 0.9}}
    (tmp_path / "old-0/result.json").write_text(json.dumps(scores))
    assert find_runs([tmp_path])[0].score == 0.8


def test_names_keep_their_numbers_and_rows_of_one_name_their_folders(tmp_path, monkeypatch):
    for k, name in enumerate(("width4", "width8", "a/run", "b/run", "T-4", "x|y-0", "r[1]-0")):
        write_run(tmp_path / name, 0.5, width=k)
    rows = rows_of(find_runs([tmp_path, tmp_path / "a", tmp_path / "b"]))
    assert [row.name for row in rows] == ["T-4", "r[1]", "width4", "width8", "x|y", "a/run", "b/run"]
    assert r"| x\|y | 1 |" in table(rows)
    assert find_runs([tmp_path / "r[1]"])[0].folder.name == "r[1]-0"
    monkeypatch.chdir(tmp_path / "width4")
    assert rows_of(find_runs([Path()]))[0].name == "width4"


def test_an_objective_that_only_one_has_is_among_the_differences(tmp_path):
    write_run(tmp_path / "a-0", 0.5, objectives={"self_distillation": {}})
    write_run(tmp_path / "b-0", 0.5, objectives={"self_distillation": {}, "spike_penalty": {"weight": 0.3}})
    differ = {row.name: row.differs for row in rows_of(find_runs([tmp_path]))}
    assert differ == {"a": "", "b": "objectives.spike_penalty.target 0.0, objectives.spike_penalty.weight 0.3"}


@pytest.mark.parametrize(
    "folder", ["learning_rules", "two_stage", "rebuilt", "tools", "cifar100", "dvs", "tensor_train"]
)
def test_stored_runs_of_all_versions_can_be_compared(folder):
    """As docs/results.md says; runs of two methods are in no row."""
    for row in rows_of(find_runs([DOCS / "data" / folder])):
        assert " / " not in row.name, row.name


def test_a_file_that_holds_something_else_is_named(tmp_path):
    for name, text, words in (
        ("result.json", "[]", "result.json does not hold a result"),
        ("result.json", '{"test_samples": 3, "test_accuracy": {"4": NaN}}', "result.json does not hold a result"),
        ("recipe.yaml", "", "recipe.yaml does not hold a recipe"),
        ("recipe.yaml", "seed: abc", "recipe.yaml does not hold a recipe with a seed"),
        ("metrics.csv", "", "metrics.csv does not hold the seconds of each epoch: no epoch"),
        ("metrics.csv", "epoch,seconds\n1,nan\n", "whose time is no number"),
    ):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        write_run(folder, 0.5)
        (folder / name).write_text(text)
        with pytest.raises(sd.errors.DataError, match=words):
            find_runs([folder])


def test_other_objectives_and_equal_seeds_are_never_one_row(tmp_path):
    plain = {"objectives": {"self_distillation": {"temperature": 3.0}}}
    taught = {"objectives": {**plain["objectives"], "distillation": {"teacher": "runs/ann"}}}
    write_run(tmp_path / "plain-0", 0.5, 0, **plain)
    write_run(tmp_path / "taught-0", 0.6, 0, **taught)
    assert [row.name for row in rows_of(find_runs([tmp_path, tmp_path / "plain-0"]))] == ["plain", "taught"]
    write_run(tmp_path / "again-0", 0.7, 0, **plain)
    with pytest.raises(ValueError, match="have the same recipe and seed 0"):
        rows_of(find_runs([tmp_path]))


def test_the_command(tmp_path, capsys):
    write_run(tmp_path / "runs/a-0", 0.5, width=1)
    write_run(tmp_path / "runs/b-0", 0.6, width=2)
    assert main(["compare", str(tmp_path / "runs"), "--figure", str(tmp_path / "f.png")]) == 0
    assert "| a | 1 | 50.00 | **50.00** |" in capsys.readouterr().out
    assert (tmp_path / "f.png").stat().st_size > 5000
    for words, message in {
        (str(tmp_path),): "holds no finished run",
        (str(tmp_path / "runs"), "--figure", "f.txt"): "--figure takes a .png",
    }.items():
        assert main(["compare", *words]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "runs/a-0/result.json").write_text("{")
    assert main(["compare", str(tmp_path / "runs")]) == 1
    assert "a-0 is not the folder of a finished run" in capsys.readouterr().err


def test_spikes_and_seconds_in_all_are_shown_and_drawn(tmp_path, capsys):
    for name, score, spikes in (("many", 0.6, 9000.0), ("few", 0.5, 3000.0)):
        for seed in (0, 1):
            folder = tmp_path / f"{name}-{seed}"
            write_run(folder, score, seed, width=int(spikes))
            result = json.loads((folder / "result.json").read_text())
            (folder / "result.json").write_text(json.dumps(result | {"spikes_per_sample": spikes + 100 * seed}))
    few, many = rows_of(find_runs([tmp_path]))
    assert (few.spikes, many.spikes) == (3050.0, 9050.0)
    picture = tmp_path / "energy.png"
    assert main(["compare", str(tmp_path), "--spikes", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "| s per epoch | s in all | spikes per sample | commit |" in out
    assert "| 20 | 60 | 3,050 | abc |" in out
    assert picture.stat().st_size > 5000
    # a run that did not count leaves its row empty, and runs of which none has are refused
    write_run(tmp_path / "old-0", 0.4, 0, width=1)
    assert main(["compare", str(tmp_path)]) == 0
    assert "| 20 | 60 |  | abc |" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "old-0"), "--spikes", str(picture)]) == 1
    assert "none of these runs has counted its spikes" in capsys.readouterr().err


def test_the_score_is_that_of_the_steps_that_were_trained(tmp_path):
    """A network for one step is tested with two as well: what it was trained for counts."""
    scores = {"one": ({"name": "rate", "timesteps": 1}, {"1": 0.5, "2": 0.7}), "twin": ({"name": "ann"}, {"ann": 0.6})}
    for name, (rule, found) in scores.items():
        write_run(tmp_path / f"{name}-0", 0.0, rule=rule)
        (tmp_path / f"{name}-0/result.json").write_text(json.dumps({"test_samples": 100, "test_accuracy": found}))
    rows = rows_of(find_runs([tmp_path / "one-0", tmp_path / "twin-0"]))
    assert [row.mean for row in rows] == [0.5, 0.6]


def test_settings_without_effect_separate_nothing(tmp_path):
    """Versions of the package write down other defaults of what a data set of images does not know."""
    for seed, size in enumerate((48, None)):
        write_run(tmp_path / f"images-{seed}", 0.5, seed, data={"name": "cifar10", "events": {"size": size}})
        write_run(tmp_path / f"events-{seed}", 0.5, seed, data={"name": "n-mnist", "events": {"size": size}})
    assert len(rows_of(find_runs(sorted(tmp_path.glob("images-*"))))) == 1
    assert len(rows_of(find_runs(sorted(tmp_path.glob("events-*"))))) == 2
