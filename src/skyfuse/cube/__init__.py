"""The cube: images and spectra in tiles, at every zoom with their uncertainties."""
