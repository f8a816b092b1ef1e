"""Images that a description tells how to read (`skyfuse.survey.description`).

``reader`` goes from file to frames: ``hdus`` finds the images in a file, ``headerfacts`` what theirs tell of
band, time, scale and name, ``pixels`` which of theirs are good, and their variance. ``draft`` writes the
first description of a file.
"""

from skyfuse.survey.described.reader import DescribedReader, described

__all__ = ["DescribedReader", "described"]
