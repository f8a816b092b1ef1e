"""What is asked of a dataset, whatever it is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from skyfuse.dataset import split as splitting
from skyfuse.errors import UsageError
from skyfuse.words import DERIVED, MODALITIES, Modality, Sampled


@dataclass(frozen=True)
class Input:
    """An input of a dataset.

    Attributes
    ----------
    kind : str
        ``image``, ``spectrum`` or ``table``.
    instrument : str, optional
        Of which a cube's arrays are; by default the only one with such data.
    """

    kind: Modality
    instrument: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What is asked of a dataset: inputs, label, rows, columns and split.

    Attributes
    ----------
    inputs : mapping of str to Input, or sequence of str, optional
        Inputs by name, e.g. ``{"optical": Input("image", "sdss"), "infrared": Input("image", "unwise")}``; an
        object must have each of them, and columns of the table are always there. A sequence names inputs by
        their kind: ``("image", "spectrum")``. By default those of `zooms`, or all that a cube holds.
    zooms : mapping of str to sequence of int, optional
        Zooms to keep by input, e.g. ``{"image": (2, 3), "spectrum": (3,)}``; by default all that a cube
        holds, and none of other sources, whose zooms are means of blocks of 2^k.
    label : str, optional
        Column of the label, or ``log10(column)`` of one in a table of labels; ``AVG`` by default where such a
        table is given for a cube. With neither, the dataset has no label and no split, for prediction.
    label_unit, label_definition : str
        For the record.
    classes : mapping of str to sequence of str, optional
        The classes of the label, each with regular expressions of which one must match the whole text that
        the catalogue writes (empty where it writes none). The first class that matches stands in the column
        then; rows of no class are dropped and counted.
    where : mapping of str to sequence, optional
        Rows to keep: for a column regular expressions of its text, or its least and greatest number (None: no
        bound). Each is a step of the funnel.
    columns : sequence of str
        Columns of the table that `Dataset.inputs` gives by default: names, differences ``a-b``, logarithms
        ``log10(a)``, shell patterns.
    derive : sequence of str
        ``ew``: equivalent widths of fourteen lines at the redshift of the table; ``indices``: spectral
        indices in the observed frame; ``morphology``: profile and moments of the image. They become columns
        of the table (``ew_*``, ``idx_*``, ``morph_*``).
    measured : mapping of str to str
        Of cubes: the instrument on whose images, or spectra, columns are derived where no input is of that
        kind; by default the only one.
    split : SplitPlan or None
        How the objects are divided; None makes no split.
    every_spectrum : bool
        Of cubes: one row for each spectrum instead of one for each object with its best spectrum;
        ``object_id`` is the spectrum's id then, ``object`` the object's, and epochs of one object share a
        group.
    flag_zero : bool
        Of cubes: keep only good labels. ``FLAG`` is 0 in the label table if it has that column, ``zwarning``
        is 0 in the headers of the spectra.
    complete_spectra, single_objects : bool
        Of cubes: drop spectra with an invalid bin, and cutouts with several bright regions, as the original
        study did. Where they are off, the funnel tells how many objects they would leave.
    grid : str or mapping of str to str, optional
        Wavelength grid of the cube that is built from files, of all spectra or by instrument.
    sigma : str, optional
        Where σ of spectra comes from in the cube that is built from files, see `skyfuse.cube.build.Reading`.
    image_size : int, optional
        Rows and columns of colour images at zoom 0. JPEG states no uncertainty: their σ is NaN, their
        coverage 1.
    """

    inputs: Mapping[str, Input] | Sequence[str] | None = None
    zooms: Mapping[str, Sequence[int]] | None = None
    label: str | None = None
    label_unit: str = ""
    label_definition: str = ""
    classes: Mapping[str, Sequence[str]] | None = None
    where: Mapping[str, Sequence[str | float | None]] | None = None
    columns: Sequence[str] = ()
    derive: Sequence[str] = ()
    measured: Mapping[Sampled, str] = field(default_factory=dict)
    split: splitting.SplitPlan | None = splitting.DEFAULT
    every_spectrum: bool = False
    flag_zero: bool = True
    complete_spectra: bool = False
    single_objects: bool = False
    grid: str | Mapping[str, str] | None = None
    sigma: str | None = None
    image_size: int | None = None

    def named(self, default: Sequence[str] = ()) -> dict[str, Input]:
        """Return the inputs by name.

        Parameters
        ----------
        default : sequence of str
            Kinds of the inputs where none are named.

        Raises
        ------
        UsageError
            If an input is of no kind, or zooms are asked of none of the inputs.
        """
        given = self.inputs
        if given is None:
            given = tuple(self.zooms or ()) or tuple(default)
        inputs = given if isinstance(given, Mapping) else {name: Input(name) for name in given}  # type: ignore[arg-type]  # checked below
        unknown = sorted({one.kind for one in inputs.values()} - {*MODALITIES})
        if unknown:
            raise UsageError(
                f"{', '.join(unknown)} is no modality", remedy=f"choose of {', '.join(MODALITIES)}"
            )
        strange = sorted(set(self.zooms or ()) - set(inputs))
        if strange:
            raise UsageError(
                f"zooms are given of {', '.join(strange)}, which is no input",
                remedy=f"choose of {', '.join(inputs)}",
            )
        return dict(inputs)

    @property
    def strict(self) -> dict[str, bool]:
        """Whether each step of the original study applies, by the column that it looks at."""
        return {"nan_fraction": self.complete_spectra, "n_components": self.single_objects}

    def check(self) -> None:
        """Raise UsageError if no data could give it."""
        unknown = sorted(set(self.derive) - set(DERIVED))
        if unknown:
            raise UsageError(
                f"{', '.join(unknown)} cannot be derived",
                remedy=f"choose of {', '.join(DERIVED)}",
            )
        if self.split is not None:
            self.split.check()

    def request(self) -> dict[str, Any]:
        """Return what decides rows and columns as plain values for JSON."""
        return {
            "label": self.label,
            "classes": {name: list(patterns) for name, patterns in (self.classes or {}).items()},
            "where": {name: list(values) for name, values in (self.where or {}).items()},
            "columns": list(self.columns),
            "derive": list(self.derive),
            "split": None if self.split is None else asdict(self.split),
        }
