"""The reader of images that a description tells how to read: value and σ from image, weight and mask."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import FileError
from skyfuse.survey import fits, wcs
from skyfuse.survey.described import hdus, headerfacts
from skyfuse.survey.described.pixels import good_pixels, variances
from skyfuse.survey.description import FIELD, Description, Plane, load_description
from skyfuse.survey.fits.faults import AGAIN
from skyfuse.survey.reader import Options, Partner, Refused, SurveyFile
from skyfuse.survey.records import Frame, FrameInfo, Imaging, Instrument, content_of

_ENDING = re.compile(r"(\.(fits|fit|fts))?(\.(fz|gz|bz2))?$", re.IGNORECASE)
# In which a partner may lie there, besides the image's own.
_ENDINGS = (".fits", ".fits.fz", ".fits.gz", ".fits.bz2")
# An image of one detector; coadds have some 10,000 a side.
_MOST_SIDE = 65_536
# The level of empty pixels varies slowly: so many along each axis are plenty for its median.
_SAMPLED = 128


class _Image(NamedTuple):
    """An image in a file: its HDU's number, its key, its own header, and that over the primary one."""

    number: int
    key: str
    own: fits.Header
    header: fits.Header


@dataclass(frozen=True)
class _Opened:
    """A file kept open for its next image: what it was, its bytes, HDUs and SHA-256."""

    stamp: tuple[int, int, int]
    content: memoryview | fits.OnDisk
    hdus: list[fits.HDU]
    sha256: str

    @cached_property
    def headers(self) -> list[fits.Header]:
        """Headers as `SurveyFile.headers` has them."""
        return [
            fits.unpacked_header(hdu.header) if hdu.header.get("ZIMAGE") is True else hdu.header
            for hdu in self.hdus
        ]


class DescribedReader:
    """Reads the images of one instrument as its description says.

    Value is ``scale · image``, sigma ``scale · σ(weight)``, with the scale of `FrameInfo.scale`. A pixel is
    invalid where the image is not finite, where the weight is not finite or not positive, and where the mask
    says so.

    Parameters
    ----------
    description : Description
    """

    def __init__(self, description: Description) -> None:
        self.description = description
        # As that of spectra of the same instrument would be another reader.
        self.name = f"{description.name}-frames"
        cutout, pixel = description.cutout, description.pixel_arcsec
        self.instruments = (
            Instrument(
                description.name,
                Imaging(
                    tuple(description.bands),
                    pixel,
                    "nanomaggy" if description.comparable else description.unit,
                    cutout.pixels or math.ceil((cutout.arcsec or 0) / pixel),
                    description.zooms,
                ),
                described=hashlib.sha256(description.model_dump_json().encode()).hexdigest(),
            ),
        )
        self._opened: dict[Path, _Opened] = {}
        self._listed: tuple[tuple[Path, int] | None, dict[str, str]] = (None, {})

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes open files of their own.
        return DescribedReader, (self.description,)

    def recognises(self, file: SurveyFile) -> bool:
        """Tell whether the file is one of the instrument, by its headers, HDUs and name as described."""
        wanted = self.description.recognise
        if wanted.file is not None and not re.fullmatch(wanted.file, _stem(file.path)):
            return False
        if not set(wanted.extensions) <= {hdus.name_of(header) for header in file.headers}:
            return False
        return not wanted.header or any(
            all(
                key in header and re.fullmatch(pattern, str(header[key]).strip())
                for key, pattern in wanted.header.items()
            )
            for header in hdus.inherited(file.headers)
        )

    def records(self, file: SurveyFile) -> Sequence[FrameInfo | Refused | Partner]:
        """Return a frame for each image, or what the file is besides.

        Raises
        ------
        FileError
            ``no-weight``, ``no-mask`` where the file for all of its images is missing, ``no-image`` where it
            is such a file without its image, ``companion`` or ``unknown-kind`` where it is none of both,
            ``wrong-hdus``, or what a single image lacks.
        """
        groups = self._groups(file.path)
        if groups is None:
            return [self._partner(file.path)]
        images = self._images(file.headers)
        if not images:
            raise FileError("no HDU of it holds an image", reason="wrong-hdus", remedy=AGAIN, path=file.path)
        found: list[FrameInfo | Refused] = []
        errors: list[FileError] = []
        ids: set[str] = set()
        for image in images:
            try:
                info = self._info(image, file.headers, file.path, groups)
                if info.frame_id in ids:
                    raise FileError(
                        f"two of its images are {info.frame_id}",
                        reason="bad-values",
                        remedy="make the description's id tell them apart, e.g. by {key}",
                        path=file.path,
                    )
                ids.add(info.frame_id)
                found.append(info)
            except FileError as error:
                errors.append(error)
                found.append(Refused(image.key, error.reason, str(error), error.partners))
        if len(errors) == len(images) and len({str(error) for error in errors}) == 1:
            raise errors[0]
        return found

    def read(self, path: Path, key: str, options: Options) -> Frame:
        """Read one image with its weight and mask.

        Raises
        ------
        FileError
            As `records`, and ``wrong-shape``, ``no-good-pixels``, ``no-noise``, or what `fits.read_on_demand`
            says of each of the files.
        """
        opened = self._open(path)
        groups = self._groups(path)
        images = {image.key: image for image in self._images(opened.headers)}
        if groups is None or key not in images:
            raise FileError(f"it has no image {key!r}", reason="wrong-hdus", remedy=AGAIN, path=path)
        image = images[key]
        info = self._info(image, opened.headers, path, groups)
        for other in set(self._opened) - {path, *map(Path, info.partners)}:
            self._opened.pop(other, None)
        pixels = fits.image(opened.content, opened.hdus, image.number, path)
        weight, mask = self.description.weight, self.description.mask
        noise = None
        if weight.means != "measured":
            noise = self._plane("weight", weight, image, opened, path, groups)
        flags = None
        if mask is not None and self.description.masks(info.band):
            flags = self._plane("mask", mask, image, opened, path, groups)
        scratch = options.scratch or fits.Scratch()
        value, sigma = (scratch.array(name, info.shape, np.float32) for name in ("value", "sigma"))
        good = good_pixels(self.description, pixels, flags, image.header, info.band, path)
        variance = variances(self.description, pixels, noise, good, image.header, path)
        with np.errstate(invalid="ignore", over="ignore"):
            np.multiply(pixels, info.scale, out=value, casting="unsafe")
            np.multiply(np.sqrt(variance), info.scale, out=sigma, casting="unsafe")
        bad = ~(good & np.isfinite(value) & (sigma > 0) & np.isfinite(sigma))
        if bad.all():
            raise FileError("none of its pixels is valid", reason="no-good-pixels", remedy=AGAIN, path=path)
        value[bad] = sigma[bad] = np.nan
        ny, nx = info.shape
        sampled = sigma[:: max(1, ny // _SAMPLED), :: max(1, nx // _SAMPLED)]
        sky = float(np.nanmedian(sampled if np.isfinite(sampled).any() else sigma))
        digests = [self._open(each).sha256 for each in (path, *map(Path, info.partners))]
        return Frame(info, value, sigma, sky, content_of(digests))

    def _groups(self, path: Path) -> dict[str, str] | None:
        """Return the named groups of an image's file name, or None where the name is not that of images."""
        found = re.fullmatch(self.description.images.file or ".*", _stem(path))
        return None if found is None else {name: text or "" for name, text in found.groupdict().items()}

    def _partner(self, path: Path) -> Partner:
        """Return the image that a file belongs to; a weight or mask is known by its name alone."""
        stem = _stem(path)
        what = self._role(stem)
        if what is None:
            name = self.description.name
            known = any(re.fullmatch(pattern, stem) for pattern in self.description.companions)
            raise FileError(
                f"it is a file beside the images of {name} that is not read"
                if known
                else f"its headers are those of {name}, its name that of no image, weight or mask",
                reason="companion" if known else "unknown-kind",
                remedy="leave it out"
                if known
                else "give it the name that the archive gave it, or leave it out",
                path=path,
            )
        image = self._images_by_partner(path.parent).get(stem)
        if image is None:
            raise FileError(
                f"it is a {what} whose image is not beside it",
                reason="no-image",
                remedy="put the image into the same folder, or leave it out",
                path=path,
                partners=(str(path.parent),),
            )
        return Partner(str(path.parent / image))

    def _role(self, stem: str) -> str | None:
        """Tell whether a name is that of a weight or a mask."""
        for what, template in self._templates():
            pieces = FIELD.split(template)
            # Every second piece is a field.
            pattern = "".join("(.+)" if at % 2 else re.escape(piece) for at, piece in enumerate(pieces))
            if re.fullmatch(pattern, stem):
                return what
        return None

    def _templates(self) -> Iterator[tuple[str, str]]:
        for what, plane in (("weight", self.description.weight), ("mask", self.description.mask)):
            if plane is not None and plane.file is not None:
                yield what, plane.file

    def _images_by_partner(self, folder: Path) -> dict[str, str]:
        """Return for the partners of all images in a folder the name of the first image of each."""
        stamp = (folder, folder.stat().st_mtime_ns)
        if self._listed[0] != stamp:
            found: dict[str, str] = {}
            for name in sorted(os.listdir(folder)):  # noqa: PTH208 - names alone are wanted
                groups = self._groups(Path(name))
                for _, template in self._templates() if groups is not None else ():
                    found.setdefault(headerfacts.filled(template, groups or {}), name)
            self._listed = (stamp, found)
        return self._listed[1]

    def _images(self, headers: Sequence[fits.Header]) -> list[_Image]:
        """Return the images of a file; the arrays beside them in the same file are none."""
        planes = (self.description.weight, self.description.mask)
        beside = {plane.extension for plane in planes if plane is not None and plane.file is None}
        pattern = self.description.images.extension
        chosen = []
        for number, (header, whole) in enumerate(zip(headers, hdus.inherited(headers), strict=True)):
            name = hdus.name_of(header)
            if hdus.is_image(header, number) and name not in beside and re.fullmatch(pattern, name):
                chosen.append((number, name, header, whole))
        names = Counter(name for _, name, _, _ in chosen)
        keyed = []
        for number, name, header, whole in chosen:
            key = name or (str(number) if number else "")
            if names[name] > 1:
                key = f"{name},{header.get('EXTVER', 1)}" if name else str(number)
            keyed.append(_Image(number, key, header, whole))
        return keyed

    def _info(
        self, image: _Image, headers: Sequence[fits.Header], path: Path, groups: dict[str, str]
    ) -> FrameInfo:
        """Return what an image's header tells, and the files that are read with it."""
        header, own = image.header, image.own
        headerfacts.require_one_voice(self.description, header, path)
        if own.get("NAXIS") != 2:
            raise FileError(
                f"its image {image.key!r} has {own.get('NAXIS')} axes, not 2",
                reason="wrong-hdus",
                remedy="give images of two axes, or leave that HDU out of the description's images",
                path=path,
            )
        nx, ny = (fits.integer(own, key, path, 1, _MOST_SIDE) for key in ("NAXIS1", "NAXIS2"))
        band = headerfacts.band_of(self.description, header, path, groups)
        place = wcs.celestial(hdus.with_wcs(own, headers[0]), (ny, nx), path, self.description.pixel_arcsec)
        scale, unit = headerfacts.scale_of(self.description, header, band, path)
        fields = groups | {"file": _stem(path), "key": image.key, "band": band}
        partners = [
            str(self._partner_path(what, template, path, groups))
            for what, template in self._templates()
            if what == "weight" or self.description.masks(band)
        ]
        return FrameInfo(
            frame_id=f"{self.description.name}-{headerfacts.id_of(self.description, fields, header, path)}",
            survey=fits.survey(header, self.description.name),
            band=band,
            mjd=headerfacts.middle_of(self.description.time, header, path),
            shape=(ny, nx),
            wcs=place.cards,
            ra=place.ra,
            dec=place.dec,
            instrument=self.description.name,
            key=image.key,
            unit=unit,
            scale=scale,
            partners=tuple(partners),
            caution=headerfacts.caution_of(self.description, header),
        )

    def _partner_path(self, what: str, template: str, path: Path, groups: dict[str, str]) -> Path:
        """Return where the weight or mask of an image lies, compressed in whatever way."""
        stem = headerfacts.filled(template, groups)
        own = path.name[len(_stem(path)) :]
        for ending in dict.fromkeys((own, *_ENDINGS)):
            found = path.with_name(stem + ending)
            if found.is_file() and found != path:
                return found
        raise FileError(
            f"its {what} {stem}{own} is not beside it",
            reason=f"no-{what}",
            remedy="put it into the same folder, as the archive named it",
            path=path,
            partners=(str(path.parent),),
        )

    def _open(self, path: Path) -> _Opened:
        """Return a file that is still open from the record before, or open it."""
        stamp = fits.stamp(path)
        held = self._opened.get(path)
        if held is None or held.stamp != stamp:
            held = self._opened[path] = _Opened(stamp, *fits.read_on_demand(path))
        return held

    def _plane(
        self, what: str, plane: Plane, image: _Image, opened: _Opened, path: Path, groups: dict[str, str]
    ) -> NDArray[Any]:
        """Return the weight or mask of an image, of the same shape."""
        if plane.file is not None:
            path = self._partner_path(what, plane.file, path, groups)
            opened = self._open(path)
        headers = opened.headers
        name = hdus.name_of(image.own) if plane.extension is None else plane.extension
        images = [number for number, header in enumerate(headers) if hdus.is_image(header, number)]
        named = [number for number in images if hdus.name_of(headers[number]) == name]
        if len(named) > 1:
            version = image.own.get("EXTVER", 1)
            named = [number for number in named if headers[number].get("EXTVER", 1) == version]
        # Without names the place in the file tells, or that there is no other.
        if not name:
            named = [image.number] if image.number in images else images
        if len(named) != 1:
            raise FileError(
                f"it holds {len(named) or 'no'} {what} {name!r}"
                + (f" for the image {image.key!r}" if image.key else ""),
                reason=f"no-{what}",
                remedy=AGAIN,
                path=path,
            )
        (number,) = named
        shape = tuple(headers[number].get(f"NAXIS{axis}") for axis in (2, 1))
        own = tuple(image.own.get(f"NAXIS{axis}") for axis in (2, 1))
        if headers[number].get("NAXIS") != 2 or shape != own:
            raise FileError(
                f"its {what} {name!r} has {shape[1]} × {shape[0]} pixels, the image {own[1]} × {own[0]}",
                reason="wrong-shape",
                remedy=AGAIN,
                path=path,
            )
        return fits.image(opened.content, opened.hdus, number, path)


def described(name: str | Path) -> DescribedReader:
    """Return the reader of an instrument by the name of a shipped description, or a YAML file.

    Raises
    ------
    UsageError
        As `load_description`.
    """
    return DescribedReader(load_description(name))


def _stem(path: Path) -> str:
    """Return a file's name without what says FITS and compression."""
    return _ENDING.sub("", path.name)
