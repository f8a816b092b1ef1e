"""Readers: the only code that knows a survey's file format.

What all agree on: ``records`` (frames, spectra, and the instruments that took them), ``reader`` (what a
reader must be able to do) and ``registry`` (which reader reads a file).

A survey is a module or a room: ``sdss``, ``lamost``, ``desi``; spectra of any other, as far as specutils
reads them, are ``anyspectrum``'s. A survey of images can be one YAML file: ``description`` says what such a
file may tell, ``described`` reads by it. ``commands`` holds the verbs of ``skyfuse instrument``, ``trial``
what one of them tells of a file.

What has no frames goes straight into a dataset: ``gaia`` (BP/RP spectra), ``galaxyzoo`` (votes),
``colourimages``, ``scene`` (such images with a table of features), ``mpajhu`` (star-formation rates),
``objecttable`` (which objects to cut out), and any ``tables``, whatever their form: ``texttable``,
``fitstable``, ``parquetfooter``, with ``columns`` as data frames want them.

What readers share: ``fits`` (headers, images and tables from bytes), ``wcs`` (pixels to sky), ``spectra``
(wavelengths, errors, verdicts) and ``filetype`` (what a file is by its first bytes).
"""
