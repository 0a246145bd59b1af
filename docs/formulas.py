"""
Formulas in TeX, drawn when the site is built: no script runs in the reader's browser.

A block of code in the language ``math`` becomes a picture in the page, by matplotlib's mathtext (a
subset of TeX). It has the colour of the text, and its TeX is what a screen reader says.
"""

import html
import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image

BLOCK = re.compile(r"^```math\n(.+?)\n```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)
PLACEHOLDER = "#123456"
"""A colour that is replaced by the text's."""


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """
    Draw the formulas of a page (mkdocs calls this for each).

    :param markdown: the page
    :return: with pictures in the place of the blocks
    :raises ValueError: what mathtext cannot read, which ends the build
    """
    return BLOCK.sub(lambda found: picture(" ".join(found[1].split())), markdown)


def picture(tex: str) -> str:
    """
    One formula.

    :param tex: without dollar signs
    :return: HTML in one line
    """
    buffer = io.StringIO()
    look = {"savefig.transparent": True, "mathtext.fontset": "stix", "svg.hashsalt": "formula"}
    with mpl.rc_context(look):
        size = FontProperties(size=14)
        math_to_image(f"${tex}$", buffer, prop=size, format="svg", color=PLACEHOLDER)
    text = buffer.getvalue()
    drawn = LEFT_OUT.sub("", text[text.index("<svg") :]).replace(PLACEHOLDER, "currentColor")
    label = html.escape(tex, quote=True)
    return f'<div role="img" aria-label="{label}">{" ".join(drawn.split())}</div>'
