import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skyfuse.errors import DataError
from skyfuse.models import architectures
from skyfuse.models.architectures import parameter_count

IMAGE = {"image": (3, 224, 224)}


def meta(build, *args, **kwargs):
    """Build without memory: the large networks hold 50 million numbers."""
    with torch.device("meta"):
        return build(*args, **kwargs)


@pytest.mark.parametrize(
    ("build", "args", "count"),
    [
        (architectures.feed_forward, ({"table": (5,)}, 3, 0.0), 69_123),
        # The study's other table: 8 columns, 5 classes.
        (architectures.feed_forward, ({"table": (8,)}, 5, 0.0), 70_917),
        # Dense 14-64-64-64-1: (14 + 1) · 64 + 2 · (64 + 1) · 64 + 65.
        (architectures.feed_forward, ({"table": (14,)}, 1, 0.0, [64, 64, 64], nn.Tanh), 9_345),
        (architectures.gaia_cnn, ({"spectrum": (186,)}, 1), 699_073),
        (architectures.image_cnn, (IMAGE, 10, 0.0, 1.0), 53_760_970),
        (architectures.image_ff, (IMAGE, 10, 0.0, 1.0), 38_837_130),
        # Keras counts 26,245,962; PyTorch's LSTM has a second bias of 4 · 256.
        (architectures.image_lstm, (IMAGE, 10, 0.0, 1.0), 26_245_962 + 1024),
        # 25,557,032 weights (the number that every port of the network has) and 2 · 26,560 statistics.
        (architectures.resnet50, (IMAGE, 1000), 25_557_032 + 53_120),
    ],
)
def test_networks_hold_as_many_numbers_as_their_studies_say(build, args, count):
    assert parameter_count(meta(build, *args)) == count


@pytest.mark.parametrize(
    ("build", "trained"),
    # The trainable totals that Keras printed beside the others.
    [(architectures.image_cnn, 53_754_378), (architectures.image_ff, 38_834_826)],
)
def test_running_statistics_are_told_apart_from_what_is_trained(build, trained):
    assert parameter_count(meta(build, IMAGE, 10, 0.0, 1.0), statistics=False) == trained


BUILDERS = {
    "feed_forward": ({"table": (5,)}, lambda shapes: architectures.feed_forward(shapes, 3, 0.1)),
    "gaia_cnn": ({"spectrum": (60,)}, lambda shapes: architectures.gaia_cnn(shapes, 3)),
    "sdss_cnn": (
        {"spectrum": (60,)},
        lambda shapes: architectures.sdss_cnn(
            shapes,
            3,
            architectures.SdssLayers(
                convolutions=3, filters=4, kernel=3, pool=2, dense=2, units=8, dropout=0.5
            ),
        ),
    ),
    "mixed": ({"spectrum": (30,)}, lambda shapes: architectures.mixed(shapes, 3, 0.5)),
    "image_cnn": ({"image": (3, 16, 16)}, lambda shapes: architectures.image_cnn(shapes, 3, 0.1, 0.8)),
    "image_ff": ({"image": (3, 16, 16)}, lambda shapes: architectures.image_ff(shapes, 3, 0.1, 0.8)),
    "image_lstm": ({"image": (3, 16, 16)}, lambda shapes: architectures.image_lstm(shapes, 3, 0.1, 0.8)),
    "resnet50": ({"image": (5, 28, 28)}, lambda shapes: architectures.resnet50(shapes, 3)),
    "vgg": ({"image": (5, 8, 8)}, lambda shapes: architectures.vgg(shapes, 3, 0.0625, 0.5)),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_network_joins_the_modalities_that_it_is_given(name):
    own, build = BUILDERS[name]
    every = {"image": (2, 9, 9), "spectrum": (60,), "table": (4,)} | own
    for shapes in (own, every):
        network = build(shapes).eval()
        x = {m: torch.randn(2, *shape) for m, shape in shapes.items()}
        out = network(x)
        assert out.shape == (2, 3)
        for modality in shapes:
            changed = {**x, modality: x[modality] + 1}
            assert not torch.allclose(network(changed), out), modality


@pytest.mark.parametrize("name", BUILDERS)
def test_gradients_of_all_weights_are_finite_and_reach_the_first_layer(name):
    shapes, build = BUILDERS[name]
    torch.manual_seed(0)
    network = build(shapes).train()
    out = network({m: torch.randn(4, *shape) for m, shape in shapes.items()})
    nn.functional.cross_entropy(out, torch.tensor([0, 1, 2, 0])).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert gradients[0].abs().max() > 0


@given(
    st.integers(1, 8),
    st.sampled_from([1, 2, 3, 4, 5, 7, 8, 13, 28, 63]),
    st.sampled_from([0.3, 1.0]),
    st.sampled_from(["cnn", "lstm", "ff"]),
)
@settings(max_examples=12, deadline=None)
def test_image_networks_take_any_size_and_number_of_channels(channels, size, crop, kind):
    shapes = {"image": (channels, size, size)}
    network = meta(getattr(architectures, f"image_{kind}"), shapes, 6, 0.5, crop)
    assert network.eval()({"image": torch.zeros(3, channels, size, size, device="meta")}).shape == (3, 6)


@pytest.mark.parametrize(
    "shapes",
    [
        {"image": (channels, size, size)}
        for size, channels in ((64, 5), (32, 5), (16, 1), (8, 3), (4, 5), (1, 2), (96, 5))
    ]
    + [{"spectrum": (bins,)} for bins in (4620, 3744, 1872, 936, 468, 234, 289, 7, 1)]
    + [{"image": (5, 8, 8), "spectrum": (234,)}],
)
def test_vgg_has_twelve_layers_at_every_zoom_with_few_dense_inputs(shapes):
    network = meta(architectures.vgg, shapes, 1, 0.125, 0.5)
    layers = list(network.modules())
    assert sum(isinstance(layer, nn.Conv1d | nn.Conv2d) for layer in layers) == 9 * len(shapes)
    dense = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert len(dense) == 3
    assert dense[0].in_features <= 4 * 64 * len(shapes)


def test_feed_forward_has_the_activation_and_dropout_after_every_hidden_layer():
    network = meta(architectures.feed_forward, {"table": (5,)}, 3, 0.1, [7, 6], nn.Tanh)
    kinds = [type(layer) for layer in network.head]
    assert kinds == [nn.Linear, nn.Tanh, nn.Dropout, nn.Linear, nn.Tanh, nn.Dropout, nn.Linear]
    assert [layer.out_features for layer in network.head if isinstance(layer, nn.Linear)] == [7, 6, 3]


def test_width_one_has_the_channels_of_vgg():
    network = meta(architectures.vgg, {"image": (5, 16, 16)}, 1, 1, 0.5)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == [64, 128, 128, 256, 256, 512, 512, 512, 512]
    assert all(layer.kernel_size == (3, 3) for layer in layers)


def test_crop_keeps_the_middle():
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert torch.equal(architectures.Centre(6, 0.34)(x), x[..., 2:4, 2:4])
    assert torch.equal(architectures.Centre(6, 1.0)(x), x)
    shapes = {"image": (1, 6, 6)}
    network = architectures.image_ff(shapes, 2, 0.0, 0.34).eval()
    edge = x.clone()
    edge[..., 0] += 1
    assert torch.equal(network({"image": x}), network({"image": edge}))


@pytest.mark.parametrize("mirror", [False, True])
def test_oriented_network_answers_with_the_mean_of_the_orientations_it_has(mirror):
    torch.manual_seed(0)
    one = architectures.image_ff({"image": (2, 5, 5), "table": (3,)}, 4, 0.0, 1.0)
    network = architectures.Oriented(one, mirror=mirror).eval()
    x = {"image": torch.randn(6, 2, 5, 5), "table": torch.randn(6, 3)}
    images = [x["image"].rot90(k, (2, 3)) for k in range(4)]
    if mirror:
        images += [image.transpose(2, 3) for image in images]
    out = network(x)
    assert torch.allclose(out, sum(one({**x, "image": image}) for image in images) / len(images), atol=1e-6)
    turned = {**x, "image": x["image"].rot90(1, (2, 3))}
    assert torch.allclose(network(turned), out, atol=1e-6)
    mirrored = {**x, "image": x["image"].flip(2)}
    assert torch.allclose(network(mirrored), out, atol=1e-6) == mirror
    image = {"image": x["image"]}
    bare = architectures.image_ff({"image": (2, 5, 5)}, 4, 0.0, 1.0).train()
    assert torch.equal(architectures.Oriented(bare, mirror=mirror).train()(image), bare(image))


def test_resnet_has_fifty_layers():
    layers = list(meta(architectures.resnet50, IMAGE, 10).modules())
    blocks = [layer for layer in layers if isinstance(layer, architectures.Bottleneck)]
    assert len(blocks) == 3 + 4 + 6 + 3
    shortcuts = [block for block in blocks if not isinstance(block.shortcut, nn.Identity)]
    weighted = [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(weighted) - len(shortcuts) == 50


@pytest.mark.parametrize("name", ["gaia_cnn", "sdss_cnn"])
def test_an_input_too_small_for_the_layers_is_named(name):
    build = BUILDERS[name][1]
    with pytest.raises(DataError, match=r"spectrum of shape \(9,\) is too small.*finer zoom"):
        build({"spectrum": (9,)})


@pytest.mark.parametrize(
    ("bins", "latent", "pools", "kept"),
    [
        # The author's two: pools 4·4·2·2·2·2 for 1,792 bins give 7 values, 2⁶ for 896 give 14.
        (1792, 7, [4, 4, 2, 2, 2, 2], slice(0, 1792)),
        (896, 14, [2] * 6, slice(0, 896)),
        (1792, 14, [4, 2, 2, 2, 2, 2], slice(0, 1792)),
        (1872, 14, [4, 2, 2, 2, 2, 2], slice(40, 1832)),
        (234, 14, [2, 2, 2, 2, 1, 1], slice(5, 229)),
        (186, 14, [2, 2, 2, 2, 1, 1], slice(0, 186)),
        (5, 5, [1] * 6, slice(0, 5)),
    ],
)
def test_pools_lead_from_the_bins_to_the_code(bins, latent, pools, kept):
    codec = meta(architectures.Codec, bins, latent)
    assert [layer.kernel_size for layer in codec.encoder if isinstance(layer, nn.MaxPool1d)] == pools
    assert codec.kept == kept
    x = {"spectrum": torch.zeros(2, bins, device="meta")}
    assert codec.encode(x).shape == (2, latent)
    assert codec(x).shape == (2, bins)


@given(st.integers(1, 5000), st.integers(1, 60))
@settings(max_examples=20, deadline=None)
def test_a_code_stands_for_nearly_all_bins_or_is_refused(bins, latent):
    if latent > bins or latent * 4096 < 0.95 * bins:
        with pytest.raises(DataError, match=f"{bins} bins cannot be coded by {latent} values"):
            meta(architectures.Codec, bins, latent)
        return
    codec = meta(architectures.Codec, bins, latent)
    assert codec({"spectrum": torch.zeros(1, bins, device="meta")}).shape == (1, bins)
    assert codec.kept.stop - codec.kept.start >= 0.95 * bins - 1


def test_upsampling_repeats_each_bin():
    x = torch.arange(6.0).reshape(1, 2, 3)
    repeat = next(m for m in architectures.Codec(896, 14).decoder if isinstance(m, architectures._Repeat))
    assert torch.equal(repeat(x), nn.functional.interpolate(x, scale_factor=2, mode="nearest"))
