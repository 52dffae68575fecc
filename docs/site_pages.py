# SPDX-License-Identifier: Apache-2.0
"""What `mkdocs build` does beside reading docs/.

README is the first page; what a page links to in the repository is in the site, too; commands come
with their help, notebooks with what they gave when they were run. Nothing may be loaded from
another server.
"""

from __future__ import annotations

import io
import posixpath
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

from cmim_hf.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
RUN = ROOT / "build" / "notebooks"
LINK = re.compile(r"(\]\()([^)\s:#]+)")
LOADED = re.compile(r"<(?:script|img|link)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^\s\">]*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README, all that is linked to outside docs/, and the notebooks that were run."""
    for file in [one for one in files if one.src_uri.startswith("notebooks/")]:
        files.remove(file)
        for made in run_notebook(Path(file.src_uri).stem, config):
            files.append(made)
    waiting = ["README.md", *(f"docs/{one.src_uri}" for one in files.documentation_pages())]
    seen = set()
    while waiting:
        if (origin := waiting.pop()) in seen:
            continue
        seen.add(origin)
        if not origin.startswith("docs/"):
            files.append(File.generated(config, address(origin), abs_src_path=str(ROOT / origin)))
        if origin.endswith(".md"):
            links = LINK.findall((ROOT / origin).read_text())
            waiting += filter(None, (found(origin, link) for _, link in links))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links that hold in the repository into links that hold in the site."""
    origin = "README.md" if page.is_homepage else page.file.src_uri
    if not page.file.generated_by:
        origin = f"docs/{origin}"
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]
    if page.file.src_uri == "api/commands.md":
        markdown += command_help()
    here = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        path = found(origin, match[2])
        return match[1] + posixpath.relpath(address(path), here) if path else match[0]

    return LINK.sub(moved, markdown)


def on_post_page(output: str, page: Page, **_: Any) -> None:
    """Refuse a page that would load a script, a font or a picture from elsewhere."""
    if loaded := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another server: {loaded[0]}")


def found(origin: str, link: str) -> str:
    """The file of the repository that a link of another names, if there is one."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    return path if (ROOT / path).is_file() and not path.startswith("../") else ""


def address(path: str) -> str:
    """Where in the site a file of the repository is."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def command_help() -> str:
    """What the help of each command says, as sections of a page."""
    sections = ""
    for name in COMMANDS:
        said = io.StringIO()
        with redirect_stdout(said), suppress(SystemExit):
            main([name, "--help"])
        sections += f"\n## cmim {name}\n\n```text\n{said.getvalue()}```\n"
    return sections


def run_notebook(name: str, config: MkDocsConfig) -> list[File]:
    """The page of a notebook with its outputs, its pictures, and the notebook to download."""
    path = RUN / f"{name}.ipynb"
    if not path.is_file():
        raise PluginError(f"{path} is missing: `make docs` runs the notebooks, then builds.")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # warnings, progress
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    exporter = MarkdownExporter()
    page, resources = exporter.from_notebook_node(notebook, {"output_files_dir": name})
    page = re.sub(r"<style scoped>.*?</style>\s*", "", page, flags=re.DOTALL)
    page = page.replace('<table border="1" class="dataframe">', "<table>")
    page += f"\n[This page as a notebook]({name}.ipynb), to run in Jupyter.\n"
    contents = {
        f"{name}.md": page,
        f"{name}.ipynb": nbformat.writes(notebook),
        **resources["outputs"],
    }
    return [
        File.generated(config, f"notebooks/{one}", content=content)
        for one, content in contents.items()
    ]
