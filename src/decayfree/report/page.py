"""The page: one self-contained HTML file from a study's numbers; the same files give the same bytes.

It computes no statistics. Everything from outside is escaped by the templates, and JSON is embedded without
any ``<``.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from decayfree.arguments.kinds import checked
from decayfree.errors import extra_needed
from decayfree.report.pages.contents import contents
from decayfree.study.disk import as_path, replace_text
from decayfree.study.files.integrity import full_disk_explained
from decayfree.study.files.results import Study, read_study

FILE_NAME = "report.html"
TEMPLATES = ("page.html", "parts.html")


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
        MissingExtraError: If plotly or jinja2 is not installed.
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
    with extra_needed("study", "the report needs {}, which is not installed"):
        from jinja2 import DictLoader, Environment, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    page = contents(study, reference)
    environment = Environment(
        loader=DictLoader({name: _resource(name) for name in TEMPLATES}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(
        page=page,
        run_base=f"{study.archive}#" if study.archive else "",
        style=Markup(_resource("page.css")),  # ours, like the scripts: nothing from outside is in them
        scripts=[Markup(_resource(name)) for name in ("page.js", "tables.js")],
        plotly=Markup(get_plotlyjs()),
        figures=Markup(embedded_json({"figures": page["figures"], "views": page["views"]})),
    )


def embedded_json(value: Any) -> str:
    """JSON that can stand in a ``<script>`` element whatever text is in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return files("decayfree.report").joinpath(name).read_text(encoding="utf-8")
