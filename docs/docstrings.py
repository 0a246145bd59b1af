"""
Docstrings are written for Sphinx and doctest; the site is Markdown. This extension translates.

Roles become code spans and doctests console blocks. The fields of a named tuple, which griffe
does not know as parameters, become attributes.
"""

import re
from typing import Any

import griffe

ROLE = re.compile(
    r":(?:py:)?(?:class|func|meth|mod|attr|data|exc|obj|math):`~?([^`<]+?)(?: <[^`]*>)?`"
)
DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$|:).*)*", re.MULTILINE)


def to_markdown(text: str) -> str:
    """
    Translate one docstring.

    :param text: a docstring without its indentation
    :return: the same in Markdown, field lists (``:param x:``) untouched
    """
    return DOCTEST.sub(lambda found: f"\n```pycon\n{found[0]}\n```", ROLE.sub(r"`\1`", text))


class SphinxToMarkdown(griffe.Extension):
    """Rewrite each docstring in place once it is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """
        Rewrite the docstring of one object.

        :param obj: the module, class, function or attribute just loaded
        """
        if obj.docstring is None:
            return
        text = to_markdown(obj.docstring.value)
        if obj.is_class and any("NamedTuple" in str(base) for base in obj.bases):
            text = text.replace(":param ", ":var ")
        obj.docstring.value = text
