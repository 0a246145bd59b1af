"""The example that trains another policy by one word."""

import re
import runpy
import sys

import pytest
from small_comparisons import ROOT

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize("word", ["SAC", "RFMFlow"])
def test_a_script_trains_another_policy_by_one_word(word, tmp_path, monkeypatch, capsys):
    text = (ROOT / "examples" / "drop_in.py").read_text()
    assert text.count("import SAC as") == 1
    script = tmp_path / "script.py"
    script.write_text(text.replace("import SAC as", f"import {word} as"))
    monkeypatch.setattr(sys, "argv", [str(script), "200"])
    runpy.run_path(str(script), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"{word}: return -\d+\.\d ± \d+\.\d after 200 steps", last)
