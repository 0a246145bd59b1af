"""
Run the Python of a page: its blocks in order, in one namespace, in the present folder.

    cd docs/images && OMP_NUM_THREADS=1 ../../.venv/bin/python ../run_page.py ../first_hour.md

writes the page's pictures.
"""

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(page: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """
    Run a page.

    :param page: a file in Markdown
    :return: the namespace; and for each block of text what the Python before it printed, and the
        block
    """
    namespace: dict[str, Any] = {"__name__": page.stem}
    printed, pairs = "", []
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        language, block = found.groups()
        if language == "text":
            pairs.append((printed, block))
            continue
        line = text.count("\n", 0, found.start(2))
        code = compile("\n" * line + block, str(page), "exec")  # errors name the page's own line
        with contextlib.redirect_stdout(io.StringIO()) as stream:
            exec(code, namespace)
        printed = stream.getvalue()
    return namespace, pairs


if __name__ == "__main__":
    for got, _ in run(Path(sys.argv[1]))[1]:
        print(got)
