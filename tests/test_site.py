"""The site: what the reference lists; built, and opened in a browser, what a reader would see."""

import contextlib
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import flows
import flows.plotting

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BROWSERS = "chromium", "chromium-browser", "google-chrome"
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SIDEWAYS = "document.documentElement.scrollWidth > window.innerWidth"
BROKEN = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"


def test_the_reference_lists_all_that_is_public():
    pages = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    listed = set(re.findall(r"^::: (\S+)", pages, re.MULTILINE))
    modules = (flows.bijectors, flows.divergences, flows.targets, flows.plotting)
    public = {f"{module.__name__}.{name}" for module in modules for name in module.__all__}
    public |= {f"flows.{name}" for name in flows.__all__ if callable(getattr(flows, name))}
    assert public - listed == set()


def test_pages_say_that_they_do_not_run(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(DOCS / "tools")
    import notebooks

    monkeypatch.setattr(notebooks, "CACHE", tmp_path)
    page = "# A page\n\n```python\nx = 2\n```\n\n```text\nnot run\n```\n\n```python\n{}\n```\n"
    text, figures = notebooks.markdown(
        notebooks.run("good.md", page.format("print(x + 3)")), "good"
    )
    assert "\n5\n" in text
    assert "not run" in text
    assert not figures
    with pytest.raises(notebooks.PageError, match=r"(?s)bad\.md does not run.*NameError"):
        notebooks.run("bad.md", page.format("print(y)"))
    with pytest.raises(notebooks.PageError, match=r"(?s)loud\.md warns.*beware"):
        notebooks.run("loud.md", page.format("import warnings; warnings.warn('beware')"))


def test_pages_take_tables_from_others(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "tools")
    import notebooks

    page = notebooks.whole((DOCS / "tutorials" / "distil.md").read_text())
    assert "| 2 passes, the default |" in page
    assert "--8<--" not in page
    with pytest.raises(notebooks.PageError, match="has no piece nothing"):
        notebooks.whole('# A page\n\n--8<-- "benchmarks.md:nothing"\n')


@contextlib.contextmanager
def served(folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
def test_pages_look_right_in_a_browser(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ)
    pages = [str(page.relative_to(tmp_path)) for page in tmp_path.rglob("*.html")]
    wrong = []
    with served(tmp_path) as address, sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=QUIET)
        tab = opened.new_page()
        tab.on("console", lambda m: m.type == "error" and wrong.append((tab.url, m.text)))
        tab.on("pageerror", lambda error: wrong.append((tab.url, str(error))))
        tab.on("response", lambda r: r.status >= 400 and wrong.append((tab.url, r.url)))
        for page in pages:
            for width in (390, 1280):
                tab.set_viewport_size({"width": width, "height": 900})
                tab.goto(f"{address}/{page}", wait_until="load")
                if tab.evaluate(SIDEWAYS):
                    wrong.append((page, f"scrolls sideways at {width}"))
            wrong += [(page, f"no image {source}") for source in tab.evaluate(BROKEN)]
        for start in (f"{address}/index.html", (tmp_path / "index.html").as_uri()):
            tab.goto(start)
            tab.keyboard.press("/")
            tab.keyboard.type("fit_posterior", delay=20)
            in_text = tab.locator(".md-search-result__link[href*='h=fit_posterior#']").first
            in_text.wait_for()
            assert "posteriors" in tab.locator(".md-search-result__link").first.get_attribute(
                "href"
            )
            in_text.click()
            tab.wait_for_selector("mark")
        opened.close()
    assert len(pages) > 40
    assert not wrong
