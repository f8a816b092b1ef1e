"""Networks on galaxies unrolled in polar coordinates: a turned image is shifted, a mirrored one reversed.

In the logarithm of the radius and the angle, turning an image shifts it along the angle, and convolutions
that go round shift with it (Henriques & Vedaldi 2017, ICML, arXiv:1609.04382; Esteves et al. 2018, ICLR,
arXiv:1709.01889); what is then pooled over all angles does not depend on how the image lies. Rings follow the
galaxy's own ellipse, so that an inclined disc looks as from above: its arms are straight lines, whose slant
tells which way they wind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skyfuse.models.architectures import Shapes, branch, chain, features
from skyfuse.models.mirror import Mirror

ANGLES = 64
"""Directions: a multiple of 4 · 8, so that quarter turns are whole steps even after three poolings by 2."""
RINGS = 24
"""Radii, in equal steps of the logarithm, a multiple of 8 likewise."""
INNER, OUTER = 0.15, 4.0
"""Least and greatest radius, in standard deviations of the galaxy's light along its major axis."""
HALF = 1.6
"""Radius in the same unit from which rings are read from the image at half its size: samples stand two pixels
and more apart there, and no pixel between them is to be lost."""
FAINT = 0.02
"""Light, in units of the image's white, below which its logarithm says no more: displays clip their noise."""

ROUNDS = 8
"""Steps in which the ellipse is found."""
START, SMALLEST, LARGEST, OFF = 0.07, 0.016, 0.16, 0.06
"""Where these steps begin, the least and greatest standard deviation, and how far the centre may move, in
sides of the image."""
FLATTEST = 0.2
"""Least axis ratio: a disc seen edge-on shows no arms to unroll."""
DARK = 0.01
"""Light above the sky, in units of the image's white, that counts for the ellipse."""

PHASES = 2
"""Angles from which answers start, a step apart; their mean depends less on where poolings fall."""

ZOOM, SHIFT = 0.1, 0.1
"""In training, largest change of the logarithm of the scale, and largest shift of the centre in the unit of
`INNER`: the ellipse is known no better."""


def ellipses(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return centre and second moments of the light in the middle of images, weighted by their own Gaussian.

    Such moments repeat until the Gaussian is that of the light (Bernstein & Jarvis 2002, AJ 123, 583, section
    3.1): neighbours count little. They turn as the image turns.

    Parameters
    ----------
    images : Tensor, shape (n, channels, size, size)
        Brightness from 0 (black) to 1 (white).

    Returns
    -------
    centre : Tensor, shape (n, 2)
        Column and row, in pixels from the image's middle.
    moments : Tensor, shape (n, 2, 2)
        In square pixels, kept within `SMALLEST`, `LARGEST` and `FLATTEST`.
    """
    side = images.shape[-1]
    edge = side // 4
    light = images.mean(dim=1)[:, edge : side - edge, edge : side - edge]
    step = next((k for k in (4, 3, 2) if light.shape[-1] % k == 0 and light.shape[-1] >= 32 * k), 1)
    light = nn.functional.avg_pool2d(light, step)
    rim = torch.cat([light[:, 0], light[:, -1], light[:, :, 0], light[:, :, -1]], dim=1)
    light = (light - rim.median(dim=1).values[:, None, None] - DARK).clamp(min=0)
    place = (torch.arange(light.shape[-1], device=images.device) - (light.shape[-1] - 1) / 2) * step
    row, column = torch.meshgrid(place, place, indexing="ij")
    centre = torch.zeros(len(images), 2, device=images.device)
    unit = torch.eye(2, device=images.device)
    moments = (START * side) ** 2 * unit.expand(len(images), 2, 2)
    for _ in range(ROUNDS):
        x, y = column - centre[:, 0, None, None], row - centre[:, 1, None, None]
        xx, xy, yy = (moments[:, i, j, None, None] for i, j in ((0, 0), (0, 1), (1, 1)))
        weight = light * (-(yy * x * x - 2 * xy * x * y + xx * y * y) / (2 * (xx * yy - xy * xy))).exp()
        total = weight.sum(dim=(1, 2)) + 1e-6
        mean = [(weight * part).sum(dim=(1, 2)) / total for part in (x, y, x * x, x * y, y * y)]
        # The product of two equal Gaussians has half their variance.
        centre = (centre + 2 * torch.stack(mean[:2], dim=1)).clamp(-OFF * side, OFF * side)
        moments = _limited(2 * torch.stack([*mean[2:4], *mean[3:]], dim=1).reshape(-1, 2, 2), side)
    return centre, moments


def _axes(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return half the sum and half the difference of the squared axes."""
    xx, xy, yy = moments[:, 0, 0], moments[:, 0, 1], moments[:, 1, 1]
    return (xx + yy) / 2, (((xx - yy) / 2).square() + xy.square() + 1e-12).sqrt()


def _limited(moments: Tensor, side: int) -> Tensor:
    """Return moments of axes within the limits, in the same directions."""
    mean, spread = _axes(moments)
    long = (mean + spread).clamp((SMALLEST * side) ** 2, (LARGEST * side) ** 2)
    short = torch.minimum(torch.maximum(mean - spread, FLATTEST**2 * long), long)
    unit = torch.eye(2, device=moments.device)
    stretched = (moments - mean[:, None, None] * unit) * ((long - short) / (2 * spread))[:, None, None]
    return stretched + ((long + short) / 2)[:, None, None] * unit


def _root(moments: Tensor) -> Tensor:
    """Return the symmetric square roots of positive matrices of two rows (Cayley-Hamilton)."""
    root = (moments[:, 0, 0] * moments[:, 1, 1] - moments[:, 0, 1].square()).clamp(min=1e-12).sqrt()
    trace = (moments[:, 0, 0] + moments[:, 1, 1] + 2 * root).sqrt()
    unit = torch.eye(2, device=moments.device)
    return (moments + root[:, None, None] * unit) / trace[:, None, None]


class Unrolled(nn.Module):
    """Images along ellipses around their middle, as the logarithm of their light.

    Of each channel stands first that logarithm, then what it has beyond the mean of its ring: arms are faint
    beside the fall of the light from the centre outwards.
    """

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps (n, 2 · channels, rings, angles), and size and axis ratio of each galaxy, (n, 2).

        In training each begins at an angle of its own, and with another scale and centre than the ellipse's.
        """
        n, side, device = len(images), images.shape[-1], images.device
        centre, moments = ellipses(images)
        angle = (torch.arange(ANGLES, device=device) * (2 * math.pi / ANGLES)).expand(n, -1)
        radius = torch.linspace(math.log(INNER), math.log(OUTER), RINGS, device=device).exp()
        # Of an odd side no half is as symmetric as the whole.
        near = int((radius < HALF).sum()) if side % 2 == 0 else RINGS
        radius, shift = radius.expand(n, -1), torch.zeros(n, 2, device=device)
        if self.training:
            one, other, *both = torch.rand(4, n, 1, device=device) * 2 - 1
            angle, radius = angle + math.pi * one, radius * (ZOOM * other).exp()
            shift = SHIFT * torch.cat(both, dim=1)
        place = radius[:, :, None, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)[:, None]
        place = (place + shift[:, None, None]) @ _root(moments)[:, None] + centre[:, None, None]
        place = place * (2 / side)
        rings = [_sampled(images, place[:, :near])]
        if near < RINGS:
            rings.append(_sampled(nn.functional.avg_pool2d(images, 2), place[:, near:]))
        light = torch.cat(rings, dim=2).clamp(min=0).add(FAINT).log()
        # Both about of mean 0 and standard deviation 1.
        maps = torch.cat([light + 2.2, 2 * (light - light.mean(dim=-1, keepdim=True))], dim=1)
        mean, spread = _axes(moments)
        size = (mean + spread).sqrt() / (START * side)
        ratio = ((mean - spread) / (mean + spread)).clamp(min=0).sqrt()
        return maps, torch.stack([size.log() / 0.3, (ratio - 0.6) / 0.2], dim=1)


def _sampled(images: Tensor, place: Tensor) -> Tensor:
    return nn.functional.grid_sample(images, place, padding_mode="border", align_corners=False)


class _Round(nn.Module):
    """Convolution that goes round along the angle."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.reach = kernel // 2
        self.convolution = nn.Conv2d(channels, out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        # Padding by the edge, but as a concatenation, whose gradient is deterministic on CUDA too.
        first, last = (x[..., k : k + 1 or None, :].expand(-1, -1, self.reach, -1) for k in (0, -1))
        x = torch.cat([first, x, last], dim=-2)
        out: Tensor = self.convolution(torch.cat([x[..., -self.reach :], x, x[..., : self.reach]], dim=-1))
        return out


class PolarNetwork(nn.Module):
    """Convolutions of an unrolled image, each pooled by 2, whose classes swap where the image is mirrored.

    Over all angles the mean and the maximum are taken; two dense layers read these of each ring. Let h be
    what they say, and h* what they say of the image unrolled the other way round. Class k has the logit
    (h_k + h*_k') / 2, where k' is the class that k becomes in a mirror; in training one of the two, by
    chance. A table beside the image goes to the dense layers as it is, and changes signs for h*; spectra have
    branches of their own, which no mirror changes.

    Parameters
    ----------
    shapes : dict of str to tuple
        Of the image, and of what stands beside it.
    mirror : Mirror
        Of the outputs and the columns of the table.
    channels : sequence of int
        Filters of each convolution.
    units : int
        Of the hidden dense layer.
    dropout : float
        Before each dense layer.
    """

    def __init__(
        self, shapes: Shapes, mirror: Mirror, channels: Sequence[int], units: int, dropout: float
    ) -> None:
        super().__init__()
        self.unrolled = Unrolled()
        layers: list[nn.Module] = []
        read, rings = 2 * shapes["image"][0], RINGS
        for i, out in enumerate(channels):
            layers += [_Round(read, out, 3 if i else 5), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
            read, rings = out, rings // 2
        self.trunk = nn.Sequential(*layers)
        spectra = {slot: shape for slot, shape in shapes.items() if slot not in ("image", "table")}
        self.spectra = nn.ModuleDict({slot: branch(slot, shape, dropout) for slot, shape in spectra.items()})
        self.signs = mirror.signs(shapes["table"][0]).tolist() if "table" in shapes else []
        width = 2 * read * rings + 2 + len(self.signs)
        width += sum(features(slot, self.spectra[slot], shape) for slot, shape in spectra.items())
        self.head = chain(
            width, [nn.Dropout(dropout), units, nn.ReLU(), nn.Dropout(dropout), len(mirror.becomes)]
        )
        self.becomes = list(mirror.becomes)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Return (n, outputs)."""
        maps, shape = self.unrolled(x["image"])
        beside = torch.cat([shape, *(layers(x[slot]) for slot, layers in self.spectra.items())], dim=1)
        other = beside
        if self.signs:
            table = x["table"]
            other = torch.cat([beside, table * table.new_tensor(self.signs)], dim=1)
            beside = torch.cat([beside, table], dim=1)
        # From the first angle on backwards: what the mirrored image shows, from another quarter.
        back = maps.flip(-1).roll(1, dims=-1)
        if self.training:
            chosen = torch.rand(len(maps), 1, device=maps.device) < 0.5
            seen = torch.where(chosen[:, :, None, None], back, maps)
            out = self._said(seen, torch.where(chosen, other, beside))
            return torch.where(chosen, out[:, self.becomes], out)
        said = [
            self._said(maps.roll(step, dims=-1), beside)
            + self._said(back.roll(step, dims=-1), other)[:, self.becomes]
            for step in range(PHASES)
        ]
        return torch.stack(said).mean(dim=0) / 2

    def _said(self, maps: Tensor, beside: Tensor) -> Tensor:
        found = self.trunk(maps)
        found = torch.cat([found.mean(dim=-1), found.amax(dim=-1)], dim=1).flatten(1)
        out: Tensor = self.head(torch.cat([found, beside], dim=1))
        return out
