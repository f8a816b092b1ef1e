"""The instrument that took the frames and spectra of SDSS."""

from __future__ import annotations

from skyfuse.survey.records import Imaging, Instrument, Spectroscopy

BANDS = "ugriz"
"""SDSS bands in the order in which every image array holds them."""

PIXEL_ARCSEC = 0.396
"""Nominal width of a pixel of its frames."""

# A star drifts over the CCDs in this order, two frames apart (Gunn et al. 1998, AJ 116, 3040), and FRAME
# counts the frames of one CCD: the field, which numbers the sky, is FRAME less this. Real frames bear it out.
FRAMES_BEHIND_R = {"r": 0, "i": 2, "u": 4, "z": 6, "g": 8}

SDSS = Instrument("sdss", Imaging(tuple(BANDS), PIXEL_ARCSEC), Spectroscopy("sdss"))
"""The camera of the 2.5 m telescope (Gunn et al. 1998) and the spectrographs beneath it."""
