"""Folders of colour images, and which row of a table is about which of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from skyfuse import identifiers
from skyfuse.disk import names_file
from skyfuse.errors import DataError, FileError, shown

_IMAGES = (".jpg", ".jpeg", ".png")
_OTHER_IMAGES = (".tif", ".tiff", ".webp", ".gif", ".bmp", ".jp2", ".jfif", ".avif", ".heic")
# Of a larger one, colours and their averages would take half a gigabyte and more.
_MOST_PIXELS = 50_000_000
_AGAIN = "get the file again from its source"
_FOLDERS = r"^.*[/\\]"
# Of J0123.4+56.7 the last digit is none.
_SUFFIX = r"\.[A-Za-z][A-Za-z0-9]{1,4}$"


@dataclass(frozen=True, slots=True)
class Images:
    """Colour images of one size, loaded when asked for.

    Attributes
    ----------
    paths : tuple of Path
        Files that can be read, sorted.
    size : int
        Rows and columns of what `load` returns.
    damaged : dict of str to str
        One line for each file that cannot be read, by its path.
    """

    paths: tuple[Path, ...]
    size: int
    damaged: dict[str, str]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def table(self) -> pd.DataFrame:
        """Name without suffix, file name, and folder of each image."""
        return pd.DataFrame(
            {
                "name": [shown(path.stem) for path in self.paths],
                "file": [shown(path.name) for path in self.paths],
                "folder": [shown(path.parent.name) for path in self.paths],
            }
        )

    def load(self, rows: Iterable[int] | None = None) -> NDArray[np.float32]:
        """Return images as (n, 3, size, size), red, green, blue, 0 to 1.

        The central square of each is averaged over the area of each pixel.

        Parameters
        ----------
        rows : iterable of int, optional
            Which; all by default.
        """
        chosen = range(len(self.paths)) if rows is None else [int(row) for row in rows]
        out = np.empty((len(chosen), 3, self.size, self.size), np.float32)
        for k, row in enumerate(chosen):
            out[k] = _load(self.paths[row], self.size)
        return out

    def naming(self, table: pd.DataFrame) -> pd.Series:
        """Return the column of a table that names most of the images, without folders and suffixes.

        Raises
        ------
        DataError
            No column names any image.
        """
        names = pd.Series([shown(path.stem) for path in self.paths], dtype=object)
        best, found, rounded = 0, None, None
        for name in table.columns:
            column = table[name]
            if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 != 0).any():
                continue
            if not pd.api.types.is_numeric_dtype(column):
                column = column.astype("string").str.replace(_FOLDERS, "", regex=True)
                column = column.str.replace(_SUFFIX, "", regex=True)
            try:
                own, theirs = identifiers.codes(names, column)
            except DataError as error:
                rounded = rounded or error
                continue
            named = int(np.isin(own, theirs[theirs >= 0]).sum())
            if named > best:
                best, found = named, column
        if found is None:
            raise rounded or DataError(
                "no column of the table names any of the images",
                remedy="give a table with a column of their file names",
            )
        return found

    def rows_of(self, table: pd.DataFrame) -> NDArray[np.int64]:
        """Return the row of a table that belongs to each image, −1 where none does.

        The table's column that names most of the images, as a path, a file name or a number, tells; where it
        names one twice the first row counts.

        Raises
        ------
        DataError
            No column names any image.
        """
        own, theirs = identifiers.codes(
            pd.Series([shown(path.stem) for path in self.paths], dtype=object), self.naming(table)
        )
        first = pd.Series(np.arange(len(theirs)), index=theirs)[theirs >= 0].groupby(level=0).first()
        return first.reindex(own, fill_value=-1).to_numpy(np.int64)

    def join(self, table: pd.DataFrame, where: NDArray[np.int64] | None = None) -> pd.DataFrame:
        """Bring the rows of a table to the images that they belong to.

        Parameters
        ----------
        table : DataFrame
        where : ndarray of int64, shape (images,), optional
            Row of each image, −1 for none; by default `rows_of`.

        Returns
        -------
        DataFrame
            One row an image that the table has, in the order of the images: ``image`` (its row here),
            ``name``, ``file``, ``folder``, and the table's other columns.

        Raises
        ------
        DataError
            No column names any image.
        """
        where = self.rows_of(table) if where is None else where
        images = np.flatnonzero(where >= 0)
        rows = table.iloc[where[images]].reset_index(drop=True)
        own = self.table.iloc[images].reset_index(drop=True)
        own.insert(0, "image", images)
        return pd.concat([own, rows[[name for name in rows.columns if name not in own.columns]]], axis=1)


def read_images(source: str | Path | Sequence[str | Path], size: int) -> Images:
    """Find colour images, and check that each can be read.

    Images of other formats (TIFF, WebP, GIF, BMP …) count as damaged.

    Parameters
    ----------
    source : path or sequence of path
        A folder, searched with its sub-folders, or files. Hidden files are passed over.
    size : int
        Rows and columns to average each image to.

    Returns
    -------
    Images

    Raises
    ------
    DataError
        There is no image, or none can be read.
    """
    if isinstance(source, str | Path):
        folder = Path(source)
        if not folder.is_dir():
            raise DataError("is no folder", remedy="give the folder of the images", path=folder)
        files = [
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in (*_IMAGES, *_OTHER_IMAGES)
            and not path.name.startswith(".")
            and names_file(path)
        ]
    else:
        folder, files = None, [Path(path) for path in source]
    good, damaged = [], {}
    for path in sorted(files):
        try:
            # A coarse decoding reads all of the file and takes a fraction of the time of a full one.
            _load(path, 8, coarse=True)
            good.append(path)
        except FileError as error:
            damaged[str(path)] = str(error)
    if not good:
        first = f": {next(iter(damaged.values()))}" if damaged else ""
        raise DataError(
            f"holds no image that can be read ({len(damaged)} are damaged{first})",
            remedy=f"give a folder of {', '.join(_IMAGES)} files",
            path=folder,
        )
    return Images(tuple(good), size, damaged)


def _load(path: Path, size: int, *, coarse: bool = False) -> NDArray[np.float32]:
    """Return one image as (3, size, size), 0 to 1, the way up that its EXIF data say."""
    if path.suffix.lower() in _OTHER_IMAGES:
        raise FileError(
            f"images that end in {path.suffix} are not read",
            reason="damaged-image",
            remedy="convert it to JPEG or PNG",
            path=path,
        )
    try:
        with _opened(path) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise Image.DecompressionBombError
            if coarse:
                image.draft("RGB", (size, size))
            image.load()
            # Without need it copies the image.
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            colour, most = _colour(ImageOps.exif_transpose(image) if turned else image)
    except Image.DecompressionBombError as error:
        raise FileError(
            f"the image has more than {_MOST_PIXELS:,} pixels",
            reason="huge-image",
            remedy="cut out what is of interest, or make it smaller",
            path=path,
        ) from error
    # A damaged image makes the library raise whatever its parsers stumble over.
    except Exception as error:
        fault = " ".join(str(error).split()) or type(error).__name__
        raise FileError(
            f"the image cannot be read ({fault})", reason="damaged-image", remedy=_AGAIN, path=path
        ) from error
    width, height = colour.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    small = np.asarray(colour.resize((size, size), Image.Resampling.BOX, box=box), np.float32)
    bands = small.transpose(2, 0, 1) if small.ndim == 3 else np.stack([small] * 3)
    return bands / np.float32(most)


def _opened(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        # We have a limit of our own.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def _colour(image: Image.Image) -> tuple[Image.Image, int]:
    """Return an image as RGB or, of grey ones of 16 bits, as float, and the value of white."""
    if image.mode == "F":
        raise ValueError("its pixels are floats, of no known scale")
    if image.mode.startswith("I"):
        # Pillow would cut off what is above 255.
        return image.convert("I").convert("F"), 65535
    if image.has_transparency_data:
        # What lets the background through has no light of its own.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB"), 255
