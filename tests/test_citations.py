"""What prose cites: sections of docs/method.md exist, nothing points outside the repository.

And the numbers that docs/method.md gives are recomputed, from the page's own tables and formulas.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from spikedistill.core.neuron import Neuron, backward_through_time, membrane_response, rate_response

ROOT = Path(__file__).parents[1]
METHOD = ROOT / "docs" / "method.md"
TITLES = {
    1: "Neuron",
    2: "Rate-based backpropagation",
    3: "Branches",
    4: "Loss",
    5: "Training recipes",
    6: "What the authors measured",
    7: "Products of spikes",
}
PROSE = ("README.md", "docs/**/*.md", "src/**/*.py", "src/spikedistill/recipes/*.yaml")
# docs/data is left out: it holds records of runs, which stay as they were written
TEXT = (*PROSE, "tests/**/*.py", "scripts/*", ".ci/*", "Makefile", "NOTICE", "pyproject.toml")

SECTION_SIGN = "\u00a7"  # by number, so that the made-up citations below are none of this file's own
HEADING = re.compile(r"^#{2,4} (\d+(?:\.\d+)*) ", re.MULTILINE)
CITATION = re.compile(SECTION_SIGN.join((r"(?:(\w+\.md)[`)\]]*,?\s+)?", r"\s?(\d+(?:\.\d+)*)")))
# the class of one letter keeps the pattern from matching itself
OUTSIDE = (r"(?:\.\./)+[s]hared\b", r"(?<![\w.])/[w]ork/")
PLANNING = (
    r"\bissues? #?\d{1,2}\b",  # numbers of other projects' issues, which are worth citing, are longer
    r"\b(?:was|were) asked\b",
    r"\blines? asked for\b",
    r"\b(?:this|other|earlier|previous|last|next) sessions?\b",
    r"\bplanning notes\b",
)


def texts(patterns: Iterable[str]) -> dict[str, str]:
    """The text of every file of the repository that a pattern matches, by its path there."""
    files = sorted({path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()})
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}


def sections(page: str) -> set[str]:
    return set(HEADING.findall(page))


def citations(text: str) -> list[tuple[str, str]]:
    """(page, section) for every section sign; one without the name of a page means method.md."""
    return [(page or METHOD.name, section) for page, section in CITATION.findall(text)]


def unresolved(text: str, pages: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The citations of sections that are not in `pages`: the headings by the page's name."""
    return [(page, section) for page, section in citations(text) if section not in pages.get(page, set())]


def findings(patterns: Iterable[str], files: dict[str, str]) -> list[str]:
    """`path:line: line` wherever a pattern is found."""
    anything = re.compile("|".join(patterns), re.IGNORECASE)
    lines = [(path, k, line) for path, text in files.items() for k, line in enumerate(text.splitlines(), 1)]
    return [f"{path}:{k}: {line.strip()}" for path, k, line in lines if anything.search(line)]


# ---------------------------------------------------------------- citations


def test_every_cited_section_exists():
    files = texts((*PROSE, "tests/**/*.py"))
    pages = {Path(path).name: sections(text) for path, text in files.items() if path.startswith("docs/")}
    missing = {path: unresolved(text, pages) for path, text in files.items()}
    assert {path: found for path, found in missing.items() if found} == {}
    from_elsewhere = [found for path, text in files.items() if ROOT / path != METHOD for found in citations(text)]
    assert len(from_elsewhere) >= 20


def test_the_sections_keep_their_meaning():
    headings = re.findall(r"^## (\d+) (.+)$", METHOD.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in headings][: len(TITLES)] == list(TITLES)
    for (_, title), expected in zip(headings, TITLES.values(), strict=False):
        assert title.startswith(expected)


@pytest.mark.parametrize(
    ("made_up", "expected"),
    [
        ("as in method.md @9", [("method.md", "9")]),
        ("method.md @2 and @8.1", [("method.md", "8.1")]),
        ("`docs/method.md`, @12", [("method.md", "12")]),
        ("[method.md](method.md) @1.1, @2.3", [("method.md", "2.3")]),
        ("a note that is not here: notes.md @1", [("notes.md", "1")]),
        ("the reset (@1) and its slope (@2)", []),
        ("no citation at all", []),
    ],
)
def test_the_checker_of_citations_finds_what_is_wrong(made_up, expected):
    pages = {"method.md": sections("# A page\n\n## 1 One\n\n### 1.1 More\n\n## 2 Two\n\n2 apples\n")}
    assert pages["method.md"] == {"1", "1.1", "2"}
    assert unresolved(made_up.replace("@", SECTION_SIGN), pages) == expected


def test_code_that_the_page_names_exists():
    named = set(re.findall(r"`(src/[\w/]+\.py)`", METHOD.read_text(encoding="utf-8")))
    assert len(named) >= 6
    assert sorted(path for path in named if not (ROOT / path).is_file()) == []


# ---------------------------------------------------------------- what no text says


def test_no_text_cites_a_path_outside_the_repository():
    assert findings(OUTSIDE, texts(TEXT)) == []


def test_prose_does_not_speak_of_how_the_work_was_planned():
    assert findings(PLANNING, texts(PROSE)) == []


@pytest.mark.parametrize(
    ("patterns", "line", "found"),
    [
        (OUTSIDE, "see {up}/{up}/shared/notes.md", True),
        (OUTSIDE, "root: {top}work/data", True),
        (OUTSIDE, "src/network/layers.py and [results](../results.md)", False),
        (PLANNING, "Issue 2 wants more", True),
        (PLANNING, "issues #3 and #4", True),
        (PLANNING, "a bug of oneDNN (issue 6035)", False),
        (PLANNING, "the form that was asked for", True),
        (PLANNING, "the speed before this session", True),
        (PLANNING, "tissue 12, taskset, a training session", False),
    ],
)
def test_the_checker_of_words_finds_what_is_wrong(patterns, line, found):
    line = line.format(up="..", top="/")
    assert findings(patterns, {"page.md": f"first\n{line}"}) == ([f"page.md:2: {line}"] if found else [])


# ---------------------------------------------------------------- the numbers of the page


def table(first_cell: str, second_cell: str) -> list[list[str]]:
    """The rows of the page's table whose head begins with these two cells."""
    lines = METHOD.read_text(encoding="utf-8").splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(f"| {first_cell} | {second_cell} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def trajectory(current: float, neuron: Neuron, steps: int) -> list[list[float]]:
    """(v, s, u, h, κ) of every step, by the recursions of the page in plain Python numbers."""
    u, kappa, rows = 0.0, 1.0, []
    for _ in range(steps):
        v = torch.tensor(neuron.decay * u + current, dtype=torch.float64)
        s, h = neuron.fire(v), neuron.derivative(v)
        u = neuron.after_spike(v, s).item()
        rows.append([v.item(), s.item(), u, h.item(), kappa])
        kappa = 1 + neuron.decay * kappa * neuron.slope(v, s, h).item()
    return rows


def test_the_worked_example_of_a_neuron_that_stays_silent():
    written = [[float(cell) for cell in row] for row in table("t", "v_t")]
    computed = trajectory(0.8, Neuron(), 3)
    expected = [[t, v, s, u, h, kappa, kappa * h] for t, (v, s, u, h, kappa) in enumerate(computed, 1)]
    torch.testing.assert_close(torch.tensor(written), torch.tensor(expected), rtol=0, atol=6e-5)
    response = rate_response(torch.full((3, 1), 0.8, dtype=torch.float64), Neuron())
    assert response.rate.item() == 0
    assert f"/3 = {response.eligibility.item():.4f}\n\nA silent neuron" in METHOD.read_text(encoding="utf-8")


def test_the_worked_example_of_the_four_resets():
    rows = table("reset", "v_1")
    assert len(rows) == 4
    for name, *written in rows:
        kind, detached = name.split(", ")
        neuron = Neuron(reset=kind, detach_reset=detached == "detached")
        computed = trajectory(0.9, neuron, 3)
        response = rate_response(torch.full((3, 1), 0.9, dtype=torch.float64), neuron)
        assert response.rate.item() == pytest.approx(1 / 3)
        expected = [row[0] for row in computed] + [row[4] for row in computed] + [response.eligibility.item()]
        assert [float(cell) for cell in written] == pytest.approx(expected, abs=6e-5), name


def test_the_norm_of_the_rate_has_the_exact_gradient_for_a_constant_change():
    x = torch.randn(5, 4, 3, 6, 6, dtype=torch.float64)  # [T, N, C, H, W], as different over time as within a step
    g = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    change = torch.zeros_like(g, requires_grad=True)
    norm = torch.nn.BatchNorm2d(3).double()
    (norm((x + change).flatten(0, 1)).unflatten(0, (5, 4)).mean(0) * g).sum().backward()

    def mean(values: torch.Tensor) -> torch.Tensor:
        return values.mean((0, 2, 3), keepdim=True)

    variance, mu = torch.var_mean(x, (0, 1, 3, 4), correction=0, keepdim=True)
    scale = (variance[0] + norm.eps).rsqrt()
    x_hat = (x.mean(0) - mu[0]) * scale
    assert not torch.allclose(mean(x_hat**2), torch.ones(()).double(), atol=0.1)
    torch.testing.assert_close(change.grad, scale * (g - mean(g) - x_hat * mean(g * x_hat)))


def test_weight_gradients_differ_from_bptt_by_the_covariance_over_time():
    x, weight = torch.randn(6, 7, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)  # [T, in], [out, in]
    current, g = x @ weight.t(), torch.randn(4, dtype=torch.float64)
    _, membranes = membrane_response(current, Neuron())
    delta = backward_through_time((g / 6).expand(6, 4), membranes, Neuron())
    torch.testing.assert_close(delta.sum(0), g * rate_response(current, Neuron()).eligibility)
    covariance = (delta - delta.mean(0)).t() @ (x - x.mean(0)) / 6
    assert covariance.abs().max() > 1e-3
    torch.testing.assert_close(delta.t() @ x - torch.outer(delta.sum(0), x.mean(0)), 6 * covariance)


def test_what_each_order_of_a_chain_of_products_keeps():
    q, k, v = ((torch.rand(5, 6, 4) < 0.4).double() for _ in range(3))  # [T, tokens, width]
    g = torch.randn(6, 4, dtype=torch.float64)
    changes = [torch.zeros(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    dq, dk, dv = changes
    (((q + dq) @ ((k + dk).mT @ (v + dv))).mean(0) * g).sum().backward()
    kv, qk = (k.mT @ v).mean(0), (q @ k.mT).mean(0)
    torch.testing.assert_close(dq.grad, g @ kv.t())  # q·(kᵀ·v)
    torch.testing.assert_close(dv.grad, qk.t() @ g)  # (q·kᵀ)·v
    in_the_other_order = g @ v.mean(0).t() @ k.mean(0)
    assert not torch.allclose(in_the_other_order, g @ kv.t(), atol=0.1)


def test_a_spike_times_itself_is_the_worst_case():
    s = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    r = s.mean()
    assert (s * s).mean() == r
    torch.testing.assert_close((s * s).mean() - r * r, r * (1 - r))


def test_dividing_the_loss_divides_the_learning_rate_and_multiplies_the_weight_decay():
    ends = []
    for scale, lr, decay in ((1 / 4, 0.1, 0.05), (1.0, 0.1 / 4, 0.05 * 4)):
        w = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=lr, momentum=0.9, weight_decay=decay)
        for _ in range(5):
            optimizer.zero_grad()
            (scale * (w - 3).pow(4).sum() / 50).backward()
            optimizer.step()
        ends.append(w.detach())
    torch.testing.assert_close(*ends)
