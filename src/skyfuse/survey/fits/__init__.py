"""FITS straight from bytes: what is needed of the standard to read survey files fast.

Opening a lite spectrum with astropy takes about 7 ms, nearly all of it spent on the 126 to 236 columns of a
table of which seven values are needed. These few functions read the same values in well under 1 ms.

``whole`` reads and checks a file, ``content`` its bytes, ``hdus`` finds the HDUs in them; ``header``,
``tables`` and ``images`` read what an HDU holds; ``faults`` are what can be wrong with any of it.
"""

from skyfuse.survey.fits.content import MOST_BYTES, OnDisk, Scratch, is_compressed, read_bytes, stamp
from skyfuse.survey.fits.faults import damaged
from skyfuse.survey.fits.hdus import (
    BLOCK,
    HDU,
    parse,
    read_header,
    read_headers,
    require_sums,
    unpacked_header,
)
from skyfuse.survey.fits.header import (
    CARD,
    Header,
    integer,
    number,
    position,
    printable,
    require_date,
    require_one_voice,
    require_plain_image,
    survey,
    text,
)
from skyfuse.survey.fits.images import image
from skyfuse.survey.fits.tables import column_names, table
from skyfuse.survey.fits.whole import read, read_on_demand

__all__ = [
    "BLOCK",
    "CARD",
    "HDU",
    "MOST_BYTES",
    "Header",
    "OnDisk",
    "Scratch",
    "column_names",
    "damaged",
    "image",
    "integer",
    "is_compressed",
    "number",
    "parse",
    "position",
    "printable",
    "read",
    "read_bytes",
    "read_header",
    "read_headers",
    "read_on_demand",
    "require_date",
    "require_one_voice",
    "require_plain_image",
    "require_sums",
    "stamp",
    "survey",
    "table",
    "text",
    "unpacked_header",
]
