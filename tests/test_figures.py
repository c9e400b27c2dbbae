"""Figures: names are no mathematics, an old file stays until the new one is whole, captions stay apart."""

from __future__ import annotations

import errno

import pytest
import torch
from test_compare import write_run

from spikedistill.cli import main
from spikedistill.errors import WriteError
from spikedistill.measure.evaluation import Evaluation
from spikedistill.report.curves import _lines, draw_curves
from spikedistill.report.figure import new_figure, save_figure
from spikedistill.report.grid import LETTERS, grid


def words_of(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("suffix", [".png", ".SVG"])
def test_names_with_dollars_are_names(tmp_path, suffix):
    figure = new_figure(3, 3)
    axes = figure.subplots()
    axes.set(title="cost$_$1x", xlabel="a$b$c")
    axes.set_yticks([0, 1], ["$_$", "plain"])
    save_figure(figure, tmp_path / f"f{suffix}")
    assert (tmp_path / f"f{suffix}").stat().st_size > 1000
    write_run(tmp_path / "runs" / "cost$_$1x", 0.5)
    assert main(["compare", str(tmp_path / "runs"), "--figure", str(tmp_path / "c.png")]) == 0


def test_the_old_picture_stays_where_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "f.png").write_text("old")
    figure = new_figure(1, 1)

    def full(file, **_):
        file.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(WriteError, match=r"could not write .*f.png: .*No space left"):
        save_figure(figure, tmp_path / "f.png")
    assert (tmp_path / "f.png").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_name_that_nobody_typed_is_not_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "show", "fashion-small", "--data.train_rows", "600"]) == 0
    first = (tmp_path / "samples.png").read_bytes()
    assert main(["data", "show", "fashion-small", "--data.train_rows", "700"]) == 1
    assert "samples.png is there already and is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "samples.png").read_bytes() == first


def test_a_folder_is_no_file_for_a_figure(tmp_path, capsys):
    write_run(tmp_path / "a-0", 0.5)
    (tmp_path / "d.png").mkdir()
    assert main(["compare", str(tmp_path / "a-0"), "--figure", str(tmp_path / "d.png")]) == 1
    found = capsys.readouterr()
    assert "--figure takes a .png" in found.err
    assert found.out == ""


def test_captions_are_as_long_as_their_cells(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("spikedistill.report.grid.save_figure", lambda figure, path, dpi: drawn.append(figure))
    grid(torch.rand(2, 1, 4, 4), ["3: Bag, Pullover, Dress, Ankle boot", "short"], tmp_path / "g.png", [])
    captions = [words for words in words_of(drawn[0]) if words]
    assert captions == ["3: Bag, Pullover,…", "short"]
    assert max(map(len, captions)) <= LETTERS + 1


def test_the_losses_of_a_run_are_its_terms_and_nothing_else(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("spikedistill.report.curves.save_figure", lambda figure, path: drawn.append(figure))
    row = {"epoch": 1, "lr": 0.1, "loss": 2.0, "soft": 1.0, "train_accuracy": 0.5, "shown": 0.7, "seconds": 3.0}
    draw_curves("run", [row], Evaluation(9, {4: {"accuracy": 0.5}}, "accuracy", {"neuron": 0.1}), tmp_path / "c.png")
    losses, scores, *_ = drawn[0].axes
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["loss", "soft"]
    assert [text.get_text() for text in scores.get_legend().get_texts()] == ["train"]


def test_the_axis_of_one_epoch_has_one_mark():
    axes = new_figure(3, 3).subplots()
    _lines(axes, [{"epoch": 1, "loss": 2.0}], {"loss": "loss"}, 1)
    assert list(axes.get_xticks()) == [1]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.png").write_text("old")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    save_figure(new_figure(1, 1), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")
