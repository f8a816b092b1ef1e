"""Architectures of the networks: plain PyTorch modules, built from the shapes of their inputs.

Each function returns a network that takes a dict of tensors by modality, scaled and without NaN, and returns
(n, outputs): one value for a regression, the logits of the classes for a classification.

A network has one branch for each modality that it is given, and its head joins what they say. Modalities that
its authors did not have come through the branches of this module: `table_branch`, `spectrum_branch`,
`image_branch`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skyfuse.errors import DataError
from skyfuse.models.inputs import kind_of, of_kind

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of one object in each input, by what it is called inside a model (`skyfuse.models.inputs`)."""


class Joined(nn.Module):
    """Branches that each turn one modality into a vector, and a head that reads the vectors side by side.

    Parameters
    ----------
    branches : dict of str to Module
        Takes (n, *shape) and returns (n, features).
    head : Sequential
        Takes (n, sum of features) and returns (n, outputs).
    """

    def __init__(self, branches: Mapping[str, nn.Module], head: nn.Sequential) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)
        self.head = head

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Return (n, outputs)."""
        features = [layers(x[modality]) for modality, layers in self.branches.items()]
        out: Tensor = self.head(features[0] if len(features) == 1 else torch.cat(features, dim=1))
        return out


class Committee(nn.Module):
    """Networks of one kind that answer together: with the mean of their outputs.

    Of the logits of classes, the mean stands for the geometric mean of the probabilities.

    Parameters
    ----------
    members : sequence of Module
        Each takes the same inputs and returns (n, outputs).
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Return (n, outputs)."""
        return torch.stack([member(x) for member in self.members]).mean(dim=0)


class Oriented(nn.Module):
    """A network that answers with its mean over the orientations of an image that move no pixel off the grid.

    In training it sees one orientation of each image at a time, and errs on each in its own way; the mean
    does not depend on how the image lies (Dieleman, Willett & Dambre 2015, MNRAS 450, 1441, averaged over
    turned images of Galaxy Zoo likewise).

    Parameters
    ----------
    network : Module
        Takes images among its inputs and returns (n, outputs).
    mirror : bool
        Take all eight symmetries of the square, not its four quarter turns alone.
    """

    def __init__(self, network: nn.Module, *, mirror: bool) -> None:
        super().__init__()
        self.network = network
        self.mirror = mirror

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Return (n, outputs)."""
        if self.training:
            out: Tensor = self.network(x)
            return out
        images = {slot: x[slot] for slot in of_kind("image", x)}
        views = [{s: image.rot90(q, (-2, -1)) for s, image in images.items()} for q in range(4)]
        if self.mirror:
            views += [{slot: image.flip(-1) for slot, image in view.items()} for view in views]
        return torch.stack([self.network({**x, **view}) for view in views]).mean(dim=0)


def parameter_count(network: nn.Module, *, statistics: bool = True) -> int:
    """Count the numbers that a network holds.

    Parameters
    ----------
    network : torch.nn.Module
    statistics : bool, default True
        Count the running means and variances of batch normalisation, as Keras does in its totals.
    """
    count = sum(parameter.numel() for parameter in network.parameters())
    if statistics:
        count += sum(
            buffer.numel()
            for name, buffer in network.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        )
    return count


# --------------------------------------------------------------------------------------- parts


def initialise(network: nn.Module) -> None:
    """Draw the weights of convolutions as He et al. (2015, ICCV, eq. 10) derived for rectified layers.

    They let a stack of nine convolutions train from the first epoch. Dense layers keep PyTorch's smaller
    weights: with He's, a feed-forward network on standardised columns reached an accuracy of 0.81 where it
    reaches 0.96 (mock task of 120 objects).
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def joined(shapes: Shapes, branches: Mapping[str, nn.Module], head: Sequence[int | nn.Module]) -> Joined:
    """Join branches by a head, whose first dense layer needs to know how much they say.

    Parameters
    ----------
    shapes : dict of str to tuple
    branches : dict of str to Module
        In the order of `shapes`.
    head : sequence of int or Module
        Units of the dense layers, and what stands between them.

    Raises
    ------
    DataError
        If a modality is too small for the layers of its branch.
    """
    width = sum(features(modality, layers, shapes[modality]) for modality, layers in branches.items())
    network = Joined(branches, chain(width, head))
    initialise(network)
    return network


def features(modality: str, layers: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the length of the vector that a branch makes of one object.

    Raises
    ------
    DataError
        If the modality is too small for the layers.
    """
    try:
        with torch.no_grad():
            count: int = layers.eval()(torch.zeros(1, *shape)).shape[1]
    except RuntimeError as error:
        raise DataError(
            f"{modality} of shape {shape} is too small for the layers of the network",
            remedy="give a finer zoom, or fewer or smaller layers",
        ) from error
    layers.train()
    return count


def chain(inputs: int, layers: Sequence[int | nn.Module]) -> nn.Sequential:
    """Return dense layers of the given units, and between them the given modules."""
    built: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, int):
            built.append(nn.Linear(inputs, layer))
            inputs = layer
        else:
            built.append(layer)
    return nn.Sequential(*built)


def table_branch(shape: tuple[int, ...], dropout: float = 0.5) -> nn.Module:
    """Return the table branch of the mixed-input network (dense 128, dropout, dense 64)."""
    return chain(shape[0], [128, nn.ReLU(), nn.Dropout(dropout), 64, nn.ReLU()])


def spectrum_branch(shape: tuple[int, ...], dropout: float = 0.5) -> nn.Module:
    """Return the spectrum branch of the mixed-input network (conv 256×5, 128×5, 64×3, dense 64 and 32)."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, shape[0]))]
    channels, side = 1, shape[0]
    for count, kernel in ((256, 5), (128, 5), (64, 3)):
        layers += [nn.Conv1d(channels, count, kernel, padding=kernel // 2), nn.ReLU()]
        if side > 1:
            layers.append(nn.MaxPool1d(2))
        # A fifth of the dropout between dense layers: neighbouring bins share what a filter says of them.
        layers.append(nn.Dropout(dropout / 5))
        channels, side = count, max(1, side // 2)
    dense = chain(channels * side, [64, nn.ReLU(), nn.Dropout(dropout), 32, nn.ReLU()])
    return nn.Sequential(*layers, nn.Flatten(), dense)


def image_branch(shape: tuple[int, ...]) -> nn.Module:
    """Return the three blocks of the image networks: convolution, max-pooling, batch normalisation.

    32 filters of 3×3 with stride 2, 64 of 5×5, 128 of 5×5. A map of one pixel is pooled no further, so that
    images of any size pass.
    """
    layers: list[nn.Module] = []
    channels, side = shape[0], shape[-1]
    for count, kernel, stride in ((32, 3, 2), (64, 5, 1), (128, 5, 1)):
        layers += [nn.Conv2d(channels, count, kernel, stride=stride, padding=kernel // 2), nn.ReLU()]
        channels, side = count, -(-side // stride)
        if side > 1:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        layers.append(nn.BatchNorm2d(count))
    return nn.Sequential(*layers, nn.Flatten())


def branch(modality: str, shape: tuple[int, ...], dropout: float = 0.5) -> nn.Module:
    """Return the branch of a modality that a network's authors did not have."""
    kind = kind_of(modality)
    if kind == "image":
        return image_branch(shape)
    return (spectrum_branch if kind == "spectrum" else table_branch)(shape, dropout)


def with_own(shapes: Shapes, own: str, layers: nn.Module) -> dict[str, nn.Module]:
    """Return a network's own branch for one modality and the common ones for all others."""
    return {m: layers if m == own else branch(m, shape) for m, shape in shapes.items()}


# --------------------------------------------------------------------------------------- networks


def feed_forward(
    shapes: Shapes,
    outputs: int,
    dropout: float,
    hidden: Sequence[int] = (512, 128),
    activation: type[nn.Module] = nn.ReLU,
) -> Joined:
    """Hidden dense layers of these units on all inputs side by side (photometric tables)."""
    layers = [layer for units in hidden for layer in (units, activation(), nn.Dropout(dropout))]
    return joined(shapes, {modality: nn.Flatten() for modality in shapes}, [*layers, outputs])


def gaia_cnn(shapes: Shapes, outputs: int) -> Joined:
    """Four convolutions without padding, each pooled by 2, and four hidden dense layers (BP/RP spectra)."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, shapes["spectrum"][0]))]
    channels = 1
    for count, kernel in ((256, 5), (256, 5), (128, 3), (64, 2)):
        layers += [nn.Conv1d(channels, count, kernel), nn.ReLU(), nn.MaxPool1d(2)]
        channels = count
    branches = with_own(shapes, "spectrum", nn.Sequential(*layers, nn.Flatten()))
    hidden = [layer for units in (256, 256, 128, 64) for layer in (units, nn.ReLU())]
    return joined(shapes, branches, [*hidden, outputs])


class SdssLayers(NamedTuple):
    """Layers of the tunable network for optical spectra, see `skyfuse.models.networks.SdssCNN`."""

    convolutions: int
    filters: int
    kernel: int
    pool: int
    dense: int
    units: int
    dropout: float


def sdss_cnn(
    shapes: Shapes,
    outputs: int,
    layers: SdssLayers,
) -> Joined:
    """Return the tunable network for optical spectra.

    Equal convolutions without padding; the second, third and fourth are pooled, so that six of them do not
    use up a short spectrum. Where its author had dense layers without a rectifier, which are together one
    linear map, they have one here.
    """
    stack: list[nn.Module] = [nn.Unflatten(1, (1, shapes["spectrum"][0]))]
    channels = 1
    for i in range(layers.convolutions):
        stack += [nn.Conv1d(channels, layers.filters, layers.kernel), nn.ReLU()]
        stack.append(nn.Dropout(layers.dropout / 5))
        if layers.pool > 1 and 1 <= i <= 3:
            stack.append(nn.MaxPool1d(layers.pool))
        channels = layers.filters
    branches = with_own(shapes, "spectrum", nn.Sequential(*stack, nn.Flatten()))
    hidden = [
        layer for _ in range(layers.dense) for layer in (layers.units, nn.ReLU(), nn.Dropout(layers.dropout))
    ]
    return joined(shapes, branches, [*hidden, outputs])


def mixed(shapes: Shapes, outputs: int, dropout: float) -> Joined:
    """Spectrum branch, table branch, and one dense layer of 128 that joins them; either works alone."""
    branches = {modality: branch(modality, shape, dropout) for modality, shape in shapes.items()}
    return joined(shapes, branches, [128, nn.ReLU(), outputs])


class Centre(nn.Module):
    """The middle of an image: a share of its side.

    Parameters
    ----------
    side : int
        Of the image.
    share : float
        Above 0, at most 1.
    """

    def __init__(self, side: int, share: float) -> None:
        super().__init__()
        self.side = max(1, round(side * share))
        self.first = (side - self.side) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels, share · side, share · side)."""
        part = slice(self.first, self.first + self.side)
        return x[..., part, part]


def centred(shape: tuple[int, ...], share: float) -> tuple[Centre, tuple[int, ...]]:
    """Return what takes the middle out of images of a shape, and the shape of that."""
    centre = Centre(shape[-1], share)
    return centre, (shape[0], centre.side, centre.side)


def image_cnn(shapes: Shapes, outputs: int, dropout: float, crop: float) -> Joined:
    """Return the three image blocks and two hidden dense layers, 2048 and 1024, with batch normalisation."""
    centre, shape = centred(shapes["image"], crop)
    branches = with_own(shapes, "image", nn.Sequential(centre, image_branch(shape)))
    return joined(shapes, branches, _normalised((2048, 1024), dropout, outputs))


def image_ff(shapes: Shapes, outputs: int, dropout: float, crop: float) -> Joined:
    """Four hidden dense layers, 256, 512, 256 and 128, on the pixels themselves, with batch normalisation."""
    centre, _ = centred(shapes["image"], crop)
    branches = with_own(shapes, "image", nn.Sequential(centre, nn.Flatten()))
    return joined(shapes, branches, _normalised((256, 512, 256, 128), dropout, outputs))


def _normalised(units: Sequence[int], dropout: float, outputs: int) -> list[int | nn.Module]:
    hidden = [
        layer for count in units for layer in (count, nn.ReLU(), nn.BatchNorm1d(count), nn.Dropout(dropout))
    ]
    return [*hidden, outputs]


class Frames(nn.Module):
    """Long short-term memory over the frames of an image, of which there is one: the whole image.

    The study's layers run under ``TimeDistributed`` over the shape (1, 224, 224, 3): a sequence of a single
    step. Its memory therefore starts at zero and is read at once, so that the recurrent weights
    (4 · units², of which nothing depends) have no part in the result.

    Parameters
    ----------
    inputs, units : int
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, units, batch_first=True)

    def forward(self, frames: Tensor) -> Tensor:
        """Return what the memory holds after the only frame, (n, units)."""
        out: Tensor = self.lstm(frames.unsqueeze(1))[0]
        return out.squeeze(1)


def image_lstm(shapes: Shapes, outputs: int, dropout: float, crop: float) -> Joined:
    """Return the three image blocks, an LSTM of 256 over the single frame, and a dense layer of 128.

    PyTorch gives an LSTM two bias vectors where Keras has one, so that it holds 4 · 256 = 1,024 numbers more.
    """
    centre, shape = centred(shapes["image"], crop)
    blocks = image_branch(shape)
    frame = nn.Sequential(centre, blocks, Frames(features("image", blocks, shape), 256))
    return joined(shapes, with_own(shapes, "image", frame), _normalised((128,), dropout, outputs))


# --------------------------------------------------------------------------------------- VGG

CHANNELS = (64, 128, 256, 512, 512)
"""Channels of the five blocks at width 1 (Simonyan & Zisserman 2015, table 1)."""

CONVOLUTIONS = (1, 2, 2, 2, 2)
"""3×3 convolutions of each block: nine, as between VGG11 (1, 1, 2, 2, 2) and VGG13 (2, 2, 2, 2, 2); the first
block, at full resolution, has the single one."""

HIDDEN = 512
"""Units of the two hidden dense layers at width 1. VGG's 4,096 suit a million images of a thousand classes;
here they would hold nearly all weights of a network for some thousand objects."""

POOL = {"image": 2, "spectrum": 4}
"""Step of the max-pooling: 4 bins become one as 2 × 2 pixels do, so that 3,744 bins end in 3."""

LONGEST = {"image": 2, "spectrum": 4}
"""Longest side of the map that the dense layers read; only images beyond 64 px and spectra beyond 4,620 bins
exceed it and are averaged down."""


def vgg(shapes: Shapes, outputs: int, width: float, dropout: float) -> Joined:
    """Return nine convolutions for each image or spectrum, joined by three dense layers.

    As in the VGG of 2015, there is no batch normalisation: begun as `initialise` says, the plain network
    reached the higher R² in 13 of 15 pairs of trainings with and without it (mock tasks of 240 and 400
    objects, several seeds, rates and modalities).

    Parameters
    ----------
    shapes : dict of str to tuple
    outputs : int
    width : float
        Factor on all numbers of channels and hidden units.
    dropout : float
        Before each hidden dense layer's successor.
    """
    branches = {
        modality: table_branch(shape, dropout) if kind_of(modality) == "table" else _vgg_branch(shape, width)
        for modality, shape in shapes.items()
    }
    hidden = _scaled(HIDDEN, width)
    head: list[int | nn.Module] = [hidden, nn.ReLU(), nn.Dropout(dropout)]
    return joined(shapes, branches, [*head, hidden, nn.ReLU(), nn.Dropout(dropout), outputs])


def _scaled(count: int, width: float) -> int:
    return max(4, round(count * width))


def _vgg_branch(shape: tuple[int, ...], width: float) -> nn.Sequential:
    flat = len(shape) == 1
    kind = "spectrum" if flat else "image"
    convolution: type[nn.Conv1d | nn.Conv2d] = nn.Conv1d if flat else nn.Conv2d
    layers: list[nn.Module] = [nn.Unflatten(1, (1, shape[0]))] if flat else []
    channels, side = 1 if flat else shape[0], shape[-1]
    for count, repeats in zip(CHANNELS, CONVOLUTIONS, strict=True):
        for _ in range(repeats):
            layers += [convolution(channels, _scaled(count, width), 3, padding=1), nn.ReLU()]
            channels = _scaled(count, width)
        if side > 1:
            # A map of 2 or 3 bins is shorter than the step and still becomes one.
            step = min(POOL[kind], side)
            layers.append(nn.MaxPool1d(step) if flat else nn.MaxPool2d(step))
            side //= step
    pool = math.ceil(side / LONGEST[kind])
    if pool > 1:
        # Not AdaptiveAvgPool: its gradient is not deterministic on CUDA.
        layers.append(nn.AvgPool1d(pool, ceil_mode=True) if flat else nn.AvgPool2d(pool, ceil_mode=True))
    layers.append(nn.Flatten())
    return nn.Sequential(*layers)


# --------------------------------------------------------------------------------------- ResNet

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Width, blocks and stride of the four stages of ResNet-50 (He et al. 2016, CVPR, table 1)."""

EXPANSION = 4
"""A bottleneck's outputs for each of its inner channels."""


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions beside a shortcut (He et al. 2016, fig. 5).

    The stride lies on the 3×3 convolution, which reads every pixel, where the paper has it on the first.

    Parameters
    ----------
    channels, width, stride : int
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = EXPANSION * width
        last = nn.BatchNorm2d(out)
        # Each block starts as its shortcut (Goyal et al. 2017, section 5.1), so that fifty layers train from
        # the first step on.
        nn.init.zeros_(last.weight)
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False),
            last,
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 4 · width, side / stride, side / stride)."""
        return torch.relu(self.residual(x) + self.shortcut(x))


class _Mean(nn.Module):
    """Mean over the map; unlike AdaptiveAvgPool's, its gradient is deterministic on CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(-2, -1))


def resnet50(shapes: Shapes, outputs: int) -> Joined:
    """Return the residual network of 50 layers: 25.6 million parameters at 1,000 classes."""
    layers: list[nn.Module] = [
        nn.Conv2d(shapes["image"][0], 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    channels = 64
    for width, blocks, stride in STAGES:
        for i in range(blocks):
            layers.append(Bottleneck(channels, width, stride if i == 0 else 1))
            channels = EXPANSION * width
    return joined(shapes, with_own(shapes, "image", nn.Sequential(*layers, _Mean())), [outputs])


# --------------------------------------------------------------------------------------- autoencoder

CODING = ((256, 7), (128, 5), (64, 5), (32, 3), (32, 3), (1, 3))
"""Filters and kernels of the encoder (spectral classification study); the decoder mirrors them."""

REACH = 8.0
"""Largest value that the decoder's tanh can give, in standard deviations of the training part. Where its
author had 1, no line could be drawn that rises by more than one."""

LEAST_KEPT = 0.95
"""Share of the bins that the encoder must read: up to a twentieth of them, at the ends, it may leave out."""


def halvings(bins: int, latent: int) -> int:
    """Return how often the encoder halves a spectrum so that the code has `latent` values.

    The code stands for latent · 2^halvings bins: 14 values and 7 halvings for 1,872 bins stand for 1,792 of
    them, 6 halvings for 936 bins for 896.
    """
    return max(0, math.ceil(math.log2(LEAST_KEPT * bins / latent)))


class _Repeat(nn.Module):
    """Each bin several times: nearest-neighbour upsampling, whose gradient is deterministic on CUDA too."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1).expand(*x.shape, self.times).flatten(-2)


class Codec(nn.Module):
    """Convolutional autoencoder of spectra.

    Six convolutions, each pooled by 2, the first of them by 4 where the spectrum is longer, lead to a code of
    one channel; six more, each after an upsampling, lead back. The code itself and what reads it are linear:
    with its author's rectifiers a single filter whose sign is wrong at the start gives zeros for ever.

    Parameters
    ----------
    bins : int
        Of the spectra; those that the code does not stand for are left out, or filled in as zeros, evenly at
        both ends.
    latent : int
        Values of the code.

    Attributes
    ----------
    kept : slice
        The bins that the code stands for.

    Raises
    ------
    DataError
        If no six poolings by 1, 2 or 4 lead from the one to the other.
    """

    def __init__(self, bins: int, latent: int) -> None:
        super().__init__()
        halves = halvings(bins, latent)
        if latent > bins or halves > 2 * len(CODING):
            raise DataError(
                f"spectra of {bins} bins cannot be coded by {latent} values",
                remedy=f"give latent from {math.ceil(LEAST_KEPT * bins / 4 ** len(CODING))} to {bins}",
            )
        steps = [2 ** (halves // len(CODING) + (i < halves % len(CODING))) for i in range(len(CODING))]
        spare = latent * 2**halves - bins
        self.pad = (spare // 2, spare - spare // 2)
        self.kept = slice(max(0, -self.pad[0]), bins - max(0, -self.pad[1]))
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        channels = 1
        for (count, kernel), step in zip(CODING, steps, strict=True):
            encoder += [
                nn.Conv1d(channels, count, kernel, padding=kernel // 2),
                nn.ReLU(),
                nn.MaxPool1d(step),
            ]
            channels = count
        del encoder[-2]
        channels = 1
        for (count, kernel), step in zip(reversed(CODING), reversed(steps), strict=True):
            decoder += [nn.Conv1d(channels, count, kernel, padding=kernel // 2), nn.ReLU(), _Repeat(step)]
            channels = count
        del decoder[1]
        self.encoder = nn.Sequential(*encoder)
        self.decoder = nn.Sequential(*decoder, nn.Conv1d(channels, 1, 1))
        initialise(self)

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """Return the code, (n, latent)."""
        code: Tensor = self.encoder(nn.functional.pad(x["spectrum"], self.pad).unsqueeze(1))
        return code.squeeze(1)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Return what the code says of the spectrum, (n, bins); 0 in bins that it does not stand for."""
        out = REACH * torch.tanh(self.decoder(self.encode(x).unsqueeze(1)) / REACH)
        return nn.functional.pad(out.squeeze(1), (-self.pad[0], -self.pad[1]))
