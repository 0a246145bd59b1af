"""
Docstrings are written for Sphinx and doctest; the site is Markdown. This extension translates.

Roles become code spans and doctests console blocks. The fields of a named tuple, which griffe
does not know as parameters, become attributes. A setting that is not given is the class's: the
constructor's None is shown as ``defaults.flow`` and the like.
"""

import re
from dataclasses import fields
from typing import Any

import griffe

from sb3_rfm.common.config import Settings

ROLE = re.compile(
    r":(?:py:)?(?:class|func|meth|mod|attr|data|exc|obj|math):`~?([^`<]+?)(?: <[^`]*>)?`"
)
SHELL = "sb3_rfm.common.algorithm.FlowActorCritic.__init__"
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
        if obj.path == SHELL:
            for name in (field.name for field in fields(Settings)):
                obj.parameters[name].default = f"defaults.{name}"
        if obj.docstring is None:
            return
        text = to_markdown(obj.docstring.value)
        if obj.is_class and any("NamedTuple" in str(base) for base in obj.bases):
            text = text.replace(":param ", ":var ")
        obj.docstring.value = text
