"""Shape, light profile, arms and colours of the galaxy in the middle of an image, as one row of numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float64]

ANGLES, RINGS = 64, 24
"""Directions and radii of the polar map."""
MODES = (1, 2, 3, 4)
"""Azimuthal orders: numbers of arms that are looked for."""
_PITCH = np.arange(1.5, 8.1, 0.5)
"""Logarithmic frequencies of the spirals: arms of 7 to 53 degrees of pitch for two arms."""
_ZONES = {"inner": slice(0, 8), "middle": slice(8, 16), "outer": slice(16, 24)}
_FLATTEST = 0.2
"""Thinnest axis ratio that is stretched back to a circle; a disc seen edge-on shows no arms to unroll."""
_SKY_SIGMA = 2.0
"""A pixel belongs to an object where the smoothed image exceeds the sky by so many of its σ …"""
_LEAST_LIGHT = 0.02
"""… and by this, in units of the image's white: a display image clips its noise."""
_GRAINS = (1.0, 2.0, 4.0)
"""Standard deviations of the smoothing, pixels or steps of the polar map."""
_LEAST_SKY = 100
"""Pixels of sky that tell how its noise is correlated; where there are fewer, the whole image does."""


def morphology(images: NDArray[np.float32]) -> dict[str, FloatArray]:
    """Measure the central galaxy of each image.

    Concentration and asymmetry follow Conselice (2003, ApJS 147, 1), the Gini coefficient and M20 Lotz,
    Primack & Madau (2004, AJ 128, 163), the power in logarithmic spirals Considère & Athanassoula (1982, A&A
    111, 28); the sign of `turn` tells which way the arms wind. All lengths are in pixels, or shares of the
    half-light radius.

    Parameters
    ----------
    images : ndarray of float32, shape (n, channels, size, size)
        Brightness from 0 (black) to 1 (white); the object in the middle, `size` at least 32.

    Returns
    -------
    dict of str to ndarray of float64, shape (n,)
        One entry a feature, always the same ones in the same order; NaN for an image with an invalid pixel
        or without any light.
    """
    names = list(_measure(_example(images.shape[1])))
    table = np.full((len(images), len(names)), np.nan)
    for row, image in zip(table, images, strict=True):
        if np.isfinite(image).all() and np.ptp(image) > 0:
            row[:] = list(_measure(image.astype(np.float64)).values())
    return {name: table[:, k] for k, name in enumerate(names)}


def _example(channels: int) -> FloatArray:
    y, x = np.mgrid[:32, :32] - 15.5
    return np.repeat(np.exp(-(x**2 + y**2) / 20)[None], channels, axis=0)


def _measure(image: FloatArray) -> dict[str, float]:
    light = image.mean(axis=0)
    size = len(light)
    sky, noise = _sky(light)
    smooth = ndimage.gaussian_filter(light, 1.0)
    labels, count = ndimage.label(smooth > sky + max(_SKY_SIGMA * noise, _LEAST_LIGHT))
    object_ = _central(labels, size)
    weight = np.where(object_, np.clip(light - sky, 0, None), 0.0)
    total = weight.sum() + 1e-9

    y, x = np.mgrid[:size, :size].astype(np.float64)
    cy, cx = (weight * y).sum() / total, (weight * x).sum() / total
    axis_ratio, angle, _ = _ellipse(weight, y - cy, x - cx)
    flat_ratio, flat_angle, flat_area = _ellipse(
        object_.astype(np.float64), y - y[object_].mean(), x - x[object_].mean()
    )
    along = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
    across = (np.cos(angle) * (y - cy) - np.sin(angle) * (x - cx)) / max(axis_ratio, _FLATTEST)
    radius = np.hypot(along, across)
    r20, r50, r80, r90 = _light_radii(radius[object_], weight[object_])

    found = {
        "offset": float(np.hypot(cy - (size - 1) / 2, cx - (size - 1) / 2)),
        "axis_ratio": axis_ratio,
        "outline_ratio": flat_ratio,
        "outline_fill": float(object_.sum() / flat_area),
        "twist": float(abs(np.sin(angle - flat_angle))),
        "log_area": float(np.log(object_.sum())),
        "log_r50": float(np.log(r50)),
        "log_r90": float(np.log(r90)),
        "concentration": float(np.log(r80 / r20)),
        "outer_concentration": float(np.log(r90 / r50)),
        "peak": float(smooth[object_].max() - sky),
        "surface_brightness": float(total / object_.sum()),
        "gini": _gini(weight[object_]),
        "m20": _m20(weight[object_], ((y - cy) ** 2 + (x - cx) ** 2)[object_]),
        "roughness": float(
            np.abs(light - ndimage.gaussian_filter(light, 0.25 * r50 + 1))[object_].mean()
            / (weight[object_].mean() + 1e-6)
        ),
        "clumps": float(
            np.clip(smooth - ndimage.gaussian_filter(light, 2.5), 0, None)[
                object_ & (radius > 0.5 * r50)
            ].sum()
            / total
        ),
        "sky": sky,
        "noise": noise,
        "objects": float(count),
        "neighbours": float(np.count_nonzero(np.unique(labels[np.hypot(y - cy, x - cx) < 3 * r90]))),
        "log_saturated": float(np.log(1e-4 + (light > 0.9).mean())),
    }
    found |= _peaks(light, object_, sky)
    alone = np.where((labels > 0) & ~object_, sky, light) - sky
    shape = (angle, max(axis_ratio, _FLATTEST), max(1.3 * r90, 8.0))
    unrolled, log_radius = _unroll(alone, (cy, cx), *shape)
    found |= _arms(unrolled, log_radius)
    found |= _winding(image, (labels > 0) & ~object_, (cy, cx), shape)
    found |= _grain(light, labels > 0)
    return found | _colours(image, object_, radius, (r50, r90))


def _sky(light: FloatArray) -> tuple[float, float]:
    """Return brightness and noise of the sky, the noise that of 8 bits at least."""
    rim = _rim(light)
    sky = float(np.median(rim))
    return sky, 1.4826 * float(np.median(np.abs(rim - sky))) + 1 / 255


def _rim(plane: FloatArray) -> FloatArray:
    """Return the pixels along the edge, which show sky more often than any others."""
    width = max(1, len(plane) // 20)
    inner = np.zeros(plane.shape, dtype=bool)
    inner[width:-width, width:-width] = True
    return plane[~inner]


def _central(labels: NDArray[np.int32], size: int) -> NDArray[np.bool_]:
    """Return the pixels of the object that fills most of the middle; a disc there if there is none."""
    half = max(2, round(0.03 * size))
    middle = labels[size // 2 - half : size // 2 + half + 1, size // 2 - half : size // 2 + half + 1]
    if middle.any():
        return np.asarray(labels == np.bincount(middle[middle > 0]).argmax())
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.asarray(np.hypot(x, y) < 2 * half)


def _ellipse(weight: FloatArray, dy: FloatArray, dx: FloatArray) -> tuple[float, float, float]:
    """Return axis ratio, position angle (rad, from x to y) and area of the ellipse of the same moments."""
    total = weight.sum() + 1e-9
    yy, xx, xy = ((weight * a * b).sum() / total for a, b in ((dy, dy), (dx, dx), (dx, dy)))
    half = float(np.hypot((xx - yy) / 2, xy))
    long, short = (xx + yy) / 2 + half, max((xx + yy) / 2 - half, 1e-3)
    long = max(long, 1e-3)
    return (
        float(np.sqrt(short / long)),
        float(0.5 * np.arctan2(2 * xy, xx - yy)),
        float(4 * np.pi * np.sqrt(long * short)),
    )


def _light_radii(radius: FloatArray, weight: FloatArray) -> tuple[float, float, float, float]:
    """Return the radii that hold 20, 50, 80 and 90 % of the light, at least half a pixel."""
    order = np.argsort(radius, kind="stable")
    inside = np.cumsum(weight[order]) / (weight.sum() + 1e-9)
    places = np.minimum(np.searchsorted(inside, (0.2, 0.5, 0.8, 0.9)), len(order) - 1)
    r20, r50, r80, r90 = radius[order][places] + 0.5
    return float(r20), float(r50), float(r80), float(r90)


def _gini(light: FloatArray) -> float:
    n = len(light)
    rank = 2 * np.arange(1, n + 1) - n - 1
    return float((rank * np.sort(light)).sum() / (light.mean() * n * max(n - 1, 1) + 1e-9))


def _m20(light: FloatArray, squared_radius: FloatArray) -> float:
    # Of equally bright pixels the inner ones first: the same ones however the image lies.
    order = np.lexsort((squared_radius, -light))
    brightest = order[: np.searchsorted(np.cumsum(light[order]), 0.2 * light.sum()) + 1]
    moment = light * squared_radius
    return float(np.log10((moment[brightest].sum() + 1e-9) / (moment.sum() + 1e-9)))


def _peaks(light: FloatArray, object_: NDArray[np.bool_], sky: float) -> dict[str, float]:
    """Return how many nuclei the object has, and how bright the second is: mergers have two."""
    smooth = ndimage.gaussian_filter(light, 2.0)
    top = smooth[object_].max() - sky
    peak = object_ & (smooth == ndimage.maximum_filter(smooth, 7)) & (smooth > sky + 0.25 * top)
    # Saturated or symmetric tops are plateaus: neighbouring maxima are one nucleus.
    nuclei, count = ndimage.label(peak, np.ones((3, 3)))
    heights = np.sort(ndimage.maximum(smooth, nuclei, np.arange(1, count + 1))) - sky
    second = heights[-2] / heights[-1] if count > 1 else 0.0
    return {"nuclei": float(count), "second_nucleus": float(second)}


def _unroll(
    light: FloatArray, centre: tuple[float, float], angle: float, axis_ratio: float, reach: float
) -> tuple[FloatArray, FloatArray]:
    """Return the object seen face-on in polar coordinates, shape (rings, angles), and log radius of each."""
    log_radius = np.linspace(np.log(max(0.15 * reach, 1.5)), np.log(reach), RINGS)
    theta = 2 * np.pi * np.arange(ANGLES) / ANGLES
    along = np.exp(log_radius)[:, None] * np.cos(theta)
    across = np.exp(log_radius)[:, None] * np.sin(theta) * axis_ratio
    rows = centre[0] + np.sin(angle) * along + np.cos(angle) * across
    columns = centre[1] + np.cos(angle) * along - np.sin(angle) * across
    return ndimage.map_coordinates(light, [rows, columns], order=1, mode="nearest"), log_radius


def _arms(unrolled: FloatArray, log_radius: FloatArray) -> dict[str, float]:
    """Return the radial profile, the asymmetries, and the power in bars and spirals of either sense."""
    profile = unrolled.mean(axis=1)
    centre = max(float(profile[:3].mean()), 1e-3)
    found = {
        f"profile_{k}": float(np.log(max(float(profile[k : k + 3].mean()), 1e-3) / centre))
        for k in range(3, RINGS, 3)
    }
    mean = np.abs(unrolled).mean() + 1e-6
    for degrees, parts in ((180, 2), (90, 4)):
        turned = np.roll(unrolled, ANGLES // parts, axis=1)
        found[f"asymmetry_{degrees}"] = float(np.abs(unrolled - turned).mean() / mean)
    contrast = (unrolled - profile[:, None]) / (np.abs(profile)[:, None] + _LEAST_LIGHT)
    waves = np.fft.fft(contrast, axis=1) / ANGLES
    tapered = waves * np.hanning(RINGS)[:, None]
    kernels = np.exp(-1j * np.outer(np.concatenate([-_PITCH, _PITCH]), log_radius))
    balance, power = 0.0, 0.0
    for mode in MODES:
        for zone, rings in _ZONES.items():
            found[f"mode_{mode}_{zone}"] = float(np.abs(waves[rings, mode]).mean())
        one, other = np.split(np.abs(kernels @ tapered[:, mode]) ** 2 + 1e-12, 2)
        found[f"spiral_{mode}"] = float(0.5 * np.log(max(one.max(), other.max())))
        found[f"turn_{mode}"] = float(np.log(other.sum() / one.sum()))
        found[f"turn_peak_{mode}"] = float(0.5 * np.log(other.max() / one.max()))
        balance, power = balance + other.sum() - one.sum(), power + other.sum() + one.sum()
    found["turn"] = float(balance / power)
    return found


def _winding(
    image: FloatArray,
    others: NDArray[np.bool_],
    centre: tuple[float, float],
    shape: tuple[float, float, float],
) -> dict[str, float]:
    """Return which way arms wind, by the slant of what stands out from the mean profile, and how much does.

    The structure tensor of the unrolled light tells the direction of its edges (Bigün & Granlund 1987, ICCV,
    433): with a step in the angle as x and one in the logarithm of the radius as y, the sum of 2·gx·gy over
    that of gx² + gy² is positive where they rise one way and negative where they rise the other. Arms are
    bluer than the disc, so the first and the last channel are looked at apart, too.
    """
    found = {}
    for name, plane in (("first", image[0]), ("last", image[-1]), ("all", image.mean(axis=0))):
        sky = float(np.median(_rim(plane)))
        unrolled, _ = _unroll(np.where(others, sky, plane) - sky, centre, *shape)
        profile = np.median(unrolled, axis=1)[:, None]
        contrast = np.clip((unrolled - profile) / (np.abs(profile) + _LEAST_LIGHT), -1, 1)
        for scale in _GRAINS[:2]:
            # A ring and one and a half directions are about equally long half-way out.
            smooth = ndimage.gaussian_filter(contrast, (scale, 1.5 * scale), mode=("nearest", "wrap"))
            gx = np.roll(smooth, -1, axis=1) - np.roll(smooth, 1, axis=1)
            gy = 2 * np.gradient(smooth, axis=0)
            for zone, rings in _ZONES.items():
                size = (gx**2 + gy**2)[rings]
                ending = f"{name}_{scale:.0f}_{zone}"
                found[f"turn_{ending}"] = float((2 * gx * gy)[rings].sum() / (size.sum() + 1e-3))
                found[f"slant_{ending}"] = float(np.log(size.mean() + 1e-5))
    return found


def _grain(light: FloatArray, objects: NDArray[np.bool_]) -> dict[str, float]:
    """Return how far the noise of the sky is correlated.

    Images are often scaled to the galaxy, and the seeing is not: where the grain is coarse, the galaxy is
    small on the sky and its arms are blurred.
    """
    sky = ~ndimage.binary_dilation(objects, iterations=3)
    if np.count_nonzero(sky) < _LEAST_SKY:
        sky[:] = True
    planes = [light, *(ndimage.gaussian_filter(light, scale) for scale in _GRAINS)]
    # Variance below that of a step of 8 bits is none.
    variance = [float(np.var(plane[sky])) + 1e-9 for plane in planes]
    return {
        f"grain_{scale:.0f}": float(np.log(after / before))
        for scale, before, after in zip(_GRAINS, variance, variance[1:], strict=False)
    }


def _colours(
    image: FloatArray, object_: NDArray[np.bool_], radius: FloatArray, radii: tuple[float, float]
) -> dict[str, float]:
    """Return the ratio of each channel to the next, of the core, the outskirts and the whole."""
    r50, r90 = radii
    zones = {
        "core": object_ & (radius < 0.7 * r50),
        "outskirts": object_ & (radius > r50) & (radius < 1.2 * r90),
        "whole": object_,
    }
    sky = [np.median(_rim(plane)) for plane in image]
    found = {}
    for k in range(len(image) - 1):
        for zone, pixels in zones.items():
            one, next_ = (
                max(float(image[j][pixels].mean() - sky[j]), 2e-3) if pixels.any() else np.nan
                for j in (k, k + 1)
            )
            found[f"colour_{k}_{zone}"] = float(np.log(one / next_))
        found[f"colour_{k}_gradient"] = found[f"colour_{k}_core"] - found[f"colour_{k}_outskirts"]
        # A satellite's trail or a ghost is bright in one channel alone.
        found[f"odd_pixels_{k}"] = float(
            np.log(1e-4 + (image[k] - np.delete(image, k, axis=0).max(axis=0) > 0.3).mean())
        )
    return found
