"""Skyfuse: images, spectra and catalogues of the same sky as one cube and as trained models."""
