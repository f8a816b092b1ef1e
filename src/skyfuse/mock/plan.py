"""What a mock sky is asked to hold, checked, and the folder that it claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from skyfuse.disk import dumps, read_json
from skyfuse.errors import StoreError, UsageError
from skyfuse.mock import classes, truth
from skyfuse.mock.files import write_once
from skyfuse.mock.sky import DEEP, DEEPEST, Sky, draw_sky
from skyfuse.words import PRODUCTS, Product

VERSION = 2
DEFAULT_PRODUCTS: tuple[Product, ...] = ("frames", "spectra", "sfr")
IMAGED: tuple[Product, ...] = ("frames", "infrared")
"""Products that are images of fields; with these, fainter sources than the objects are drawn too."""


class Asked(TypedDict, total=False):
    """What `plan_of` takes, as the caller names it; see `Plan`."""

    fields: int
    objects: int
    seed: int
    products: Sequence[str]
    z_max: float
    shares: Sequence[float]
    templates: Path | None
    expected: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a mock sky holds.

    Attributes
    ----------
    fields, objects : int
        Fields of the imaging survey, and objects.
    seed : int
        Not negative.
    products : tuple of str
        What is written, in the order of `skyfuse.words.PRODUCTS`.
    z_max : float
        Largest redshift of galaxies.
    shares : tuple of three floats
        Shares of galaxies, quasars and stars among the objects.
    templates : path or None
        Folder of SDSS pipeline eigentemplates.
    expected : bool
        Noise-free expectations are written too.
    """

    fields: int
    objects: int
    seed: int
    products: tuple[str, ...]
    z_max: float
    shares: tuple[float, float, float]
    templates: Path | None
    expected: bool

    @property
    def of_sky(self) -> bool:
        """Anything of the sky is asked for, not scenes alone."""
        return self.products != ("scene",)

    def number(self, many: int, *products: str) -> int:
        """Return `many` where one of some products is asked for, and none otherwise."""
        return many if set(products) & set(self.products) else 0

    def draw(self) -> Sky:
        """Draw the sky; every class of galaxy and star where more than the default products is asked for."""
        return draw_sky(
            self.seed,
            self.fields,
            self.objects if self.of_sky else 0,
            z_max=self.z_max,
            shares=self.shares,
            untargeted=bool(self.number(1, *IMAGED)),
            dress=None if self.products == DEFAULT_PRODUCTS else partial(classes.dress, self.seed),
        )

    def claim(self, out: Path, templates: str | None) -> None:
        """Mark a folder as that of this mock, or refuse it.

        Parameters
        ----------
        out : path
        templates : str or None
            Name of the templates' set.

        Raises
        ------
        UsageError
            The folder holds something else, or another mock.
        """
        parameters: dict[str, Any] = {
            "seed": self.seed,
            "fields": self.fields,
            "objects": self.objects,
            "products": list(self.products),
            "z_max": self.z_max,
            "shares": list(self.shares),
            "expected": self.expected,
            "templates": templates,
        }
        marker = out / "truth.json"
        if marker.exists():
            found = _held(marker)
            if found != parameters:
                raise UsageError(
                    f"this folder holds a mock made otherwise ({found})",
                    remedy="give another folder, or delete this one",
                    path=out,
                )
            return
        if out.is_dir() and any(out.iterdir()):
            raise UsageError(
                "the folder is not empty and holds no mock", remedy="give an empty or a new folder", path=out
            )
        text = {"version": VERSION, "parameters": parameters, "columns": truth.columns(self.products)}
        write_once(marker, lambda: dumps(text).encode())


def _held(marker: Path) -> Any:
    """Return the parameters of the mock that holds a folder, None where that is unknown."""
    try:
        held = read_json(marker)
        return held["parameters"] if held["version"] == VERSION else None
    except (StoreError, KeyError):
        return None


def plan_of(asked: Asked) -> Plan:
    """Check what is asked for.

    Raises
    ------
    UsageError
        An argument is out of range, or a product is unknown.
    TypeError
        There is no argument of a name.
    """
    if unknown := set(asked) - Asked.__annotations__.keys():
        raise TypeError(
            f"a mock sky has no {', '.join(sorted(unknown))}, only {', '.join(Asked.__annotations__)}"
        )
    counts: dict[str, int] = {}
    for name, value, least in (
        ("fields", asked.get("fields", 2), 1),
        ("objects", asked.get("objects", 1500), 1),
        ("seed", asked.get("seed", 7), 0),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise UsageError(f"{name} is {value!r}", remedy=f"give a whole number of at least {least}")
        counts[name] = int(value)
    products = _checked_products(asked.get("products", DEFAULT_PRODUCTS))
    z_max = asked.get("z_max", DEEP)
    if not 0.02 < z_max <= DEEPEST:
        raise UsageError(f"z_max is {z_max!r}", remedy=f"give a redshift above 0.02, and at most {DEEPEST}")
    shares = asked.get("shares", (0.78, 0.11, 0.11))
    mix = tuple(float(share) for share in shares)
    if len(mix) != 3 or min(mix) < 0 or abs(sum(mix) - 1) > 1e-9:
        raise UsageError(
            f"shares are {list(shares)}", remedy="give those of galaxies, quasars and stars, which sum to 1"
        )
    templates = asked.get("templates")
    return Plan(
        **counts,
        products=products,
        z_max=float(z_max),
        shares=(mix[0], mix[1], mix[2]),
        templates=None if templates is None else Path(templates),
        expected=asked.get("expected", False),
    )


def _checked_products(products: Sequence[str]) -> tuple[str, ...]:
    """Return the products asked for, in their own order."""
    asked = [products] if isinstance(products, str) else list(products)
    unknown = [name for name in asked if name not in PRODUCTS]
    if unknown or not asked:
        raise UsageError(
            f"products are {asked}", remedy=f"give one or more of {', '.join(PRODUCTS)}, and nothing else"
        )
    return tuple(name for name in PRODUCTS if name in asked)
