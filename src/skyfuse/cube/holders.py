"""Which frames of a cube hold a position, and from which of them an image around it is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyfuse.cube.cutout import place
from skyfuse.sphere import chord, unit_vectors


class Best:
    """Of one band, for each position, the frame to cut from.

    Attributes
    ----------
    frame : ndarray of int64, shape (n,)
        Its row; -1 for none.
    inside : ndarray of bool, shape (n,)
        The cutout lies wholly on it.
    x0, y0 : ndarray of int64, shape (n,)
        First column and row of the cutout.
    """

    def __init__(self, count: int) -> None:
        self.frame = np.full(count, -1, np.int64)
        self.inside = np.zeros(count, bool)
        self.x0 = np.zeros(count, np.int64)
        self.y0 = np.zeros(count, np.int64)


class Holders:
    """The frames of a cube as places on the sky.

    Parameters
    ----------
    frames : DataFrame
        The index of frames, columns as in `skyfuse.cube.catalogue.schema_of`.
    """

    def __init__(self, frames: pd.DataFrame) -> None:
        self._frames = frames
        self._centres = unit_vectors(frames["ra"].to_numpy(), frames["dec"].to_numpy())
        self._tree = cKDTree(self._centres)
        self._radius = frames["radius"].to_numpy()

    def best(
        self,
        ra: NDArray[np.float64],
        dec: NDArray[np.float64],
        size: int,
        bands: Sequence[str],
        usable: NDArray[np.bool_],
    ) -> dict[str, Best]:
        """Choose, for each band and position, the frame to cut from.

        Whole cutouts, then the darkest sky, then the name: the choice never depends on the order.

        Parameters
        ----------
        ra, dec : ndarray, shape (n,)
            Degrees.
        size : int
            Native pixels along each axis of the cutouts.
        bands : sequence of str
        usable : ndarray of bool
            Which frames come into question; of these bands alone.
        """
        best = {band: Best(len(ra)) for band in bands}
        names = ("band", "frame_id", "sky_sigma")
        band_of, frame_ids, sky = (self._frames[name].to_numpy() for name in names)
        for frame, rows, inside, x0, y0 in self.of(ra, dec, size, usable):
            chosen = best[band_of[frame]]
            old = chosen.frame[rows]
            old_sky = np.where(old >= 0, sky[old], np.inf)
            first = frame_ids[frame] < frame_ids[old]
            same = inside == chosen.inside[rows]
            darker = (sky[frame] < old_sky) | ((sky[frame] == old_sky) & first)
            better = (old < 0) | (inside & ~chosen.inside[rows]) | (same & darker)
            won = rows[better]
            chosen.frame[won] = frame
            chosen.inside[won] = inside[better]
            chosen.x0[won] = x0[better]
            chosen.y0[won] = y0[better]
        return best

    def of(
        self,
        ra: NDArray[np.float64],
        dec: NDArray[np.float64],
        size: int,
        usable: NDArray[np.bool_],
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]]:
        """Yield each frame that holds some of the positions, which, and where: one WCS call a frame.

        See `best` for the parameters; yielded are the frame's row, those of the positions, and what
        `skyfuse.cube.cutout.place` returns for them.
        """
        frames = self._frames
        if len(frames) == 0 or len(ra) == 0:
            return
        vectors = unit_vectors(ra, dec)
        finite = np.asarray(np.isfinite(vectors).all(axis=1), bool)
        places = cKDTree(np.where(finite.reshape(-1, 1), vectors, 2.0))
        reach = chord(self._radius + 1 / 3600)
        # From the smaller side: few positions ask the tree of frames which to look at.
        if len(ra) < len(frames):
            near = self._tree.query_ball_point(vectors[finite], float(reach.max()))
            usable = usable & np.isin(
                np.arange(len(frames)), np.unique(np.concatenate([[], *near])).astype(np.int64)
            )
        shapes = frames[["ny", "nx"]].to_numpy()
        cards = frames["wcs"].to_numpy()
        for frame in np.flatnonzero(usable):
            rows = np.array(sorted(places.query_ball_point(self._centres[frame], reach[frame])), np.int64)
            if len(rows) == 0:
                continue
            shape = (int(shapes[frame, 0]), int(shapes[frame, 1]))
            on, inside, x0, y0 = place(cards[frame], shape, ra[rows], dec[rows], size)
            if on.any():
                yield int(frame), rows[on], inside[on], x0[on], y0[on]

    def whereabouts(self, usable: NDArray[np.bool_]) -> str:
        """Say where the frames lie that images may be cut from."""
        frames = self._frames[usable]
        if len(frames) == 0:
            return "this cube holds none"
        ra, dec = frames["ra"].to_numpy(), frames["dec"].to_numpy()
        middle = np.degrees(np.angle(np.mean(np.exp(1j * np.radians(ra))))) % 360
        offset = (ra - middle + 180) % 360 - 180
        reach = frames["radius"].max()
        return (
            f"its {len(frames)} frames lie between RA {(middle + offset.min() - reach) % 360:.3f} and "
            f"{(middle + offset.max() + reach) % 360:.3f}, "
            f"Dec {dec.min() - reach:+.3f} and {dec.max() + reach:+.3f}"
        )
