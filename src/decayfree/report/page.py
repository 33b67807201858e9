"""A page: one self-contained HTML file from a study's, or a recorder's, numbers; equal files, equal bytes.

It computes no statistics. Everything from outside is escaped by the templates, and JSON is embedded without
any ``<``.
"""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from decayfree.arguments.kinds import checked
from decayfree.dynamics.samples import read_jsonl
from decayfree.errors import InvalidInputError, extra_needed
from decayfree.report.pages import samples as samples_page
from decayfree.report.pages.contents import contents
from decayfree.report.tables.formats import columns_of_table, csv_text
from decayfree.report.tables.table import Table
from decayfree.study.disk import as_path, replace_text
from decayfree.study.files.integrity import full_disk_explained
from decayfree.study.files.results import Study, read_study

FILE_NAME = "report.html"
PLOTLY = "plotly/plotly-basic.min.js"
"""Its basic bundle: lines, points and areas are all that is drawn. From npm's plotly.js-basic-dist-min."""
TEMPLATES = ("base.html", "page.html", "samples.html", "parts.html")


@checked()
def write_report(out: str | Path, *, reference: str | None = None) -> Path:
    """Read the study in ``out`` and write its page there.

    Args:
        out: The study's folder.
        reference: Name or label of the method that all differences are taken from, as "reference minus
            other". By default weight rescaling or, without any, weight decay.

    Returns:
        The page's path, ``out/report.html``.

    Raises:
        ResultError: If there is no study, or its files are damaged.
        DiskFullError: If the disk takes no more; the page that was there is kept.
        UnknownReferenceError: If the study has no such method.
        MissingExtraError: If jinja2 is not installed.
    """
    out = as_path("out", out)
    text = render(read_study(out), reference=reference)
    path = out / FILE_NAME
    with full_disk_explained(out, "the page is as it was before; make room and write it again"):
        replace_text(path, text)
    return path


@checked()
def render(study: Study, *, reference: str | None = None) -> str:
    """The page as text: all curves where methods are all that differs, else an overview of groups."""
    return _rendered("page.html", lambda: contents(study, reference))


@checked()
def write_samples(file: str | Path, page: str | Path | None = None) -> Path:
    """Read what a :class:`decayfree.Recorder` wrote and draw it.

    Args:
        file: Lines of JSON.
        page: Where the page goes; by default beside the file, named like it.

    Returns:
        The page's path.

    Raises:
        InvalidInputError: If there is no such file, or no sample is in it.
        DiskFullError: If the disk takes no more; the page that was there is kept.
        MissingExtraError: If jinja2 is not installed.
    """
    samples = read_jsonl(file)
    if not samples:
        raise InvalidInputError(f"{file} holds no sample")
    path = Path(file).with_suffix(".html") if page is None else Path(page)
    text = _rendered("samples.html", lambda: samples_page.contents(samples))
    with full_disk_explained(path.parent, "the page is as it was before; make room and write it again"):
        replace_text(path, text)
    return path


def _rendered(template: str, contents_of: Callable[[], dict[str, Any]]) -> str:
    with extra_needed("study", "the report needs {}, which is not installed"):
        from jinja2 import DictLoader, Environment, StrictUndefined
        from markupsafe import Markup
    page = contents_of()
    environment = Environment(
        loader=DictLoader({name: _resource(name) for name in TEMPLATES}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    environment.filters["csv_address"] = csv_address
    return environment.get_template(template).render(
        page=page,
        style=Markup(_resource("page.css")),  # ours, like the scripts: nothing from outside is in them
        scripts=[Markup(_resource(name)) for name in ("page.js", "runs.js", "tables.js")],
        plotly=Markup(_resource(PLOTLY)),
        runs=Markup(embedded_json(page["run_data"])) if "run_data" in page else "",
        figures=Markup(embedded_json({"figures": page["figures"], "views": page.get("views", {})})),
    )


def csv_address(table: Table) -> str:
    """The table as CSV, as an address that holds it all: to follow it asks nobody for anything."""
    return f"data:text/csv;charset=utf-8,{quote(csv_text(columns_of_table(table)), safe=',')}"


def embedded_json(value: Any) -> str:
    """JSON that can stand in a ``<script>`` element whatever text is in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return files("decayfree.report").joinpath(name).read_text(encoding="utf-8")
