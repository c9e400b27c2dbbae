"""The command line as one tree: help of every command, both forms of an option, completion, near names."""

import re
import shutil
import subprocess
import sys

import pytest

import spikedistill as sd
import spikedistill.training.run as training
from spikedistill.cli import COMMANDS, main, make_parser

EVERY = [*([name] for name in COMMANDS), ["data", "check"], ["data", "show"], ["data", "prepare"], ["bench", "data"]]
EVERY += [["data", "simulate-dvs"]]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
@pytest.mark.parametrize("help", ["--help", "-h"])
def test_every_command_has_help(words, help, capsys):
    assert main([*words, help]) == 0
    assert capsys.readouterr().out.startswith(f"usage: spikedistill {' '.join(words)}")


def test_without_words_it_says_what_there_is(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert main(["--version"]) == 0


@pytest.mark.parametrize("form", [["--rule.timesteps", "3"], ["--rule.timesteps=3"], ["--timesteps=3"]])
def test_an_option_may_have_an_equals_sign_or_not(form, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train", lambda recipe, out, name, trust: seen.append((recipe, out, name)))
    assert main(["train", "cifar10-resnet18", *form, "--optimizer.lr", "0.5", "--out=there"]) == 0
    recipe, out, name = seen[0]
    assert (recipe.timesteps, recipe.optimizer.lr, str(out), name) == (3, 0.5, "there", "cifar10-resnet18")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--T", "4"], "a recipe has no field 'T'; did you mean timesteps?"),
        (["train", "--epochs", "4"], "did you mean optimizer.epochs?"),
        (["train", "--out"], "argument --out: expected one argument"),
        (["--import", "no_such_module", "list", "tasks"], "--import no_such_module: No module named 'no_such_module'"),
        (["train", "fashion-small", "--resume", "runs/x"], "by its recipe; leave out fashion-small"),
        (["train", "--resume", "runs/x", "--out", "y"], "leave out --out"),
        (["train", "--resume", "runs/x", "--seeds", "1"], "leave out --seeds"),
        (["train", "--seeds", "1", "1"], "--seeds takes different whole numbers"),
        (["train", "fashion-small", "another"], "unrecognized arguments: another"),
        (["data", "chekc", "x"], "unknown command 'chekc'; did you mean check"),
        (["data", "show"], "the following arguments are required: RECIPE"),
        (["completion", "fish"], "unknown shell 'fish'"),
    ],
)
def test_mistakes_are_explained(words, message, capsys):
    assert main(words) == 1
    assert message in capsys.readouterr().err


def test_rows_of_ones_own_are_known_where_their_module_is_imported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rows.py").write_text(
        "import dataclasses\nimport spikedistill as sd\n\n\n@dataclasses.dataclass(frozen=True)\n"
        'class Mine(sd.Objective):\n    """One of my own."""\n    weight: float = 1.0\n\n\n'
        "sd.OBJECTIVES['mine'] = Mine\n"
    )
    before = dict(sd.OBJECTIVES)
    try:
        assert main(["--import", "my_rows", "list", "objectives"]) == 0
        assert "One of my own." in capsys.readouterr().out
        assert main(["--import=my_rows", "train", "--help"]) == 0
        assert "--objectives.mine.weight" in capsys.readouterr().out
    finally:
        sd.OBJECTIVES.clear()
        sd.OBJECTIVES.update(before)
        sys.modules.pop("my_rows", None)


def completed(script, *words):
    """What bash offers for the last of the words."""
    call = """
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
        "$(complete -p spikedistill | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    found = subprocess.run(["bash", "-c", call, "bash", script, *words], capture_output=True, text=True, check=True)
    return found.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_recipes_and_fields(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    assert completed(script, "spikedistill", "eva") == ["evaluate"]
    assert "cifar10-resnet18" in completed(script, "spikedistill", "train", "cifar10")
    assert "--optimizer.warmup_epochs" in completed(script, "spikedistill", "train", "--optimizer.w")
    assert completed(script, "spikedistill", "list", "ru") == ["rules"]


def test_only_the_command_that_is_called_is_built():
    parser = make_parser([], ("compare",))
    assert parser.parse_args(["compare", "runs"]).figure is None
    with pytest.raises(ValueError, match="unrecognized arguments"):
        parser.parse_args(["predict", "runs", "x.png"])


@pytest.mark.parametrize(
    ("text", "words"), [("def f(:\n", r"SyntaxError: .*broken.py, line 1"), ("1/0\n", r"ZeroDivisionError: .*line 1")]
)
def test_a_module_that_fails_is_named_with_its_line(text, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    assert main(["--import", "broken", "recipes"]) == 1
    assert re.search(rf"--import broken fails: {words}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simulate-dvs"], "where is cifar10? Give its folder: --root FOLDER"),
        (["simulate-dvs", "--root", "nowhere"], "--root nowhere is not a folder; give the one that holds cifar10"),
        (["make-scenes", "--source", "fashion-mnist", "--root", "nowhere"], "--root nowhere is not a folder"),
        (["simulate-dvs", "--source", "given"], "unknown source 'given'"),
    ],
)
def test_commands_without_a_recipe_name_their_own_options(words, message, tmp_path, capsys):
    assert main(["data", *words, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
