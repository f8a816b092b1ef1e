"""SDSS: what its camera and spectrographs deliver, a module for each format.

``instrument`` tells bands and grid; ``frames`` and ``spectra`` read what DR8 and later release, ``spspec``
spectra of DR7 and before, ``sdssv`` those of SDSS-V. ``specobjid`` tells which spectrum a catalogue
names, ``objectid`` in which field an object lies.
"""
