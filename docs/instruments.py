"""Write docs/instruments.md, the reference of descriptions of instruments, from the schema and those shipped.

python docs/instruments.py [OUT.md]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from recipes import explained_sections, table

from skyfuse.survey.description import Description, load_description, shipped_names

PAGE = Path(__file__).with_suffix(".md")

HEAD = """# Instruments

Written by `docs/instruments.py` from the schema: do not edit it.

The images of an instrument are read as a description says, a YAML file without code: which files and HDUs
hold images, how weight and mask make their uncertainty, and what the header's words mean. What a description
cannot say is a reader in Python.

    skyfuse instrument list                              the instruments that are known
    skyfuse instrument show decam-cp                     a description, with its reasons in comments
    skyfuse instrument new exposure.fits -o mine.yaml    a draft from the headers of a file
    skyfuse instrument check mine.yaml exposure.fits     what it makes of the file

The value of a pixel is `scale * image`, its σ is `scale * σ(weight)`; the index of frames keeps the scale. A
pixel is invalid where the image is not finite, the weight not finite or not positive, or the mask says so.
Frames whose zero point is not known keep their own unit: they are kept, and no object is cut from them.

A whole one, of a survey that nobody has flown:

```yaml
name: kestrel
title: An invented survey of SCI and ERR
source: nowhere
recognise:
  header: {INSTRUME: KESTREL}
images: {extension: SCI}
weight: {extension: ERR, means: sigma}
bands: [blue, red]
band: {keyword: ARM, names: {'B[0-9]': blue, 'R[0-9]': red}}
pixel_arcsec: 0.8
unit: mJy
zero_point: {magnitude: 16.4}
id: '{OBSID}-{band}'
```

Patterns are regular expressions; in single quotes YAML leaves them as they are. A description of one's own
with the name of a shipped one takes its place.
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD, "## Descriptions shipped\n"]
    parts += [table(("instrument", "what", "bands", "pixel", "unit", "told in"), _shipped())]
    parts += ["## Fields\n", "Sections are explained below, each under its name.\n"]
    return "\n".join([*parts, *explained_sections(Description, "the description")])


def _shipped() -> Iterator[tuple[str, ...]]:
    for name in shipped_names():
        one = load_description(name)
        unit = "nanomaggy" if one.comparable else one.unit
        yield f"`{name}`", one.title, ", ".join(one.bands), f'{one.pixel_arcsec:g}"', unit, one.source.strip()


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE).write_text(page(), encoding="utf-8")
