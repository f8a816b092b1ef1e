"""The archives: every address, name, size and limit that fetching relies on, in one table.

Addresses and the places of files follow the services' own pages and `astroquery` (``astroquery.sdss`` and
``astroquery.gaia`` 0.4.11), which is tested against them every week:

- SkyServer's SQL (https://skyserver.sdss.org/dr16/en/help/docs/api.aspx) and its limits
  (https://skyserver.sdss.org/dr16/en/help/docs/limits.aspx; those of DR7 are lower);
- files on the Science Archive Server (https://data.sdss.org/datamodel/, `frame` and `spec`);
- Gaia's TAP (https://www.cosmos.esa.int/web/gaia-users/archive/programmatic-access) and DataLink
  (https://www.cosmos.esa.int/web/gaia-users/archive/datalink-products);
- the MPA-JHU tables (https://wwwmpa.mpa-garching.mpg.de/SDSS/DR7/) and Galaxy Zoo 2
  (https://data.galaxyzoo.org/).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from skyfuse.errors import UsageError
from skyfuse.survey.sdss.objectid import unpack

_SKYSERVER = "https://skyserver.sdss.org"
_SAS = "https://data.sdss.org/sas"
_GAIA = "https://gea.esac.esa.int"
_MPA = "https://wwwmpa.mpa-garching.mpg.de/SDSS/DR7/Data"
_VOTES = "https://gz2hart.s3.amazonaws.com"
_SAMPLE = "https://zooniverse-data.s3.amazonaws.com/galaxy-zoo-2"

DEFAULT_RELEASE = "dr17"
"""The last release of the plate surveys: all the images and all spectra of SDSS-I to IV."""

RERUN = 301
"""The last processing of the images, the one of every release since DR8."""

QUERIES_A_MINUTE = 60
"""SkyServer turns queries away beyond this many."""

GAIA_RELEASE = "Gaia DR3"
GAIA_ROWS = 3_000_000
"""Rows that one asynchronous query may give without an account."""
XP_SOURCES = 5000
"""Sources that one call of DataLink may name."""

SFR_TABLES = {"gal_totsfr_dr7_v5_2.fits.gz": 26_000_000, "gal_info_dr7_v5_2.fit.gz": 113_000_000}
"""Names of the MPA-JHU tables and their approximate bytes."""

VOTES_NAME, SAMPLE_NAME = "gz2_hart16.csv.gz", "gz2sample.csv.gz"
"""Votes of Galaxy Zoo 2 as debiased by Hart et al. (2016), and the survey's own data of the same galaxies."""

BYTES = {
    "lite": 205_000,
    "full": 1_200_000,
    "frame": 3_240_000,
    "image": 14_000,
    "xp": 43_000,
    "votes": 67_000_000,
    "sample": 47_000_000,
}
"""Approximate bytes of one file; for ``xp`` of one source. Of spectra, frames and images the means over files
of all pipeline versions; full spectra grow with their number of exposures. Of tables estimates from their
rows and columns, since the archives state none."""

CITE = {
    "sdss": "Cite the paper of the data release (DR17: Abdurro'uf et al. 2022, ApJS 259, 35) and put SDSS's "
    "acknowledgement into yours: https://www.sdss4.org/collaboration/citing-sdss/",
    "gaia": "Cite Gaia Collaboration, Prusti et al. (2016, A&A 595, A1) and Vallenari et al. (2023, A&A 674, "
    "A1), for XP spectra De Angeli et al. and Montegriffo et al. (2023, A&A 674, A2 and A3), and put Gaia's "
    "acknowledgement into yours: https://www.cosmos.esa.int/web/gaia-users/credits",
    "sfr": "Cite Brinchmann et al. (2004, MNRAS 351, 1151), Kauffmann et al. (2003, MNRAS 341, 33), Tremonti "
    "et al. (2004, ApJ 613, 898) and SDSS DR7 (Abazajian et al. 2009, ApJS 182, 543)",
    "galaxyzoo": "Cite Willett et al. (2013, MNRAS 435, 2835) and Hart et al. (2016, MNRAS 461, 3663), and "
    "put Galaxy Zoo's acknowledgement into yours: https://data.galaxyzoo.org/",
}
"""What whoever publishes work with the data is asked to cite, by archive."""

_LEGACY_RUN2D = ("26", "103", "104")


@dataclass(frozen=True, slots=True)
class Release:
    """Where one data release of SDSS lies.

    Attributes
    ----------
    name : str
        ``dr17`` and so on.
    sql : str
        SkyServer's address for SQL.
    parameters : dict of str to str
        What goes with each query beside ``cmd``.
    rows : int
        Rows that one query may give.
    spectra, frames : str or None
        Folders of the spectra's pipeline versions and of the frames' reruns; None where the release has no
        files of the kinds that are read here.
    full : str
        Folder of full spectra of the BOSS spectrographs.
    cutout : str
        Address of the service of colour images.
    """

    name: str
    sql: str
    parameters: dict[str, str] = field(default_factory=lambda: {"format": "csv"})
    rows: int = 500_000
    spectra: str | None = None
    frames: str | None = None
    full: str = "spectra"
    cutout: str = ""


def _release(number: int) -> Release:
    name = f"dr{number}"
    # As `astroquery.sdss.SDSSClass` has them; the REST service is documented from DR12 on.
    if number >= 12:
        sql = f"{_SKYSERVER}/{name}/SkyServerWS/SearchTools/SqlSearch"
    else:
        page = "asp" if number < 10 else "aspx"
        sql = f"{_SKYSERVER}/{name}/en/tools/search/x_{'results' if number == 11 else 'sql'}.{page}"
    frames = "boss" if number <= 12 else "eboss" if number <= 17 else "prior-surveys/sdss4-dr17-eboss"
    redux = "sdss/spectro/redux" if number <= 17 else "spectro/sdss/redux"
    return Release(
        name,
        sql,
        rows=100_000 if number == 7 else 500_000,
        # Spectra in files of their own begin with DR9; the images' last processing with DR8.
        spectra=f"{_SAS}/{name}/{redux}" if number >= 9 else None,
        frames=f"{_SAS}/{name}/{frames}/photoObj/frames" if number >= 9 else None,
        full="spectra" if number <= 15 else "spectra/full",
        cutout=f"{_SKYSERVER}/{name if number >= 12 else 'dr12'}/SkyServerWS/ImgCutout/getjpeg",
    )


RELEASES: dict[str, Release] = {f"dr{number}": _release(number) for number in range(7, 20)}
"""The data releases by name."""


class Archives:
    """Every address, for one data release, at the archives themselves or at one stand-in for all of them.

    Parameters
    ----------
    release : str
        Data release of SDSS, ``dr7`` to ``dr19``.
    base : str, optional
        Scheme, host and port that take the place of every archive's own: a mirror, or a stand-in for tests.

    Raises
    ------
    UsageError
        The release is unknown, or `base` is no address.
    """

    def __init__(self, release: str = DEFAULT_RELEASE, base: str | None = None) -> None:
        if release.lower() not in RELEASES:
            raise UsageError(f"'{release}' is no data release", remedy=f"give one of {', '.join(RELEASES)}")
        self.release = RELEASES[release.lower()]
        self._base = None if base is None else urlsplit(base)
        if self._base is not None and not (self._base.scheme in ("http", "https") and self._base.hostname):
            raise UsageError(f"'{base}' is no address", remedy="write it as http://host:port")

    @property
    def hosts(self) -> tuple[str, ...]:
        """Base addresses that may be spoken to."""
        own = (_SKYSERVER, _SAS, _GAIA, _MPA, _VOTES, _SAMPLE)
        return tuple(dict.fromkeys(self._at(urlunsplit((*urlsplit(url)[:2], "", "", ""))) for url in own))

    def _at(self, url: str) -> str:
        """Return an address at `base`, where there is one."""
        if self._base is None:
            return url
        return urlunsplit((self._base.scheme, self._base.netloc, *urlsplit(url)[2:]))

    @property
    def sql(self) -> str:
        """SkyServer's address for SQL."""
        return self._at(self.release.sql)

    @property
    def tap(self) -> str:
        """Gaia's TAP service."""
        return self._at(f"{_GAIA}/tap-server/tap")

    @property
    def datalink(self) -> str:
        """Gaia's service of spectra and other data of single sources."""
        return self._at(f"{_GAIA}/data-server/data")

    def spectrum(
        self, plate: str, mjd: str, fibre: str, run2d: str, *, full: bool = False
    ) -> tuple[str, str]:
        """Return where a spectrum goes and where it comes from.

        Parameters
        ----------
        plate, mjd, fibre, run2d : str
            As the service gave them; what is no number is not made one, and the path shows it.
        full : bool
            With the single exposures.

        Returns
        -------
        path : str
            Under the folder of the downloads, as on the archive server.
        url : str

        Raises
        ------
        UsageError
            The release has no such files.
        """
        if self.release.spectra is None:
            raise self._none("spectra in files of their own")
        kind = "spectra/lite"
        if full:
            kind = "spectra" if run2d in _LEGACY_RUN2D else self.release.full
        name = f"{plate.zfill(4)}/spec-{plate.zfill(4)}-{mjd}-{fibre.zfill(4)}.fits"
        tail = f"{run2d}/{kind}/{name}"
        return f"spectro/redux/{tail}", self._at(f"{self.release.spectra}/{quote(tail)}")

    def frame(self, run: int, camcol: int, number: int, band: str, rerun: int = RERUN) -> tuple[str, str]:
        """Return where a frame goes and where it comes from; see `spectrum`."""
        if self.release.frames is None:
            raise self._none("frames of the last processing")
        tail = f"{rerun}/{run}/{camcol}/frame-{band}-{run:06d}-{camcol}-{number:04d}.fits.bz2"
        return f"photoObj/frames/{tail}", self._at(f"{self.release.frames}/{tail}")

    def _none(self, what: str) -> UsageError:
        return UsageError(f"{self.release.name} has no {what}", remedy="choose dr9 or a later release")

    def cutout(self, name: str, ra: float, dec: float, scale: float, size: int) -> tuple[str, str]:
        """Return where a colour image goes and where it comes from.

        Parameters
        ----------
        name : str
            Of the object.
        ra, dec : float
            Degrees.
        scale : float
            Arcsec a pixel.
        size : int
            Pixels on a side; the service gives 64 to 2048.
        """
        query = urlencode(
            {
                "ra": f"{ra:.7f}",
                "dec": f"{dec:.7f}",
                "scale": f"{scale:.5f}",
                "width": size,
                "height": size,
            }
        )
        return f"galaxyzoo/images/{name}.jpg", f"{self._at(self.release.cutout)}?{query}"

    def sfr(self, name: str) -> tuple[str, str]:
        """Return where one of the `SFR_TABLES` goes and where it comes from."""
        return f"sfr/{name}", self._at(f"{_MPA}/{name}")

    def votes(self) -> tuple[str, str]:
        """Return where the votes of Galaxy Zoo 2 go and where they come from."""
        return f"galaxyzoo/{VOTES_NAME}", self._at(f"{_VOTES}/{VOTES_NAME}")

    def sample(self) -> tuple[str, str]:
        """Return where the survey's data of the voted galaxies go and where they come from."""
        return f"galaxyzoo/{SAMPLE_NAME}", self._at(f"{_SAMPLE}/{SAMPLE_NAME}")


def field_of(objid: int) -> tuple[int, int, int, int] | None:
    """Return rerun, run, camera column and field that an object's number holds.

    Returns
    -------
    tuple of int or None
        None where the number is none of the last processing, e.g. one of DR7.
    """
    seen = unpack(objid)
    return seen[1:] if seen is not None and seen[:2] == (2, RERUN) else None


def release_name(text: str) -> str:
    """Return a release as it is called here, from ``17``, ``DR17`` or ``dr17``."""
    found = re.fullmatch(r"(?:dr)?(\d{1,2})", text.strip().lower())
    return f"dr{int(found[1])}" if found else text
