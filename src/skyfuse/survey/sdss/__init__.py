"""SDSS: what its camera and spectrographs deliver, a module for each format.

``instrument`` tells bands and grid; ``frames`` and ``spectra`` read what DR8 and later release, ``spspec``
spectra of DR7 and before, ``sdssv`` those of SDSS-V. ``specobjid`` tells which spectrum a catalogue names.
"""

from skyfuse.survey.sdss.frames import FrameReader, read_frame
from skyfuse.survey.sdss.instrument import BANDS, SDSS
from skyfuse.survey.sdss.spectra import SpectrumReader, read_spectrum

__all__ = ["BANDS", "SDSS", "FrameReader", "SpectrumReader", "read_frame", "read_spectrum"]
