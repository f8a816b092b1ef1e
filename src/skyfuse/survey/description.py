"""Descriptions of instruments: how the images of one survey are read, as one typed and documented YAML file.

A description is data, never code. What it cannot say is a reader of one's own in Python, see
`skyfuse.survey.reader`.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from skyfuse.errors import UsageError
from skyfuse.sections import Section, validated
from skyfuse.strictyaml import parse_yaml, read_yaml

WORDS = ("file", "key", "band")
"""What a template may name besides groups of the file's name and keywords."""

FIELD = re.compile(r"\{([^{}]*)\}")
"""A field of a template."""

_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}")
_NAME = re.compile(r"[A-Za-z0-9]+")


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression ({error}): correct it") from error
    return text


def _keyword(text: str) -> str:
    if not _KEYWORD.fullmatch(text):
        raise ValueError(f"{text!r} is no FITS keyword: write up to 8 capital letters, digits, - or _")
    return text


def _template(text: str) -> str:
    if "{" in FIELD.sub("", text) or "}" in FIELD.sub("", text):
        raise ValueError(f"{text!r} has a brace alone: write fields as {{name}}")
    if not text.isprintable() or "/" in text or "\\" in text:
        raise ValueError(f"{text!r} has a separator of folders or no printable text: give a name alone")
    return text


def _number_or_keyword(told: float | str) -> float | str:
    return _keyword(told) if isinstance(told, str) else told


Pattern = Annotated[str, AfterValidator(_pattern)]
Keyword = Annotated[str, AfterValidator(_keyword)]
Template = Annotated[str, AfterValidator(_template)]
NumberOrKeyword = Annotated[float | str, AfterValidator(_number_or_keyword)]


class Recognise(Section):
    """How a file is told to be one of this instrument; all that is given must hold."""

    header: dict[Keyword, Pattern] = Field(
        default_factory=dict,
        description="Keywords, each with a regular expression that its value must match in full, in the "
        "header of an image's HDU together with the primary one.",
    )
    extensions: list[str] = Field(
        default_factory=list, description="Names (EXTNAME) of HDUs that must be in the file."
    )
    file: Pattern | None = Field(
        None, description="Regular expression that the file's name must match, without .fits, .fz, .gz, .bz2."
    )

    @model_validator(mode="after")
    def _check(self) -> Recognise:
        if not (self.header or self.extensions or self.file):
            raise ValueError("nothing tells a file of this instrument: give header, extensions or file")
        return self


class Images(Section):
    """Which files and HDUs hold images; each image is a frame."""

    file: Pattern | None = Field(
        None,
        description="Regular expression that the name of a file of images matches in full, without .fits, "
        ".fz, .gz, .bz2. Its named groups, `(?P<exposure>...)`, serve the names of weight and mask, and ids. "
        "By default every file of the instrument.",
    )
    extension: Pattern = Field(
        ".*", description="Regular expression for the names (EXTNAME) of the HDUs that hold images."
    )


class Plane(Section):
    """An array beside the image: in another file, or another HDU of the same one."""

    file: Template | None = Field(
        None,
        description="Name of the file in the same folder, without .fits and so on, `{group}` standing for a "
        "group of the image's name; by default the image's own file.",
    )
    extension: str | None = Field(
        None, description="Name (EXTNAME) of the HDU, with the image's EXTVER; by default the image's own."
    )


class Weight(Plane):
    """Where the uncertainty of the pixels comes from."""

    means: Literal["inverse-variance", "variance", "sigma", "rms", "relative", "measured"] = Field(
        description="What the array holds, in the image's unit: `inverse-variance`, `variance` or `sigma` of "
        "the whole noise; `rms`, the sky's σ alone; `relative`, inverse variance on an unknown scale, which "
        "the scatter of neighbouring pixels then sets; `measured`: there is none, that scatter is σ."
    )
    sky_only: bool = Field(
        False,
        description="The array holds the sky's noise alone; always so of `rms`, `relative`, `measured`.",
    )

    @property
    def of_sky(self) -> bool:
        """Whether the noise of the objects themselves is not in it."""
        return self.sky_only or self.means in ("rms", "relative", "measured")

    @model_validator(mode="after")
    def _check(self) -> Weight:
        if (self.means == "measured") == (self.file is not None or self.extension is not None):
            raise ValueError("file or extension tell where an array is: `measured` has none, all others one")
        return self


class Mask(Plane):
    """Which pixels are bad; by default all whose mask is not zero."""

    values: list[int] | None = Field(None, min_length=1, description="The values that mean a bad pixel.")
    bits: list[int] | dict[str, list[int]] | None = Field(
        None,
        min_length=1,
        description="The bits, from 0, any of which means a bad pixel; by band where they differ: of bands "
        "that are not named no mask is read.",
    )

    @model_validator(mode="after")
    def _check(self) -> Mask:
        if self.file is None and self.extension is None:
            raise ValueError("where the mask is is missing: give file or extension")
        if self.values is not None and self.bits is not None:
            raise ValueError("values and bits exclude each other: give one of them")
        found = self.bits if isinstance(self.bits, dict) else {"": self.bits or []}
        if any(not 0 <= bit <= 63 for bits in found.values() for bit in bits):
            raise ValueError("bits are numbered from 0 to 63: correct them")
        return self


class Band(Section):
    """What tells the band of an image."""

    keyword: Keyword | None = Field(None, description="Keyword that names the filter.")
    group: str | None = Field(None, description="Or the group of the file's name that does.")
    names: dict[Pattern, str] = Field(
        default_factory=dict,
        description="Regular expressions for what stands there, in full, each with the band that it means; "
        "by default the bands' own names.",
    )

    @model_validator(mode="after")
    def _check(self) -> Band:
        if (self.keyword is None) == (self.group is None):
            raise ValueError("what tells the band is missing: give keyword or group, one of them")
        return self


class Time(Section):
    """When an image was exposed; unknown where the keywords are missing."""

    start: Keyword = Field(description="Keyword of the exposure's start: an MJD, or a date in ISO 8601.")
    end: Keyword | None = Field(None, description="Keyword of its end, likewise.")
    exposure: Keyword | None = Field(None, description="Or the keyword of its length in seconds.")
    scale: Literal["utc", "tai"] = Field("utc", description="Time scale of both.")

    @model_validator(mode="after")
    def _check(self) -> Time:
        if self.end is not None and self.exposure is not None:
            raise ValueError("end and exposure exclude each other: give one of them")
        return self


class ZeroPoint(Section):
    """How values become nanomaggies: those of magnitude 22.5 (AB) are 1."""

    magnitude: NumberOrKeyword | dict[str, float] = Field(
        description="Magnitude of a source of 1 in the image's unit: a number, one by band, or a keyword; an "
        "image without the keyword keeps its own unit."
    )
    per_second: Keyword | None = Field(
        None, description="Keyword of the exposure in seconds, where the magnitude is that of 1 per second."
    )
    vega: dict[str, float] | None = Field(
        None, description="Where magnitudes are Vega's: AB less Vega by band."
    )


class Cutout(Section):
    """How large the cutouts are that a cube keeps of each object: one of both."""

    pixels: int | None = Field(None, ge=1, le=4096, description="Pixels along each axis.")
    arcsec: float | None = Field(None, gt=0, description="Or arcseconds; rounded up to pixels.")

    @model_validator(mode="after")
    def _check(self) -> Cutout:
        if (self.pixels is None) == (self.arcsec is None):
            raise ValueError("the size is missing or given twice: give pixels or arcsec")
        return self


class Description(Section):
    """One instrument, whole."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="Short name, e.g. `decam-cp`.")
    title: str = Field(description="What it is, as people call it.")
    source: str = Field(description="Where its data model is told: paper, page.")
    recognise: Recognise = Field(description="How a file is told to be one of this instrument.")
    images: Images = Field(default=Images.model_validate({}), description="Which files and HDUs hold images.")
    weight: Weight = Field(description="Where the uncertainty of the pixels comes from.")
    mask: Mask | None = Field(None, description="Which pixels are bad.")
    saturation: NumberOrKeyword | None = Field(
        None,
        description="Value at and above which a pixel is bad, where the mask does not tell: a number "
        "or a keyword.",
    )
    gain: NumberOrKeyword | None = Field(
        None,
        description="Electrons per unit of the image, a number or a keyword: adds the objects' own noise to "
        "a weight that holds the sky's alone.",
    )
    sky: Literal["included", "subtracted"] = Field(
        "subtracted",
        description="Whether the sky's light is still in the image; it is never subtracted here.",
    )
    bands: list[str] = Field(min_length=1, max_length=32, description="Bands, in the order of all arrays.")
    band: Band = Field(description="What tells the band of an image.")
    time: Time | None = Field(None, description="When an image was exposed; none of coadds.")
    pixel_arcsec: float = Field(gt=0, lt=3600, description="Nominal width of a pixel.")
    unit: str = Field(
        description="Unit of the image, `nanomaggy` (AB) or what it is where no zero point is known.",
        pattern=r"^[ -~]{1,40}$",
    )
    zero_point: ZeroPoint | None = Field(None, description="How values become nanomaggies.")
    cutout: Cutout = Field(
        default=Cutout.model_validate({"pixels": 64}), description="How large the cutouts of objects are."
    )
    zooms: int = Field(5, ge=1, le=10, description="Zooms of frames and cutouts, the native one counted.")
    id: Template = Field(
        description="Id of a frame, unique in the survey: `{KEYWORD}`, `{group}` of the file's name, "
        "`{file}`, `{key}` (name of the HDU) and `{band}` stand for their values."
    )
    caution: dict[Keyword, Pattern] = Field(
        default_factory=dict,
        description="Keywords whose value, where it matches in full, the index tells against a frame.",
    )
    companions: list[Pattern] = Field(
        default_factory=list,
        description="Regular expressions for the names of files of the survey that are known and not read.",
    )

    @property
    def comparable(self) -> bool:
        """Whether its frames are in nanomaggies."""
        return self.zero_point is not None or self.unit == "nanomaggy"

    def masks(self, band: str) -> bool:
        """Tell whether the mask says something of a band."""
        return self.mask is not None and not (isinstance(self.mask.bits, dict) and band not in self.mask.bits)

    @field_validator("bands")
    @classmethod
    def _check_bands(cls, bands: list[str]) -> list[str]:
        for band in bands:
            if not _NAME.fullmatch(band):
                raise ValueError(f"the band {band!r} is no name: write letters and digits")
        if len(set(bands)) < len(bands):
            raise ValueError("a band stands there twice: name each once")
        return bands

    @model_validator(mode="after")
    def _check(self) -> Description:
        groups = set(re.compile(self.images.file or "").groupindex)
        for place, template in (("weight", self.weight.file), ("mask", self.mask and self.mask.file)):
            for field in FIELD.findall(template or ""):
                if field not in groups:
                    raise ValueError(f"{place}.file has {{{field}}}, no group of images.file: name one of it")
            if template and not FIELD.search(template):
                raise ValueError(f"{place}.file is the same for all images: put in a group of images.file")
        for field in FIELD.findall(self.id):
            if field not in groups and field not in WORDS and not _KEYWORD.fullmatch(field):
                raise ValueError(
                    f"id has {{{field}}}, neither a keyword nor a group of images.file nor one of "
                    f"{', '.join(WORDS)}: correct it"
                )
        if not FIELD.search(self.id):
            raise ValueError("id is the same for all frames: put in keywords or groups")
        if self.band.group is not None and self.band.group not in groups:
            raise ValueError(f"band.group is {self.band.group!r}, no group of images.file: name one of it")
        if self.zero_point is not None and self.unit == "nanomaggy":
            raise ValueError("an image in nanomaggies needs no zero_point: leave it out, or correct unit")
        if self.gain is not None and not self.weight.of_sky:
            raise ValueError(
                "gain adds noise to a weight that holds it already: leave it out, or say sky_only"
            )
        self._check_names()
        return self

    def _check_names(self) -> None:
        point = self.zero_point
        told = {
            "band.names": self.band.names.values(),
            "mask.bits": self.mask.bits if self.mask and isinstance(self.mask.bits, dict) else (),
            "zero_point.magnitude": point.magnitude if point and isinstance(point.magnitude, dict) else (),
            "zero_point.vega": point.vega or () if point else (),
        }
        for place, names in told.items():
            for band in names:
                if band not in self.bands:
                    raise ValueError(f"{place} has the band {band!r}, which bands lacks: add it there")
        for place in ("zero_point.magnitude", "zero_point.vega"):
            missing = [band for band in self.bands if band not in told[place]]
            if told[place] and missing:
                raise ValueError(f"{place} lacks the band {missing[0]!r}: give all of them")


def shipped_names() -> list[str]:
    """Return the names of the descriptions that come with Skyfuse, in the order in which they are asked."""
    folder = resources.files("skyfuse") / "instruments"
    names = sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    # What any file may be comes after what is told by name.
    return sorted(names, key=lambda name: name == "generic")


def shipped_text(name: str) -> str:
    """Return the YAML of a description that comes with Skyfuse."""
    return (resources.files("skyfuse") / "instruments" / f"{name}.yaml").read_text(encoding="utf-8")


def load_description(name: str | Path) -> Description:
    """Return a description that comes with Skyfuse, or that of a YAML file.

    Parameters
    ----------
    name : str or path
        Name of a shipped one, or a file.

    Raises
    ------
    UsageError
        There is none, or something in it is unknown, missing or impossible.
    """
    if str(name) in shipped_names():
        data, where = parse_yaml(shipped_text(str(name)), "description", where=str(name)), str(name)
    elif Path(name).suffix in (".yaml", ".yml") or Path(name).exists():
        data, where = read_yaml(Path(name), "description"), str(name)
    else:
        raise UsageError(
            f"there is no instrument {str(name)!r}",
            remedy=f"give a YAML file or one of {', '.join(shipped_names())}",
        )
    return validated(Description, data, "description", where=where)
