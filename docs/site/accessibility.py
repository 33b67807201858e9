"""Does anything on the site keep people out? Deque's rules, in a browser, on a page of each kind."""

import html
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

PAGES = ("index", "why", "errors", "notebooks/practitioner", "reference/decayfree.WeightRescaling")
WIDTHS = (1280, 500)  # of a window; headless chromium has none that is narrower
LOOK = """<script>addEventListener("load", async () => {
  await new Promise((resolve) => setTimeout(resolve, 500));
  const found = await axe.run(document, { resultTypes: ["violations"] });
  const seen = document.createElement("pre");
  seen.id = "seen";
  seen.textContent = JSON.stringify(found.violations.map((one) => [one.id, one.nodes[0].html.slice(0, 120)]));
  document.body.append(seen);
});</script>"""


def kept_out(site: Path) -> Iterator[str]:
    """What the rules find; nothing is looked for without Debian's chromium and its rules."""
    browser = shutil.which("chromium")
    try:
        rules = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    except ModuleNotFoundError:
        rules = ""
    if not browser or not rules:
        print("nobody looked for what keeps people out: it takes chromium and axe-core-python")
        return
    for name in PAGES:
        page = (site / f"{name}.html").resolve()
        head, end, tail = page.read_text(encoding="utf-8").rpartition("</body>")
        with tempfile.NamedTemporaryFile("w", dir=page.parent, suffix=".html", encoding="utf-8") as copy:
            copy.write(f"{head}<script>{rules}</script>{LOOK}{end}{tail}")
            copy.flush()
            for width in WIDTHS:
                for rule, element in _seen(browser, Path(copy.name), width):
                    yield f"{name}.html, {width} pixels: {rule}: {element}"


def _seen(browser: str, page: Path, width: int) -> list[list[str]]:
    options = (
        "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --dump-dom"
    )
    shown = subprocess.run(
        [
            browser,
            *options.split(),
            f"--window-size={width},1000",
            "--virtual-time-budget=20000",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    found = re.search(r'<pre id="seen">(.*?)</pre>', shown, re.DOTALL)
    if not found:
        return [["the page was not shown to its end", page.name]]
    violations: list[list[str]] = json.loads(html.unescape(found[1]))
    return violations
