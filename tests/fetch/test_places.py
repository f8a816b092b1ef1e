from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from skyfuse.errors import FileError
from skyfuse.fetch.ledger import Wanted
from skyfuse.fetch.places import target_of


@given(st.text(st.sampled_from("./\\:aC~\0\n "), min_size=1, max_size=12))
def test_no_name_leads_out(path: str) -> None:
    folder = Path("/nowhere/at/all")
    try:
        target = target_of(folder, Wanted(path, "http://archive/a", "table"))
    except FileError as error:
        reason = error.reason
    else:
        reason = "" if os.path.normpath(target).startswith(f"{folder}/") else "out"
    assert reason in ("", "unsafe-path")
