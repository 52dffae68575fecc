# SPDX-License-Identifier: Apache-2.0
"""What README and the pages of docs/ tell a reader to type, to look at and to believe."""

import re
import runpy
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import cmim_hf
from cmim_hf import list_checkpoints
from cmim_hf.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
CARDS = {f"{name}'s card": Path(folder, "README.md") for name, folder in list_checkpoints().items()}
NOTEBOOKS = {page.name: page for page in sorted((ROOT / "docs" / "notebooks").glob("*.md"))}
OTHERS = [ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / "api").glob("*.md")]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
DOORS = re.findall(r"^\| [^|]+ \| `(.+)` \|$", PAGES["embedding.md"].read_text(), re.MULTILINE)
FIGURE = re.compile(r"\d+\.\d+ %|(?<![\w.])\d?\.\d{3}\b")


def run(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    for language, block in FENCED.findall(page.read_text()):
        if language == "python":
            exec(block, names)  # our own text
    return names


@pytest.mark.parametrize("name", [*PAGES, *CARDS])
def test_the_code_of_a_page_runs(name, monkeypatch):
    names = run((PAGES | CARDS)[name], monkeypatch)
    if name in CARDS:
        assert names["tokenizer"].decode(names["batch"]["input_ids"][0], True) == "CCO"
    if name == "README.md":
        assert names["vectors"].shape == (1, 192) and names["kept"].tolist() == [0]
        assert len(names["near"]) == len(names["new"]) == 8
        assert len(names["found"].best) == 1 and len(names["found"].table) <= 30
    if name == "embedding.md":
        assert names["model"].config.model_type == "cmim"


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    names = run(NOTEBOOKS[name], monkeypatch)
    if name == "embed_and_search.md":
        assert (names["cosines"][:, 0] > 0.5).all()
    if name == "finetune_and_predict.md":
        assert names["error"].mean() < 1.5  # kcal/mol; the labels' deviation is 3.8
        assert names["answer"]["distance_percentile"].idxmax() == "a macrolide"
    if name == "generate_and_optimise.md":
        assert names["best"]["score"] > names["score"](names["start"]) + 0.1
        assert all(names["similarity"](names["seed"], one) < 1 for one in names["kept"])


@pytest.mark.parametrize("page", [*PAGES.values(), *NOTEBOOKS.values(), *OTHERS], ids=str)
def test_what_a_page_links_to_is_there(page):
    text = FENCED.sub("", page.read_text())
    links = re.findall(r"\]\(([^)#\s]+)", text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    missing += [
        path
        for path in re.findall(r"`((?:tests|examples|docs|model_cards)/[\w./-]+)`", text)
        if not (ROOT / path).exists()
    ]
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    missing += set(re.findall(r"`(test_\w+\.py)`", text)) - tests
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    missing += set(re.findall(r"(?:`|^)make ([\w-]+)", page.read_text(), re.MULTILINE)) - {*targets}
    assert not missing


def test_the_site_leads_to_every_page():
    """`make docs` fails otherwise."""
    waiting, site = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")], set()
    while waiting:
        if (page := waiting.pop()) not in site:
            site.add(page)
            links = re.findall(r"\]\(([^)#:\s]+\.md)", page.read_text())
            waiting += [(page.parent / link).resolve() for link in links]
    shown = {str(page.relative_to(ROOT)).removeprefix("docs/") for page in site}
    nav = re.findall(r"^ +- (?:.+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert shown - {"README.md"} == {*nav} - {"index.md"}


def test_readme_is_one_page_and_no_figure_stands_twice():
    assert len(PAGES["README.md"].read_text().splitlines()) <= 150
    pages = defaultdict(set)
    for name, page in PAGES.items():
        for figure in FIGURE.findall(page.read_text()):
            pages[figure].add(name)
    assert len(pages) > 30
    assert not {figure: names for figure, names in pages.items() if len(names) > 1}


def test_the_reference_has_every_public_name():
    text = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^::: cmim_hf\.(\w+)$", text, re.MULTILINE))
    assert shown == set(cmim_hf.__all__)


def commands():
    """Each command of a page with all the options it is given anywhere."""
    found = defaultdict(set)
    for page in (*PAGES.values(), *NOTEBOOKS.values()):
        text = page.read_text().replace("\\\n", " ")
        lines = "\n".join(block for language, block in FENCED.findall(text) if not language)
        lines += "\n" + "\n".join(re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCED.sub("", text)))
        for line in lines.splitlines():
            for name, rest in re.findall(
                r"(?<![\w/])(cmim [a-z-]+|examples/\w+\.py|examples\.benchmarks\.[\w.]+)(.*)", line
            ):
                found[name] |= set(re.findall(r" (--\w[\w-]*)", rest))
    # sorted: every worker of pytest must name the tests alike
    return [(name, sorted(options)) for name, options in sorted(found.items())]


@pytest.mark.parametrize(
    ("command", "options"), commands(), ids=lambda given: given if isinstance(given, str) else ""
)
def test_a_command_and_its_options_are_there(command, options, capsys, monkeypatch):
    module = command.replace(".", "/") + ".py"
    if command.startswith("examples."):
        fields = re.findall(r"^    (\w+): ", (ROOT / module).read_text(), re.MULTILINE)
        known = {f"--{field}" for field in fields}  # of its settings
    else:
        with pytest.raises(SystemExit) as end:
            if command.startswith("cmim"):
                main([command.split()[1], "--help"])
            else:
                monkeypatch.setattr(sys, "argv", [command, "--help"])
                runpy.run_path(str(ROOT / command), run_name="__main__")
        assert end.value.code == 0
        shown = capsys.readouterr().out
        assert str(cmim_hf.DEFAULT_CHECKPOINT) not in "".join(shown.split())  # but its name
        known = set(re.findall(r"--\w[\w-]*", shown))
    assert set(options) <= known


@pytest.mark.parametrize("line", [line for line in DOORS if "(" in line and "examples" not in line])
def test_the_lines_of_other_libraries_run(line):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from transformers import pipeline

    smiles = ["CCO", "CCN", "c1ccccc1", "CC(C)O"]
    names = {
        "DEFAULT_CHECKPOINT": cmim_hf.DEFAULT_CHECKPOINT,
        "MoleculeFeaturizer": cmim_hf.MoleculeFeaturizer,
        "Ridge": Ridge,
        "SentenceTransformer": SentenceTransformer,
        "StandardScaler": StandardScaler,
        "make_pipeline": make_pipeline,
        "pipeline": pipeline,
        "smiles": smiles,
        "y": [1.0, 2.0, 3.0, 4.0],
    }
    result = eval(line, names)  # our own text
    assert len(result.predict(smiles) if hasattr(result, "predict") else result) == 4
