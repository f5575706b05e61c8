"""Pages as notebooks: Python blocks run in order, and are shown with what they print and draw.

A block begins with a line "```python" and ends with a line "```". One that fails, or warns, fails
the build.
"""

import base64
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PIECE = re.compile(r'^--8<-- "([^":]+):(\w+)"$', re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
MARKS = re.compile(r"[`*\[\]$]")
COLOURS = re.compile(r"\x1b\[[\d;]*m")  # of a terminal
SHARP = '%config InlineBackend.figure_format = "retina"'
ARTIST = re.compile(r"<matplotlib|<Axes|Text\(")  # what calls that draw return
WIDGET = "application/vnd.jupyter.widget-view+json"  # a bar of progress
LONGEST_BLOCK_S = 300
ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "pages"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))  # of all pages
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
CATALOGUE = ROOT / "examples" / "data" / "galaxy_pzflow.npz"  # lies beside each page that is run


class PageError(Exception):
    """A block of a page failed or warned."""


def whole(page: str) -> str:
    """The page with pieces of others, where it asks so: `--8<-- "benchmarks.md:families"`."""

    def piece(asked: re.Match[str]) -> str:
        begin, end = (f"<!-- --8<-- [{side}:{asked[2]}] -->\n" for side in ("start", "end"))
        text = (ROOT / "docs" / asked[1]).read_text()
        if begin not in text:
            raise PageError(f"{asked[1]} has no piece {asked[2]}")
        return text.split(begin)[1].split(end)[0].rstrip()

    return PIECE.sub(piece, page)


def notebook(page: str) -> nbformat.NotebookNode:
    """The page as a notebook that has not been run: text and code in turn."""
    parts = [part.strip() for part in BLOCK.split(page)]
    kinds = (new_markdown_cell, new_code_cell) * len(parts)
    return new_notebook(cells=[new(part) for new, part in zip(kinds, parts, strict=False)])


def run(name: str, page: str) -> nbformat.NotebookNode:
    """The page as a notebook that has been run, now or earlier with the same library.

    Args:
        name: What to call the page in errors.
        page: Its Markdown.

    Raises:
        PageError: A block failed or warned.
    """
    kept = CACHE / f"{_digest(page)}.ipynb"
    if kept.exists():
        return nbformat.read(kept, as_version=4)
    book = notebook(page)
    book.cells.insert(0, new_code_cell(SHARP))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(CATALOGUE, folder)
        there = {"metadata": {"path": folder}}
        client = NotebookClient(
            book,
            timeout=LONGEST_BLOCK_S,
            kernel_name="python3",
            resources=there,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],
        )
        try:
            client.execute()
        except Exception as error:
            raise PageError(f"{name} does not run: {COLOURS.sub('', str(error))}") from error
    del book.cells[0]
    if warned := "".join(_streams(book, "stderr")):
        raise PageError(f"{name} warns:\n{warned}")
    CACHE.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, kept)
    return book


def markdown(book: nbformat.NotebookNode, stem: str) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and its figures by the names that the Markdown gives them.

    Args:
        book: The notebook.
        stem: What names of figures begin with.
    """
    parts, figures, heading = [], {}, stem
    for cell in book.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            heading = (HEADING.findall(cell.source) or [heading])[-1]
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}-{len(figures) + 1}.png"
                figures[name] = base64.b64decode(data["image/png"])
                width = output.metadata.get("image/png", {}).get("width", 600)
                shown = f"{MARKS.sub('', heading)}: what the code above draws"
                parts.append(f"![{shown}]({name}){{ width={width} .drawn }}")
            elif text := _text(output):
                parts.append(f"```{{ .text .output .no-copy }}\n{text.rstrip()}\n```")
    return "\n\n".join(parts), figures


def _text(output: nbformat.NotebookNode) -> str:
    data = output.get("data", {})
    if WIDGET in data or ARTIST.search(data.get("text/plain", "")):
        return ""
    return output.get("text") or data.get("text/plain", "")


def _streams(book: nbformat.NotebookNode, name: str) -> list[str]:
    outputs = (output for cell in book.cells for output in cell.get("outputs", []))
    return [output.text for output in outputs if output.get("name") == name]


def _digest(page: str) -> str:
    """Of the page and of the library, whose change may change what the page shows."""
    digest = hashlib.sha256(page.encode())
    for source in sorted((ROOT / "flows").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()
