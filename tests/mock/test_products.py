"""What is written beside frames and spectra, from the same objects: zoo, LAMOST, catalogue, Gaia, scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from PIL import Image
from scipy.integrate import quad

from skyfuse.errors import UsageError
from skyfuse.mock import catalogue, gaia, images, scene, sky, spectra, write_mock, zoo
from skyfuse.mock.sky import Source

PRODUCTS = ("spectra", "gaia", "zoo", "lamost", "catalogue", "scene")


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sky") / "rich"
    write_mock(out, fields=1, objects=60, seed=5, products=PRODUCTS, shares=(0.5, 0.2, 0.3), workers=1)
    return out


@pytest.fixture(scope="module")
def truth(mock: Path) -> pd.DataFrame:
    return pd.read_parquet(mock / "truth.parquet")


def test_products_are_of_the_same_objects(mock: Path, truth: pd.DataFrame) -> None:
    galaxies, stars = truth[truth["kind"] == "GALAXY"], truth[truth["kind"] == "STAR"]
    votes, table = pd.read_csv(mock / "zoo" / "votes.csv"), pd.read_csv(mock / "catalogue.csv")
    assert list(votes["dr7objid"]) == list(galaxies["objid"])
    assert {p.stem for p in (mock / "zoo" / "images").glob("*.jpg")} == set(votes["dr7objid"].astype(str))
    assert list(table["objid"]) == list(truth["objid"])
    assert truth["objid"].is_unique
    redshifts = pd.read_csv(mock / "gaia" / "galaxies.csv")
    assert list(redshifts["source_id"]) == list(galaxies["source_id"])
    np.testing.assert_allclose(redshifts["redshift"], galaxies["z"], atol=1e-6)
    with fits.open(mock / "gaia" / "xp_sampled.fits") as hdus:
        assert list(hdus[1].data["source_id"]) == list(galaxies["source_id"])
        assert hdus[1].data["bp_flux"].shape == hdus[1].data["rp_flux_error"].shape == (len(galaxies), 120)
    assert len(list((mock / "lamost").glob("spec-*.fits"))) == len(stars)
    assert (galaxies["attainable_z_xp"] > 0).all()
    assert truth.loc[truth["kind"] != "GALAXY", "attainable_z_xp"].isna().all()
    assert not (mock / "photoObj").exists()
    assert not (mock / "sfr").exists()
    for path in (mock / "spectro").rglob("spec-*.fits"):
        assert fits.getval(path, "TELESCOP") == "MOCK"
        row = truth[truth["fiberid"] == fits.getval(path, "FIBERID")]
        if len(row):
            assert fits.getdata(path, 2)["SUBCLASS"][0] == row["subclass"].iloc[0]


def test_same_bytes_whatever_else_is_written_and_by_how_many(tmp_path: Path, mock: Path) -> None:
    write_mock(
        tmp_path / "m",
        fields=1,
        objects=60,
        seed=5,
        products=("zoo", "gaia", "catalogue"),
        shares=(0.5, 0.2, 0.3),
        workers=2,
    )
    for name in ("zoo/votes.csv", "gaia/xp_sampled.fits", "catalogue.csv"):
        assert (tmp_path / "m" / name).read_bytes() == (mock / name).read_bytes(), name
    for path in (tmp_path / "m" / "zoo" / "images").iterdir():
        assert path.read_bytes() == (mock / "zoo" / "images" / path.name).read_bytes()


def test_catalogue_is_the_truth_with_its_errors(mock: Path, truth: pd.DataFrame) -> None:
    table = pd.read_csv(mock / "catalogue.csv")
    pull = []
    for number, band in enumerate("ugriz"):
        # Residual dust moves all bands of an object together; it is no measurement error.
        spread = np.hypot(
            table[f"err_{band}"], catalogue.DUST_RESIDUAL * np.array(catalogue.EXTINCTION)[number]
        )
        pull.append((table[band] - truth[f"mag_{band}"]) / spread)
    bright = (truth["mag_u"] < 20).to_numpy()
    values = np.array(pull)[:, bright]
    assert abs(values.mean()) < 0.35
    assert 0.8 < values.std() < 1.2
    assert (table["petroR90_r"] > table["petroR50_r"]).all()
    assert list(table["class"]) == list(truth["kind"])
    np.testing.assert_allclose((table["redshift"] - truth["z"]) / table["redshift_err"], 0, atol=4.5)


def test_asinh_magnitudes_are_magnitudes_where_light_is() -> None:
    flux = np.full((1, 5), 100.0)
    assert catalogue.asinh_magnitude(flux) == pytest.approx(22.5 - 2.5 * np.log10(100.0), abs=1e-3)
    assert catalogue.magnitude_error(flux, 0.01 * flux) == pytest.approx(0.010857, rel=1e-3)
    # Zero flux has the magnitude -2.5 log b (Lupton et al. 1999): 24.63 in u.
    assert catalogue.asinh_magnitude(np.zeros((1, 5)))[0, 0] == pytest.approx(24.63, abs=0.01)


def test_petrosian_radii_of_an_exponential_disc() -> None:
    # Far wider than the seeing; R50 and R90 within two Petrosian radii, by quadrature of exp(-r/h).
    h = 20.0
    curve = catalogue.growth(np.array([[0.0, 1.0, 0.0]]), np.array([[1.0, 1.678347 * h, 1.0]]))
    r50, r90 = (float(v[0]) for v in catalogue.petrosian(curve))

    def within(r: float) -> float:
        return quad(lambda x: x * np.exp(-x / h), 0, r)[0] / h**2

    assert within(r90) / within(r50) == pytest.approx(1.8, rel=0.01)
    # Graham et al. (2005, AJ 130, 1535, table 1): the Petrosian aperture holds 0.994 of an n = 1 profile.
    assert within(r90) / 0.9 == pytest.approx(0.994, abs=0.01)


def test_votes_are_drawn_from_their_probabilities() -> None:
    seen = zoo.Morphology(0.2, 0.8, 66.0, 0.3, 10.0, True, 20.0, 1.2, "merger")
    chance = zoo.probabilities(seen)
    counts = [zoo.vote(1, index, seen) for index in range(400)]
    assert all(sum(count[task].sum() for count in counts) > 100 for task in chance)
    for task, share in chance.items():
        assert share.sum() == pytest.approx(1.0)
        votes = np.sum([count[task] for count in counts], axis=0)
        sigma = np.sqrt(np.maximum(share * (1 - share), 1e-3) / votes.sum())
        assert (np.abs(votes / votes.sum() - share) < 5 * sigma).all(), task
    assert np.mean([c["t01_smooth_or_features"].sum() for c in counts]) == pytest.approx(zoo.VOTERS, abs=2)


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (zoo.Morphology(0.9, 0.95, 20.0, 0.0, 0.0, False, np.nan, -5.0, ""), "Er"),
        (zoo.Morphology(0.9, 0.25, 80.0, 0.0, 0.0, False, np.nan, -5.0, ""), "Ec"),
        (zoo.Morphology(0.35, 0.2, 88.0, 0.0, 0.0, False, np.nan, 5.0, ""), "Ser"),
        (zoo.Morphology(0.001, 0.2, 88.0, 0.0, 0.0, False, np.nan, 5.0, ""), "Sen"),
        (zoo.Morphology(0.09, 0.9, 20.0, 0.35, 0.0, False, np.nan, 5.0, ""), "SBc"),
        (zoo.Morphology(0.27, 0.9, 20.0, 0.0, 0.0, True, 14.0, 5.0, ""), "Sb2t"),
        (zoo.Morphology(0.7, 0.9, 20.0, 0.0, 0.0, True, 26.0, 5.0, "ring"), "Sa2l(r)"),
    ],
)
def test_plain_galaxies_get_their_class(seen: zoo.Morphology, name: str) -> None:
    given = [zoo.class_of(zoo.vote(2, index, seen)) for index in range(60)]
    assert max(set(given), key=given.count) == name


def test_vote_table_has_the_public_names(mock: Path) -> None:
    votes = pd.read_csv(mock / "zoo" / "votes.csv")
    for name in (
        "t01_smooth_or_features_a01_smooth_fraction",
        "t05_bulge_prominence_a11_just_noticeable_weighted_fraction",
        "t07_rounded_a18_cigar_shaped_debiased",
        "t08_odd_feature_a38_dust_lane_flag",
        "t11_arms_number_a36_more_than_4_count",
    ):
        assert name in votes
    tasks = votes.filter(regex=r"^t01_.*_fraction$").filter(regex="^(?!.*weighted)")
    np.testing.assert_allclose(tasks.sum(axis=1), 1.0, atol=1e-6)
    edge = votes["t02_edgeon_a04_yes_count"] + votes["t02_edgeon_a05_no_count"]
    assert (edge == votes["t01_smooth_or_features_a02_features_or_disk_count"]).all()


def test_pitch_angle_of_drawn_arms() -> None:
    rng = np.random.default_rng(2)
    radius = np.sqrt(rng.uniform(0.05, 1.0, 28)) * 2
    angle = np.log(radius) / np.tan(np.radians(18.0)) + np.pi * (np.arange(28) % 2)
    clumps = np.column_stack([radius * np.cos(angle), radius * np.sin(angle), radius, radius])
    assert zoo.pitch_angle(clumps) == pytest.approx(18.0, abs=0.3)


def test_colour_image_has_size_scale_and_colour(mock: Path, truth: pd.DataFrame) -> None:
    galaxies = truth[(truth["kind"] == "GALAXY") & (truth["mag_r"] < 17)]
    red, size = [], []
    for _, row in galaxies.iterrows():
        with Image.open(mock / "zoo" / "images" / f"{row['objid']}.jpg") as picture:
            image = np.asarray(picture, float)
        assert image.shape == (424, 424, 3)
        centre = image[202:222, 202:222].mean(axis=(0, 1))
        assert centre.min() > image[:40, :40].mean() + 15
        red.append(centre[0] - centre[2])
        size.append(row["mag_g"] - row["mag_i"])
    assert np.corrcoef(red, size)[0, 1] > 0.6


def test_lupton_keeps_colours() -> None:
    bands = np.array([0.05, 0.1, 0.2])[:, None, None] * np.ones((3, 2, 2))
    faint, bright = zoo.colour(0.1 * bands)[0, 0], zoo.colour(300 * bands)[0, 0]
    expected = np.array([0.2, 0.1, 0.05]) * np.array([4.9, 5.7, 7.8])
    np.testing.assert_allclose(bright / bright.max(), expected / expected.max(), atol=0.01)
    assert bright.max() == 255
    assert faint.max() < 30


def test_lamost_layout_is_the_real_one(mock: Path, truth: pd.DataFrame, real_data: Path) -> None:
    real_path = sorted((real_data / "lamost_dr1_spectra").glob("spec-*.fits"))[0]
    with fits.open(real_path) as real:
        keys = "FILENAME LMJD MJD PLANID RA DEC FIBERID SPID DESIG COEFF0 COEFF1 CLASS SUBCLASS Z Z_ERR SN_G"
        kinds = {key: type(real[0].header[key]) for key in keys.split()}
        assert real[0].data.shape[0] == 5
    labels = pd.read_csv(mock / "lamost" / "labels.csv")
    stars = truth[truth["kind"] == "STAR"]
    for name, subclass, index in zip(labels["path"], stars["subclass"], stars.index, strict=True):
        with fits.open(mock / "lamost" / name) as hdus:
            header, data = hdus[0].header, hdus[0].data
            assert {key: type(header[key]) for key in kinds} == kinds
            assert header["SUBCLASS"] == subclass
            assert data.shape == (5, 3904)
            first = 10 ** header["COEFF0"]
            assert 3680 < first < 3710
            good = data[1] > 0
            assert (data[3][~good] == 1).all()
            sn = np.median(data[0][good] * np.sqrt(data[1][good]))
            assert sn > 1, index


def test_scenes(mock: Path) -> None:
    table = pd.read_csv(mock / "scene" / "features.csv")
    assert list(table.columns) == ["IMAGE", *(f"MFCC_{k}" for k in range(1, 105)), "CLASS1", "CLASS2"]
    assert len(table) == 60
    assert table["CLASS2"].nunique() == 8
    for name in table["IMAGE"]:
        with Image.open(mock / "scene" / name) as image:
            assert image.size == (96, 96)
    assert (table["CLASS2"].map(scene.CLASSES) == table["CLASS1"]).all()


def test_each_kind_of_input_knows_the_scene_in_part_and_both_know_it_better() -> None:
    # Nearest class mean on six colours and on all coefficients, and on the sum of both distances.
    looks, sounds, names = [], [], []
    for index in range(640):
        rng = sky.generator(3, sky.SPAWN_SCENE, index)
        name = list(scene.CLASSES)[index % 8]
        picture = scene.picture(rng, name).reshape(4, 24, 96, 3)
        looks.append(np.concatenate([picture.mean(axis=(1, 2)).ravel(), picture.std(axis=(1, 2)).ravel()]))
        sounds.append(scene.sound(rng, name))
        names.append(index % 8)
    label, distance = np.array(names), []
    for values in (np.array(looks), np.array(sounds)):
        train, test = values[:400], values[400:]
        means = np.array([train[label[:400] == k].mean(axis=0) for k in range(8)])
        residual = train - means[label[:400]]
        inverse = np.linalg.inv(np.cov(residual.T) + 0.05 * np.diag(residual.var(axis=0)))
        gap = test[:, None] - means
        distance.append(np.einsum("nki,ij,nkj->nk", gap, inverse, gap))
    right = [(d.argmin(axis=1) == label[400:]).mean() for d in (*distance, distance[0] + distance[1])]
    assert min(right[:2]) > 0.6
    assert max(right[:2]) < 0.98
    assert right[2] > max(right[:2]) + 0.01


def test_window_and_fibre_radii_are_of_the_same_shape() -> None:
    source = sky.draw_galaxy(sky.generator(1, 2), 2, 150.0, 0.1)
    assert source.shape is not None
    size = gaia.radii([source])[0]
    q = max(np.cos(np.radians(source.shape.inclination)), 0.15)
    assert size[1] ** 2 == pytest.approx(source.shape.re_disc**2 * q)
    # Half of a point source's light within the radius that is stated for it.
    assert np.interp(catalogue.PSF_RADIUS, catalogue._RADII, catalogue.point_growth()[0]) == pytest.approx(
        0.5, abs=0.01
    )
    assert images.SEEING[2] == 1.32


def test_only_scenes(tmp_path: Path) -> None:
    summary = write_mock(tmp_path / "m", objects=8, products=["scene"])
    assert summary.counts == {"scenes": 8}
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["scene", "truth.json"]
    assert "truth" not in str(summary)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"products": ("movies",)}, "products are"),
        ({"products": ()}, "products are"),
        ({"z_max": 0.7}, "z_max is 0.7"),
        ({"z_max": 0.01}, "z_max is 0.01"),
        ({"shares": (0.5, 0.2)}, "shares are"),
        ({"shares": (0.5, 0.2, 0.2)}, "shares are"),
        ({"shares": (1.5, -0.5, 0.0)}, "shares are"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, object], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        write_mock(tmp_path / "m", **arguments)  # bad on purpose
    assert not (tmp_path / "m").exists()


def test_templates_cover_groups_of_stars(real_data: Path) -> None:
    bank = spectra.load_templates(real_data / "templates" / "idlspec2d")
    assert len(bank.stars) == 123
    assert {group for group, _, _ in bank.stars} >= set("OBAFGKM") | {"WD", "WDmagnetic", "Carbon", "L"}
    one = Source(0, "STAR", "F6", 150.0, 0.1, 0.0, mag_r=17.0, temperature=6500.0)
    lights = {
        spectra._template_star(
            Source(0, "STAR", "F6", 150.0, 0.1, 0.0, variety=(d, 0.1, 0.1)), bank, np.zeros(1)
        ).tobytes()
        for d in np.linspace(-2.5, 2.5, 60)
    }
    # F5 to F6, seven of them, and each is drawn.
    assert len(lights) == sum(group == "F" and 4.5 <= digit <= 7.5 for group, digit, _ in bank.stars)
    assert spectra.source_light(one, bank).shape == (1, spectra.N_BINS)
    galaxy = sky.draw_galaxy(sky.generator(1, 2), 2, 150.0, 0.1)
    assert bank.modes is not None
    assert bank.modes.shape[0] == 3
    assert (spectra.source_light(galaxy, bank) >= 0).all()
