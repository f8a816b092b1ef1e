"""What our own tests use, for the tests of readers, instruments and models that others write.

Each check raises AssertionError, with one line that says what is asked for, where something is not so.
"""

from skyfuse.testing.models import check_model
from skyfuse.testing.readers import check_instrument, check_reader
from skyfuse.testing.tiny import TinyReader, tiny_arrays, tiny_cube, tiny_dataset, tiny_sky

__all__ = [
    "TinyReader",
    "check_instrument",
    "check_model",
    "check_reader",
    "tiny_arrays",
    "tiny_cube",
    "tiny_dataset",
    "tiny_sky",
]
