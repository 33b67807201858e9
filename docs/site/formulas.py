"""Typesets formulas while the site is built: pictures of glyph outlines, which need no font and no script."""

import re
from html import escape

import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

SIZE_PX = 18
PX_OF_EM = 16
ziamath.config.svg2 = False  # outlines in place: symbols of several formulas on a page would share names


def setup(app: Sphinx) -> dict[str, bool]:
    """Make this what draws formulas."""
    app.add_html_math_renderer("drawn", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True}


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """A formula within a line, its baseline on that of the words."""
    translator.body.append(drawn(node.astext(), is_inline=True))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """A formula on lines of its own."""
    translator.body.append(f'<div class="formula">{drawn(node.astext(), is_inline=False)}</div>')
    raise nodes.SkipNode


def drawn(tex: str, *, is_inline: bool) -> str:
    """The picture, as large as the text around it and of its colour, with the formula to be read aloud."""
    svg = ziamath.Latex(tex, size=SIZE_PX, color="currentColor", inline=is_inline).svg()
    _, top, width, height = map(float, re.findall(r'viewBox="(.+?)"', svg)[0].split())
    style = ";".join(
        f"{name}:{value / PX_OF_EM:.3f}em"
        for name, value in (("width", width), ("height", height), ("vertical-align", -height - top))
    )
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(tex, quote=True)}" style="{style}" ', 1)
