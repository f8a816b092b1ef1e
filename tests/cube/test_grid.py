"""Wavelength grids, HEALPix cells and the WCS of zooms."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from mocpy import MOC

from skyfuse.cube.grid import (
    BOSS,
    DESI,
    GRIDS,
    HISS,
    LAMOST,
    SDSS,
    grid_named,
    healpix29,
    tile_of,
    zoom_wcs,
)
from skyfuse.errors import UsageError


def test_sdss_grid():
    k = np.arange(35835, 39579)
    np.testing.assert_allclose(SDSS.centres(0), 10 ** (k * 1e-4), rtol=1e-13)
    np.testing.assert_allclose(SDSS.edges(0)[[0, -1]], 10 ** np.array([3.58345, 3.95785]), rtol=1e-13)
    assert [len(SDSS.centres(zoom)) for zoom in range(5)] == [3744, 1872, 936, 468, 234]
    for zoom in range(1, 5):
        np.testing.assert_allclose(SDSS.edges(zoom), SDSS.edges(zoom - 1)[::2], rtol=1e-13)


def test_hiss_grid():
    np.testing.assert_allclose(HISS.centres(0), np.linspace(3839.7244, 8914.597, 4620), rtol=1e-13)
    step = (8914.597 - 3839.7244) / 4619
    for zoom, size in enumerate((4620, 2310, 1155, 577, 289)):
        edges = HISS.edges(zoom)
        assert len(edges) == size + 1
        np.testing.assert_allclose(edges[[0, -1]], [3839.7244 - step / 2, 8914.597 + step / 2], rtol=1e-13)
        np.testing.assert_allclose(np.diff(edges), (edges[-1] - edges[0]) / size, rtol=1e-9)


def test_grids_by_name_and_zooms_off_them():
    assert {name: grid.name for name, grid in GRIDS.items()} == {name: name for name in GRIDS}
    for zoom in (-1, 5):
        with pytest.raises(UsageError, match="choose 0 to 4"):
            HISS.edges(zoom)


def test_grids_of_fibre_surveys_are_their_native_bins():
    for grid, first, last, size in (
        (BOSS, 3600, 10400, 4608),
        (LAMOST, 3690, 9100, 3920),
        (SDSS, 3832.7, 9074, 3744),
    ):
        assert grid.sizes == tuple(size >> zoom for zoom in range(5))
        k = np.log10(grid.centres(0)) * 1e4
        np.testing.assert_allclose(k, grid.first_bin + np.arange(size), atol=1e-6)
        np.testing.assert_allclose(grid.centres(0)[[0, -1]], [first, last], rtol=3e-4)
    np.testing.assert_allclose(DESI.centres(0), 3600 + 0.8 * np.arange(7781), rtol=1e-14)
    assert DESI.sizes == (7781, 3891, 1946, 973, 487)
    for zoom in range(1, 5):
        # Halved exactly; of an odd number the last bin reaches beyond.
        np.testing.assert_allclose(np.diff(DESI.edges(zoom)), 0.8 * 2**zoom, rtol=1e-9)
        np.testing.assert_allclose(DESI.edges(zoom)[:-1], DESI.edges(zoom - 1)[:-1][::2], rtol=1e-13)


@given(
    kind=st.sampled_from(["log", "linear"]),
    first=st.floats(1000, 9000),
    bins=st.integers(33, 5000),
    step=st.floats(0.05, 5),
    short=st.floats(0, 0.9),
)
def test_described_grids_have_the_centres_and_steps_that_are_asked_for(kind, first, bins, step, short):
    log = kind == "log"
    step = step * 1e-4 if log else step
    start = float(np.log10(first)) if log else first
    last = start + (bins - 1 + short) * step
    grid = grid_named(f"{kind}:{first!r},{10**last if log else last!r},{step!r}")
    assert grid_named(grid.name) == grid
    centres = np.log10(grid.centres(0)) if log else grid.centres(0)
    assert len(centres) == bins
    # Half a percent of a bin: where they are a survey's own bins.
    np.testing.assert_allclose(centres, start + step * np.arange(bins), rtol=0, atol=6e-3 * step)
    assert grid.sizes == tuple(-(-bins // 2**zoom) for zoom in range(5))
    for zoom in range(5):
        assert (np.diff(grid.edges(zoom)) > 0).all()


def test_described_grids_that_are_a_surveys_bins_are_not_resampled():
    assert grid_named("linear:3600,9824,0.8").edges(3).tolist() == DESI.edges(3).tolist()
    assert grid_named("linear:3600,9824,0.8").first_bin == 4500
    assert grid_named("linear:3600.1,9824,0.8").first_bin is None
    assert grid_named("log:3801.894,9000,1e-4").first_bin == 35800
    assert grid_named("log:3801.894,9000,2e-4").first_bin is None
    assert grid_named("log:3600,9000,0.0001").name == "log:3600.0,9000.0,0.0001"
    assert all(grid_named(name) is grid for name, grid in GRIDS.items())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SDSS",
        "log",
        "log:",
        "log:1,2",
        "log:3600,9000,1e-4,1",
        "log:a,9000,1e-4",
        "log:9000,3600,1e-4",
        "log:3600,9000,-1e-4",
        "log:3600,9000,nan",
        "log:3600,inf,1e-4",
        "log:3600,9000,1e-12",
        "linear:3600,9000,900",
        "linear:0,9000,1",
        "linear:3600,9000,1e-320",
        "cubic:3600,9000,1",
    ],
)
def test_grids_that_make_no_sense_are_refused_with_the_way_to_write_them(text):
    with pytest.raises(UsageError, match=r"log:FIRST,LAST,STEP|give a step in"):
        grid_named(text)


@given(order=st.integers(0, 12), ra=st.floats(0, 360, exclude_max=True), dec=st.floats(-90, 90))
def test_cells_are_nested(order, ra, dec):
    fine = healpix29(ra, dec)
    assert fine.dtype == np.int64
    np.testing.assert_array_equal(tile_of(ra, dec, order), fine >> 2 * (29 - order))


def test_cells_hold_their_positions():
    # Cell 0 of order 0 is the one around RA 45°, Dec 0…42° (NESTED), cells 4 to 7 straddle the equator.
    np.testing.assert_array_equal(
        tile_of([45, 0, 90, 135, 225, 45], [20, 0, 0, 20, -20, 89], 0), [0, 4, 5, 1, 10, 0]
    )
    ra, dec = np.array([10.0, 200.45, 359.9]), np.array([-0.5, 36.8, 80.0])
    for lon, lat, cell in zip(ra, dec, tile_of(ra, dec, 6), strict=True):
        assert MOC.from_string(f"6/{cell}").contains_lonlat(lon * u.deg, lat * u.deg).all()


@pytest.mark.parametrize("use_cd", [True, False])
def test_zoomed_wcs_keeps_positions(use_cd):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [200.0, 36.0]
    wcs.wcs.crpix = [1025.0, 745.0]
    if use_cd:
        wcs.wcs.cd = [[1.78e-5, 1.0856e-4], [1.0855e-4, -1.785e-5]]
    else:
        wcs.wcs.cdelt = [-1.1e-4, 1.1e-4]
    wcs.pixel_shape = (2047, 1489)
    for zoom in range(5):
        coarse = zoom_wcs(wcs, zoom)
        # The middle of the block of native pixels is the centre of the coarse pixel.
        for column, row in ((0, 0), (3, 7), (90, 60)):
            native = ((np.array([column, row]) + 0.5) * 2**zoom - 0.5)[None]
            np.testing.assert_allclose(
                coarse.wcs_pix2world([[column, row]], 0), wcs.wcs_pix2world(native, 0), rtol=0, atol=1e-11
            )
        assert coarse.pixel_shape == (-(-2047 // 2**zoom), -(-1489 // 2**zoom))
    np.testing.assert_array_equal(wcs.wcs.crpix, [1025, 745])
