"""Descriptions of instruments: those shipped are whole, bad ones are refused in one line with the remedy."""

import re
import textwrap
from pathlib import Path

import pytest

from skyfuse.errors import UsageError
from skyfuse.survey import registry
from skyfuse.survey.described import described
from skyfuse.survey.description import Description, load_description, shipped_names, shipped_text

WHOLE = """\
name: toy
title: A survey
source: nowhere
recognise: {header: {CAMERA: toycam}}
images: {file: '(?P<night>n[0-9]+)_img'}
weight: {file: '{night}_wht', means: inverse-variance}
bands: [g, i]
band: {keyword: FILTER}
pixel_arcsec: 0.5
unit: adu
id: '{night}-{key}-{band}'
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_descriptions_are_whole():
    assert shipped_names() == [
        *("90prime-cp", "decam-cp", "legacy-coadd", "mosaic-cp", "unwise"),
        "generic",
    ]
    for name in shipped_names():
        description = load_description(name)
        assert description.name == name
        # Each says where what it claims is told.
        assert len(description.source) > 20
        assert description.name in registry.instruments()


def test_bands_that_a_keyword_can_mean_are_all_named():
    for name in shipped_names():
        description = load_description(name)
        assert set(description.band.names.values()) <= set(description.bands)
        assert set(description.bands) <= set(description.band.names.values()) or not description.band.names


def test_every_field_is_documented():
    def fields(section):
        for name, field in section.model_fields.items():
            yield f"{section.__name__}.{name}", field.description
            for inner in getattr(field.annotation, "__args__", (field.annotation,)):
                if hasattr(inner, "model_fields"):
                    yield from fields(inner)

    told = dict(fields(Description))
    assert len(told) > 35
    for name, text in told.items():
        assert text, name
        assert text.endswith("."), name


def test_readers_of_descriptions_come_after_those_in_python():
    names = [reader.name for reader in registry.readers()]
    assert names.index("sdss-frames") < names.index("decam-cp-frames") < names.index("generic-frames")


def test_a_description_of_ones_own_takes_the_place_of_the_shipped_one(tmp_path):
    more_bands = shipped_text("mosaic-cp").replace("bands: [z]", "bands: [z, D51]")
    path = tmp_path / "own.yaml"
    path.write_text(more_bands, encoding="utf-8")
    own = described(path)
    assert registry.reader_named("mosaic-cp-frames", [own]) is own
    assert [reader.name for reader in registry.readers([own])].count("mosaic-cp-frames") == 1
    assert registry.instruments([own])["mosaic-cp"].imaging.bands == ("z", "D51")


def test_a_description_cannot_take_the_name_of_what_python_reads(tmp_path):
    own = described(write(tmp_path, WHOLE.replace("name: toy", "name: sdss")))
    with pytest.raises(UsageError, match="another name"):
        registry.instruments([own])


BAD = {
    "no-yaml": ("name: [", "no valid YAML"),
    "python": ("name: !!python/name:os.system", "tag"),
    "unknown-field": ("colour: red", "unknown field colour"),
    "unknown-inner": ("band: {keyword: FILTER, colour: red}", "unknown field band.colour"),
    "missing": ("bands:", "bands"),
    "name": ("name: ../toy", "field name"),
    "no-tell-tale": ("recognise: {}", "nothing tells"),
    "bad-pattern": ("images: {file: '(night'}", "no regular expression"),
    "bad-header-pattern": ("recognise: {header: {CAMERA: '*'}}", "no regular expression"),
    "bad-keyword": ("recognise: {header: {camera: x}}", "no FITS keyword"),
    "another-folder": ("weight: {file: '../{night}_wht', means: sigma}", "separator"),
    "windows-folder": ("weight: {file: 'x\\{night}', means: sigma}", "separator"),
    "lone-brace": ("weight: {file: '{night_wht', means: sigma}", "brace"),
    "attribute": ("weight: {file: '{night.__class__}', means: sigma}", "no group"),
    "no-group": ("weight: {file: '{day}_wht', means: sigma}", "no group"),
    "one-weight-for-all": ("weight: {file: weights, means: sigma}", "same for all"),
    "means": ("weight: {file: '{night}_wht', means: doubt}", "inverse-variance"),
    "weight-nowhere": ("weight: {means: sigma}", "where an array is"),
    "measured-somewhere": ("weight: {file: '{night}_wht', means: measured}", "where an array is"),
    "mask-nowhere": ("mask: {bits: [1]}", "where the mask is"),
    "mask-both": ("mask: {extension: DQ, bits: [1], values: [2]}", "exclude"),
    "mask-bits": ("mask: {extension: DQ, bits: [64]}", "0 to 63"),
    "mask-band": ("mask: {extension: DQ, bits: {z: [1]}}", "'z'"),
    "no-bands": ("bands: []", "bands"),
    "band-name": ("bands: [g, 'i/..']", "no name"),
    "band-twice": ("bands: [g, g]", "twice"),
    "band-number": ("bands: [g, 1]", "bands"),
    "band-not-there": ("band: {keyword: FILTER, names: {x: z}}", "'z'"),
    "band-nowhere": ("band: {}", "keyword or group"),
    "band-group": ("band: {group: filter}", "no group"),
    "zero-point-band": ("zero_point: {magnitude: {g: 25}}", "lacks the band 'i'"),
    "zero-point-text": ("zero_point: {magnitude: bright-ish}", "no FITS keyword"),
    "zero-point-infinite": ("zero_point: {magnitude: .inf}", "finite"),
    "zero-point-of-nanomaggies": ("zero_point: {magnitude: 22.5}\nunit: nanomaggy", "needs no zero_point"),
    "vega-band": ("zero_point: {magnitude: 25, vega: {g: 0.1}}", "lacks the band 'i'"),
    "gain-twice": ("gain: 2.5", "gain adds noise"),
    "time-both": ("time: {start: A, end: B, exposure: C}", "exclude"),
    "time-scale": ("time: {start: A, scale: utcish}", "utc"),
    "pixel": ("pixel_arcsec: 0", "pixel_arcsec"),
    "cutout-both": ("cutout: {pixels: 4, arcsec: 5}", "twice"),
    "cutout-none": ("cutout: {}", "missing"),
    "zooms": ("zooms: 0", "zooms"),
    "id-for-all": ("id: frame", "same for all"),
    "id-field": ("id: '{what}'", "neither a keyword"),
    "id-slash": ("id: 'a/{night}'", "separator"),
    "sky": ("sky: blue", "sky"),
    "caution": ("caution: {WCSCAL: '('}", "no regular expression"),
    "companions": ("companions: ['[']", "no regular expression"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_descriptions_are_refused_in_one_line(name, tmp_path):
    change, told = BAD[name]
    fields = tuple(f"{line.split(':')[0]}:" for line in change.splitlines())
    lines = [line for line in WHOLE.splitlines() if not line.startswith(fields)]
    with pytest.raises(UsageError) as caught:
        described(write(tmp_path, "\n".join([*lines, change]) + "\n"))
    message = str(caught.value)
    assert "\n" not in message
    assert "toy.yaml" in message
    assert told in message, message
    # A fault, then what to do.
    assert re.search(r"; \S+", message)


def test_an_instrument_that_is_not_there_is_told_with_those_that_are(tmp_path):
    with pytest.raises(UsageError, match="decam-cp"):
        described("dekam")
    with pytest.raises(UsageError, match="no such description file"):
        described(tmp_path / "none.yaml")


def test_the_whole_one_is_read(tmp_path):
    (instrument,) = described(write(tmp_path, WHOLE)).instruments
    assert instrument.imaging.unit == "adu"
    assert instrument.imaging.size == 64
    text = WHOLE + textwrap.dedent("""\
        unit: nanomaggy
        cutout: {arcsec: 20.1}
    """)
    text = text.replace("unit: adu\n", "")
    (instrument,) = described(write(tmp_path, text)).instruments
    assert instrument.imaging.unit == "nanomaggy"
    assert instrument.imaging.size == 41


def test_shipped_files_are_called_what_they_describe():
    for name in shipped_names():
        text = shipped_text(name)
        assert text.startswith(f"name: {name}\n")
        assert text.endswith("\n")
