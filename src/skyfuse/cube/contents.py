"""What a cube's cube.json tells of each instrument, and whether it tells all that reading relies on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skyfuse.cube.grid import SpectralGrid, grid_named
from skyfuse.cube.staging import INDEXES
from skyfuse.errors import UsageError
from skyfuse.survey.noise import FORMAL, MODEL


@dataclass(frozen=True, slots=True)
class CubeImaging:
    """The images of one instrument in a cube.

    Attributes
    ----------
    instrument : str
    bands : tuple of str
        In the order of the arrays.
    size : int
        Native pixels along each axis of the objects' images.
    zooms : int
        Number of zooms, 0 being native.
    unit : str
        Of value and sigma.
    pixel_arcsec : float
        Nominal width of a native pixel.
    """

    instrument: str
    bands: tuple[str, ...]
    size: int
    zooms: int
    unit: str
    pixel_arcsec: float

    def chosen(self, bands: str | Sequence[str] | None) -> tuple[str, ...]:
        """Return bands by their names: all of them, one name after the other, or as ``w1,w2`` or ``ugriz``.

        Raises
        ------
        UsageError
            If one of them is none of the instrument's, or is named twice.
        """
        if bands is None:
            return self.bands
        given = bands if not isinstance(bands, str) else bands.split(",") if "," in bands else [bands]
        names = [name.strip() if isinstance(name, str) else "" for name in given]
        if len(names) == 1 and names[0] not in self.bands:
            names = [*names[0]]
        if not names or not set(names) <= {*self.bands} or len(set(names)) < len(names):
            raise UsageError(
                f"'{bands}' are no bands of {self.instrument}",
                remedy=f"choose among {', '.join(self.bands)}, each once",
            )
        return tuple(names)


@dataclass(frozen=True, slots=True)
class CubeSpectroscopy:
    """The spectra of one instrument in a cube.

    Attributes
    ----------
    instrument : str
    grid : SpectralGrid
        Their wavelengths.
    zooms : int
        Number of zooms, 0 being the finest.
    unit : str
        Of flux and sigma.
    sigma : str
        ``formal`` where a noise model of the instrument was left aside, else ``model``.
    """

    instrument: str
    grid: SpectralGrid
    zooms: int
    unit: str
    sigma: str


AS_ASKED = "as asked"
"""Why σ of spectra is formal in a cube though a noise model of their instrument is known."""


def sigma_of(told: dict[str, Any]) -> str:
    """Return which σ of spectra was asked for, by what cube.json tells; where it tells nothing, formal."""
    return FORMAL if told.get("sigma", {"formal": AS_ASKED}) == {"formal": AS_ASKED} else MODEL


def is_sound(meta: dict[str, Any]) -> bool:
    """Tell whether a cube.json holds all that reading relies on."""
    instruments, counts = meta.get("instruments"), meta.get("counts")
    return (
        isinstance(instruments, dict)
        and all(isinstance(told, dict) and _is_told(told) for told in instruments.values())
        and isinstance(counts, dict)
        and all(_is_count(counts.get(name), 0) for name in INDEXES)
    )


def _is_told(told: dict[str, Any]) -> bool:
    """Tell whether what cube.json says of an instrument is whole."""
    image, spectrum = told.get("image", {}), told.get("spectrum", {})
    if not isinstance(image, dict) or not isinstance(spectrum, dict):
        return False
    texts = [part.get("unit") for part in (image, spectrum) if part]
    counts = [part.get("zooms") for part in (image, spectrum) if part]
    if image:
        bands = image.get("bands")
        counts.append(image.get("size"))
        texts += bands if isinstance(bands, list) and bands else [None]
    if spectrum:
        try:
            sizes = grid_named(str(spectrum.get("grid"))).sizes
        except UsageError:
            return False
        if spectrum.get("sizes") != [*sizes] or spectrum.get("zooms") != len(sizes):
            return False
    return all(isinstance(text, str) for text in texts) and all(_is_count(count, 1) for count in counts)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
