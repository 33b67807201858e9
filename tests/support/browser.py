"""A page as a real browser shows it: Debian's chromium, headless and offline, at a width of our choice.

It drives no mouse and takes no pictures. Headless chromium has a smallest window, so the page stands in a
frame of the width that is asked for; a script that is put into a copy of the page measures it there and sends
what it saw to the frame's parent.
"""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

WATCH = """<script>
const seen = { errors: [], refused: [] };
addEventListener("error", (event) => seen.errors.push(String(event.message)));
addEventListener("unhandledrejection", (event) => seen.errors.push(String(event.reason)));
document.addEventListener("securitypolicyviolation", (event) => seen.refused.push(event.blockedURI));
for (const level of ["error", "warn"]) console[level] = (...words) => seen.errors.push(words.join(" "));
</script>"""

MEASURE = """<script>
const width = document.documentElement.clientWidth;
const box = (element) => element.getBoundingClientRect();
const stroked = (line) => getComputedStyle(line).stroke;
const thickness = (line) => parseFloat(getComputedStyle(line).strokeWidth);
const every = (inside, selector) => [...inside.querySelectorAll(selector)];
const paths = (chart) => every(chart, ".scatterlayer .trace path.js-line");
const lines = (chart) => paths(chart).filter((line) => thickness(line) > 0);
const shown = (chart) => lines(chart).filter((line) => (line.getAttribute("d") || "").length > 5);
const charts = () => every(document, ".chart").filter((chart) => !chart.closest("figure[hidden], dialog"));
function describe(chart) {
  const frame = box(chart), picture = chart.querySelector(".main-svg");
  const labels = every(chart, ".xtick text, .ytick text");
  return {
    id: chart.id, width: frame.width, height: frame.height, isDrawn: picture !== null,
    nLines: shown(chart).length, nCircles: chart.querySelectorAll(".scatterlayer path.point").length,
    nLabels: labels.length, nLegends: chart.querySelectorAll(".legend").length,
    fontSizes: labels.map((label) => parseFloat(getComputedStyle(label).fontSize)),
    isInside: labels.every(
      (label) => box(label).left >= frame.left - 1 && box(label).right <= frame.right + 1),
    colors: shown(chart).map(stroked),
  };
}
function measure() {
  const allowed = (element) => element.closest(".scroll, .legend, .chart, .contents");
  const wide = every(document, "body *").filter((e) => !allowed(e) && box(e).right > width + 1);
  const named = every(document, ".contents, #verdict, #glance");
  const frames = named.map((one) => [one.id || one.className, box(one)]);
  const cell = document.querySelector(".cards td");
  Object.assign(seen, {
    height: document.documentElement.scrollHeight,
    places: Object.fromEntries(frames.map(([name, one]) => [name, [one.top, one.bottom]])),
    cell: cell && [getComputedStyle(cell).display, getComputedStyle(cell, "::before").content],
    folds: every(document, "details.fold").map((fold) => fold.open),
    width, fullWidth: document.documentElement.scrollWidth,
    wide: wide.map((element) => element.outerHTML.slice(0, 80)),
    charts: charts().map(describe), paper: getComputedStyle(document.body).backgroundColor,
    textSize: parseFloat(getComputedStyle(document.querySelector(".finding") || document.body).fontSize),
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
  });
}
async function pause() { await new Promise((resolve) => setTimeout(resolve, 300)); }
const rows = (table) => [...table.tBodies[0].rows].filter((row) => !row.hidden);
const first = (cell) => cell.innerText.split("\\n")[0].trim();
const column = (table, index) => rows(table).map((row) => first(row.cells[index]));
// What a table with this id does when it is sorted, searched and filtered, by keyboard and by hand.
async function use({ table: id, sort, search, filter }) {
  const table = document.getElementById(id), done = {}, fold = table.closest("details");
  if (fold) fold.open = true;
  const tools = document.querySelector(`.tools[data-for="${id}"]`);
  const button = table.tHead.rows[0].cells[sort].querySelector("button");
  button.focus();
  done.hasFocus = document.activeElement === button;
  button.click();
  done.rising = column(table, sort);
  done.mark = button.closest("th").getAttribute("aria-sort");
  button.click();
  done.falling = column(table, sort);
  const input = tools.querySelector("input");
  const say = (element, value) => { element.value = value; element.dispatchEvent(new Event("input")); };
  say(input, search);
  done.found = rows(table).length;
  done.shown = tools.querySelector(".shown").textContent;
  say(input, "");
  const select = tools.querySelector(`select[data-column="${filter[0]}"]`);
  say(select, filter[1]);
  done.filtered = column(table, filter[0]);
  say(select, "");
  done.all = rows(table).length;
  return done;
}
// What a run's link opens, how the bar leads there, and what is left of it once it is closed.
async function open() {
  const view = document.getElementById("run-view"), link = document.querySelector('a[href^="#run-"]');
  link.click();
  await pause();
  await pause();
  const done = { isOpen: view.open, title: document.getElementById("run-title").textContent,
    nLines: every(view, ".chart").map((chart) => shown(chart).length),
    settings: every(view, "#run-settings tr").map((row) => [...row.cells].map((cell) => cell.textContent)),
    files: every(view, "#run-files a").map((link) => link.getAttribute("href")) };
  document.getElementById("run-close").click();
  await pause();
  return { ...done, isClosed: !view.open, hash: location.hash };
}
// What is drawn when the groups of a section are gone through, one by one.
async function choose(id) {
  const select = document.querySelector(`select[data-views="${id}"]`), done = [];
  const next = select.closest(".chooser").querySelector('button[data-step="1"]');
  const frames = document.querySelectorAll(`figure[data-slot^="${id}-"]`);
  for (let index = 0; index < select.options.length; index++) {
    if (index) next.click();
    await pause();
    const path = shown(document.getElementById(`${id}-2`))[0].getAttribute("d");
    const nCharts = [...frames].filter((one) => !one.hidden).length;
    done.push({ label: select.options[select.value].textContent, nCharts, path });
  }
  return done;
}
const waiting = setInterval(async () => {
  if (!document.documentElement.hasAttribute("data-drawn")) return;
  clearInterval(waiting);
  measure();
  if (WANTED.table) seen.used = await use(WANTED);
  if (WANTED.run) seen.opened = await open();
  if (WANTED.axe) {
    // Passes without their places, which take long.
    const found = await axe.run(document, { resultTypes: ["violations"] });
    seen.axe = found.violations.map((one) => [one.id, one.nodes.map((node) => node.html.slice(0, 200))]);
    seen.nRules = found.passes.length;
  }
  if (WANTED.views) seen.chosen = await choose(WANTED.views);
  const button = document.querySelector(".legend button");
  if (button) {
    button.click();
    await new Promise((resolve) => setTimeout(resolve, 500));
    seen.linesAfterPress = charts().map((chart) => shown(chart).length);
    seen.pressed = button.getAttribute("aria-pressed");
  }
  dispatchEvent(new Event("beforeprint"));
  seen.printed = charts().map((chart) => ({
    frame: chart.clientWidth, picture: box(chart.querySelector(".main-svg")).width,
    colors: shown(chart).map(stroked),
  }));
  seen.unfolded = every(document, "details.fold").map((fold) => fold.open);
  seen.printedPaper = getComputedStyle(document.body).backgroundColor;
  dispatchEvent(new Event("afterprint"));
  parent.postMessage(JSON.stringify(seen), "*");
}, 50);
</script>"""

FRAME = """<!doctype html><body>
<iframe src="page.html" style="border: 0; width: {width}px; height: 3000px"></iframe>
<script>addEventListener("message", (event) => {{
  const seen = document.createElement("pre"); seen.id = "seen"; seen.textContent = event.data;
  document.body.append(seen);
}});</script></body>"""


@dataclass(frozen=True)
class Browser:
    """Where the browser is, an empty folder for its files, and how long it may look at a page."""

    program: str
    folder: Path
    timeout_s: float = 120

    def look(
        self, page: Path, *, width: int, is_dark: bool = False, wanted: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What the browser saw of a page.

        Args:
            page: The file.
            width: Of the frame, in CSS pixels.
            is_dark: Whether the browser prefers dark pages.
            wanted: What to do before it is printed: the id of a ``table`` with the index of a column to
                ``sort`` by, words to ``search`` and a (column, value) to ``filter`` by; ``views``, a
                section's id, whose groups are gone through; ``run``: open the first link to one; ``axe``:
                look for what keeps people out.
        """
        text = page.read_text(encoding="utf-8")
        assert text.count("<style>") == text.count("</body>") == 1
        watched = text.replace("<style>", f"{WATCH}<style>").replace(
            "</body>", f"{_measuring(wanted)}</body>"
        )
        (self.folder / "page.html").write_text(watched, encoding="utf-8")
        frame = self.folder / "frame.html"
        frame.write_text(FRAME.format(width=width), encoding="utf-8")
        options = ["--blink-settings=preferredColorScheme=0"] if is_dark else []
        result = self._run("--dump-dom", *options, frame.as_uri())
        found = re.search(r'<pre id="seen">(.*?)</pre>', result.stdout, re.DOTALL)
        assert found, f"the page was not drawn to its end: {result.stderr[-2000:]}"
        seen: dict[str, Any] = json.loads(html.unescape(found[1]))
        seen["console"] = [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
        return seen

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                self.program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--disable-background-networking",
                "--no-first-run",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--enable-logging=stderr",
                "--window-size=1400,1000",
                "--virtual-time-budget=20000",
                f"--user-data-dir={self.folder / 'profile'}",
                *arguments,
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=self.timeout_s,
        )


def _measuring(wanted: Mapping[str, Any] | None) -> str:
    axe = f"<script>{_axe()}</script>" if wanted and wanted.get("axe") else ""
    return f"{axe}<script>const WANTED = {json.dumps(wanted or {})};</script>{MEASURE}"


def _axe() -> str:
    """Deque's rules, as a package brings them."""
    return files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def find_browser() -> str:
    """The browser's program, or skip the test."""
    for name in ("chromium", "chromium-browser", "google-chrome", "/usr/bin/chromium"):
        program = shutil.which(name)
        if program:
            return program
    pytest.skip("no chromium here: the page is tested in a real browser where there is one")
