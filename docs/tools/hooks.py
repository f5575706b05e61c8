"""What mkdocs calls while it builds the site: runs pages, brings in others, renders formulas."""

import html
import os
import posixpath
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import notebooks
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from references import ELSEWHERE, References

ROOT = Path(__file__).parents[2]
TUTORIALS = "tutorials/"
BROUGHT_IN = {  # pages by the files that they are made of
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    **{f"benchmarks/{path.name}": f"trials/{path.name}" for path in ROOT.glob("benchmarks/*.md")},
}
MADE_OF = {page: source for source, page in BROUGHT_IN.items()}
UNSEARCHED = "---\nsearch: {exclude: true}\n---\n"
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)([^)]*)\)")
INLINE, DISPLAY = (
    re.compile(rf'<{tag} class="arithmatex">\\{opened}(.*?)\\{closed}</{tag}>', re.DOTALL)
    for tag, opened, closed in (("span", r"\(", r"\)"), ("div", r"\[", r"\]"))
)


def on_config(config):
    """Names in code become links."""
    config.markdown_extensions.append(References())


def on_files(files, config):
    """Runs the pages that have code, unless DOCS_RUN=0, and brings in files from elsewhere."""
    for source, page in BROUGHT_IN.items():
        text = UNSEARCHED + (ROOT / source).read_text()
        files.append(File.generated(config, page, content=text))
    catalogue = notebooks.CATALOGUE
    files.append(File.generated(config, TUTORIALS + catalogue.name, content=catalogue.read_bytes()))
    pages = [file for file in files.documentation_pages() if "```python\n" in file.content_string]
    whole = lambda file: notebooks.whole(file.content_string)
    make = notebooks.run if config.extra["run"] else lambda name, page: notebooks.notebook(page)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            books = list(pool.map(lambda file: make(file.src_uri, whole(file)), pages))
        except notebooks.PageError as error:
            raise PluginError(str(error)) from error
    for file, book in zip(pages, books, strict=True):
        stem = posixpath.splitext(posixpath.basename(file.src_uri))[0]
        folder = posixpath.dirname(file.src_uri)
        text, figures = notebooks.markdown(book, stem)
        if file.src_uri.startswith(TUTORIALS):
            text = _with_download(text, f"{stem}.ipynb")
            figures[f"{stem}.ipynb"] = notebooks.nbformat.writes(book).encode()
        for name, content in figures.items():
            files.append(File.generated(config, posixpath.join(folder, name), content=content))
        files.remove(file)
        files.append(File.generated(config, file.src_uri, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links between files become links between pages; what has no page stays as text."""
    source = MADE_OF.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def relinked(match):
        text, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        to = BROUGHT_IN.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if to is None:
            return text
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(page.file.src_uri))}{anchor})"

    return LINK.sub(relinked, markdown)


def on_page_content(content, page, config, files):
    """Formulas as MathML, which browsers show without scripts."""
    for pattern, display in ((INLINE, "inline"), (DISPLAY, "block")):
        content = pattern.sub(
            lambda found, display=display: convert(html.unescape(found[1]), display=display),
            content,
        )
    return content


def on_env(env, config, files):
    """Names of other libraries, for links."""
    for name, address in ELSEWHERE.items():
        config.plugins["autorefs"].register_url(name, address)
    return env


def _with_download(text, name):
    title, rest = text.split("\n", 1)
    return f"{title}\n\n[Notebook]({name}){{ .md-button .notebook }}\n{rest}"
