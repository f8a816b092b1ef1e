"""The instrument that took the frames and spectra of SDSS."""

from __future__ import annotations

from skyfuse.survey.records import Imaging, Instrument, Spectroscopy

BANDS = "ugriz"
"""SDSS bands in the order in which every image array holds them."""

PIXEL_ARCSEC = 0.396
"""Nominal width of a pixel of its frames."""

SDSS = Instrument("sdss", Imaging(tuple(BANDS), PIXEL_ARCSEC), Spectroscopy("sdss"))
"""The camera of the 2.5 m telescope (Gunn et al. 1998) and the spectrographs beneath it."""
