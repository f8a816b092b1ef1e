"""Identifiers by which the catalogues of SDSS name spectra."""

from __future__ import annotations

import numpy as np
import pandas as pd

from skyfuse import identifiers


def spectra_named(column: pd.Series) -> pd.DataFrame:
    """Return plate, MJD and fibre that specObjIDs stand for.

    As of DR8 (https://www.sdss.org/dr17/spectro/spectro_access): plate in bits 50 to 63, fibre in 38 to 49,
    MJD − 50000 in 24 to 37.

    Parameters
    ----------
    column : Series
        Whole numbers, or text of such.

    Returns
    -------
    DataFrame
        ``plate``, ``mjd``, ``fiberid`` (Int64), missing where the identifier is.

    Raises
    ------
    DataError
        If the identifiers were rounded.
    """
    names = identifiers.whole_numbers(column)
    known = names.notna().to_numpy()
    bits = names.to_numpy(dtype=np.uint64, na_value=0)
    parts = {
        "plate": bits >> np.uint64(50),
        "mjd": ((bits >> np.uint64(24)) & np.uint64(0x3FFF)) + np.uint64(50000),
        "fiberid": (bits >> np.uint64(38)) & np.uint64(0xFFF),
    }
    return pd.DataFrame(
        {name: pd.arrays.IntegerArray(part.astype(np.int64), ~known) for name, part in parts.items()},
        index=column.index,
    )
