import importlib.util
import re
import sys
from pathlib import Path

import pytest

from skyfuse.survey.described import described

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location("instruments_page", DOCS / "instruments.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(page):
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run python docs/instruments.py"


def test_the_example_is_a_description(page, tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", page.HEAD, re.DOTALL)
    (tmp_path / "kestrel.yaml").write_text(example, encoding="utf-8")
    assert described(tmp_path / "kestrel.yaml").description.bands == ["blue", "red"]
