"""specObjIDs: which spectra they name, as the files of the archive say themselves."""

from __future__ import annotations

import pandas as pd
from astropy.io import fits

from skyfuse.survey.sdss.specobjid import spectra_named


def test_names_of_real_files(real_data):
    files = sorted((real_data / "sdss_spectra" / "objects").glob("spec-*.fits"))[:20]
    rows = [fits.getdata(path, 2)[0] for path in files]
    named = spectra_named(pd.Series([str(row["SPECOBJID"]).strip() for row in rows]))
    wanted = [[int(part) for part in path.stem.split("-")[1:4]] for path in files]
    assert len(files) == 20
    assert named.to_numpy().tolist() == wanted


def test_what_names_nothing_stays_missing():
    named = spectra_named(pd.Series([299489676975171584, None], dtype="Int64"))
    assert named.iloc[0].tolist() == [266, 51602, 1]
    assert named.iloc[1].isna().all()
