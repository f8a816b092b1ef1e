"""A small regression task for the tests: blobs and lines whose brightness follows the label."""

import numpy as np

CLASSES = ("faint", "middling", "bright", "never seen")


def brightness(y):
    return np.digitize(y, [2, 4])


def make(n, *, size=8, bands=5, bins=40, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(3, 2, size=n)
    gain = np.exp(0.2 * y)[:, None]
    yy, xx = np.mgrid[:size, :size] - (size - 1) / 2
    blob = np.exp(-(xx**2 + yy**2) / (2 * (size / 6) ** 2))
    image = gain[:, :, None, None] * blob * np.arange(1, bands + 1)[:, None, None]
    spectrum = gain * np.exp(-((np.arange(bins) - bins / 2) ** 2) / 8)
    image = (image + 0.5 * rng.normal(size=image.shape)).astype(np.float32)
    spectrum = (spectrum + 0.2 * rng.normal(size=spectrum.shape)).astype(np.float32)
    image[::7, :, :2] = np.nan
    spectrum[::5, 3:6] = np.nan
    return {"image": image, "spectrum": spectrum}, y


def add_table(x):
    """Add a table of three columns: two brightnesses and one that is never known."""
    image, spectrum = (np.nanmean(a.reshape(len(a), -1), axis=1) for a in (x["image"], x["spectrum"]))
    return {**x, "table": np.stack([image, spectrum, np.full(len(image), np.nan)], axis=1).astype("f4")}


def only(x, *modalities):
    return {modality: x[modality] for modality in modalities}


def r2(value, y):
    return 1 - np.mean((value - y) ** 2) / np.var(y)
