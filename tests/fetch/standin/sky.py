"""The archives in one handler: SkyServer, the Science Archive Server, Gaia, MPA-JHU and Galaxy Zoo.

They serve a mock sky. The SQL of both services runs in SQLite: SkyServer's after the rules of the procedure
``spExecuteSQL`` of the survey's own database, with its cap on rows, its limit per minute and its errors; the
Gaia archive's as a table access service of the IVOA, with jobs, uploads, and a cap that cuts without a word.

    python -m tests.fetch.standin.sky SKY --port 8017

serves what ``skyfuse mock SKY`` wrote, or writes it first.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import hashlib
import io
import json
import re
import sqlite3
import time
from collections import deque
from email.parser import BytesParser
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
from astropy.io import fits, votable

from skyfuse.mock import write_mock
from skyfuse.mock.sky import Field, layout
from tests.fetch.standin.server import Reply, Request, options, run

BANDS = "ugriz"
PRODUCTS = ("frames", "spectra", "sfr", "gaia", "zoo", "catalogue")
STRIPE = 10
OUTSIDE = "../../../../../../../outside"
"""Version of the pipeline that a hostile service names."""
_SELECT = re.compile(r"select\s+(distinct\s+)?top\s+(\d+)\s", re.IGNORECASE)


def make_sky(folder: Path, *, fields: int = 1, objects: int = 150, seed: int = 3) -> Path:
    """Write the mock sky that is served: galaxies, quasars and stars as 4 to 3 to 3."""
    shares = (0.4, 0.3, 0.3)
    write_mock(folder, fields=fields, objects=objects, seed=seed, products=PRODUCTS, shares=shares, workers=1)
    return folder


class Sky:
    """Handler of every archive over one mock sky.

    Parameters
    ----------
    folder : path
        What `make_sky` wrote.
    cap : int
        Rows that SkyServer gives at most; a query without TOP is cut there, one with a larger TOP refused.
    silent : bool
        Cut a larger TOP, too, without a word.
    gaia_cap : int
        Rows that Gaia's service gives at most.
    a_minute : int
        Queries that SkyServer takes in a minute.
    hostile : bool
        The pipeline version of the first spectra leads out of the folder.
    polls : int
        How often a job of Gaia is seen at work before it is done.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cap: int = 500_000,
        silent: bool = False,
        gaia_cap: int = 3_000_000,
        a_minute: int = 10_000,
        hostile: bool = False,
        polls: int = 1,
    ) -> None:
        self.folder, self.cap, self.silent, self.gaia_cap = folder, cap, silent, gaia_cap
        self.a_minute, self.polls = a_minute, polls
        self.queries: list[str] = []
        self._asked: deque[float] = deque()
        self._jobs: dict[str, dict[str, Any]] = {}
        self.database = sqlite3.connect(":memory:", check_same_thread=False)
        _functions(self.database)
        self._load(hostile)

    # ------------------------------------------------------------------------------------------------ tables

    def _load(self, hostile: bool) -> None:
        tables, self.truth = _tables(self.folder)
        for schema in ("gaiadr3", "tap_upload"):
            self.database.execute(f"ATTACH ':memory:' AS {schema}")
        for name, table in tables.items():
            self._table(name, table)
        if hostile:
            self.database.execute("UPDATE SpecObjAll SET run2d = ? WHERE fiberID < 3", (OUTSIDE,))

    def _table(self, name: str, table: pd.DataFrame) -> None:
        # The survey's database compares text whatever its case; identifiers are exact.
        kinds = {"i": "INTEGER", "u": "INTEGER", "f": "REAL"}
        columns = [f'"{n}" {kinds.get(table[n].dtype.kind, "TEXT COLLATE NOCASE")}' for n in table]
        self.database.execute(f"DROP TABLE IF EXISTS {name}")
        self.database.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
        marks = ", ".join("?" * len(columns))
        rows = table.astype(object).where(table.notna(), None).itertuples(index=False, name=None)
        self.database.executemany(" ".join(["INSERT INTO", name, "VALUES", f"({marks})"]), rows)

    # -------------------------------------------------------------------------------------------------- ways

    def __call__(self, request: Request) -> Reply | None:
        """Answer one request."""
        path = request.path
        if path.lower().endswith("/sqlsearch") or "/tools/search/x_" in path:
            fields = request.form() if request.method == "POST" else request.query
            return self.sql(fields.get("cmd", ""))
        if path.lower().endswith("/imgcutout/getjpeg"):
            return self.cutout(request.query)
        if path.startswith("/tap-server/tap/"):
            return self.tap(request, path.removeprefix("/tap-server/tap/"))
        if path == "/data-server/data":
            return self.datalink(request.form() if request.method == "POST" else request.query)
        if path.startswith("/sas/"):
            return self.file(path)
        if path.startswith("/SDSS/DR7/Data/"):
            return self.packed(self.folder / "sfr" / Path(path).name.removesuffix(".gz"))
        if path == "/gz2_hart16.csv.gz":
            return self.packed(self.folder / "zoo" / "votes.csv")
        if path == "/galaxy-zoo-2/gz2sample.csv.gz":
            return Reply(gzip.compress(self.sample().encode()))
        return None

    def file(self, path: str) -> Reply | None:
        """Serve a spectrum or a frame from where the Science Archive Server has it."""
        name = Path(path).name
        if name.startswith("spec-"):
            found = next(iter(self.folder.glob(f"spectro/redux/*/spectra/lite/*/{name}")), None)
            run2d = path.split("/redux/")[1].split("/")[0]
            # The mock leaves out the table of emission lines that ends every file of the archive.
            good = found is not None and run2d in found.parts
            return Reply(found.read_bytes()) if good else None
        found = next(iter(self.folder.glob(f"photoObj/frames/301/*/*/{name.removesuffix('.bz2')}")), None)
        return None if found is None else Reply(_bzipped(found))

    def packed(self, path: Path) -> Reply | None:
        """Serve a file of the mock sky as gzip."""
        return Reply(gzip.compress(path.read_bytes(), mtime=0)) if path.is_file() else None

    def sample(self) -> str:
        """Return the survey's data of the galaxies of Galaxy Zoo, as CSV."""
        galaxies = self.truth[self.truth["kind"] == "GALAXY"]
        table = galaxies[["objid", "ra", "dec", "petro_r90"]]
        return str(table.set_axis(["OBJID", "RA", "DEC", "PETROR90_R"], axis=1).to_csv(index=False))

    def cutout(self, query: dict[str, str]) -> Reply:
        """Serve the colour image of the nearest galaxy."""
        galaxies = self.truth[self.truth["kind"] == "GALAXY"]
        ra, dec = float(query["ra"]), float(query["dec"])
        nearest = np.argmin(np.hypot(galaxies["ra"] - ra, galaxies["dec"] - dec))
        return Reply(
            self.folder / "zoo" / "images" / f"{galaxies['objid'].iloc[nearest]}.jpg", type="image/jpeg"
        )

    # ------------------------------------------------------------------------------------------------- SQL

    def sql(self, command: str) -> Reply:
        """Execute one query as ``spExecuteSQL`` does."""
        self.queries.append(command)
        now = time.monotonic()
        while self._asked and self._asked[0] < now - 60:
            self._asked.popleft()
        if len(self._asked) >= self.a_minute:
            return _error(
                f"ERROR: Maximum {self.a_minute} queries allowed per minute. Rejected query: {command}"
            )
        self._asked.append(now)
        query = " ".join(command.replace(";", "#").split())
        if not query.lower().startswith("select "):
            return _error(f"error: must be a select statement: {query}")
        top = _SELECT.match(query)
        if top is None:
            query = re.sub(r"^select (distinct )?", rf"select \1top {self.cap} ", query, flags=re.IGNORECASE)
        elif int(top[2]) > self.cap and not self.silent:
            return _error(f"error: limit is  top {self.cap} {query}")
        # A second SELECT that is no subquery is spoilt.
        query = query[:7] + re.sub(r"(?<!\()(?<!\( )\bselect ", "#elect ", query[7:], flags=re.IGNORECASE)
        try:
            names, rows = self._execute(query, self.cap)
        except sqlite3.Error as error:
            told = {"Error Code": 400, "Error Type": "BadRequest", "Error Message": str(error)}
            return Reply(json.dumps(told).encode(), 400, type="application/json")
        return Reply(b"#Table1\n" + _csv(names, rows), type="text/csv")

    def _execute(self, query: str, cap: int) -> tuple[list[str], list[tuple[Any, ...]]]:
        # Texts are joined by a plus there, which adds numbers here.
        query = query.replace("dbo.", "").replace("' + CAST", "' || CAST")
        cursor = self.database.execute(_limits(query))
        return [column[0] for column in cursor.description], cursor.fetchmany(cap)

    # ------------------------------------------------------------------------------------------------ Gaia

    def tap(self, request: Request, path: str) -> Reply | None:
        """Serve the table access protocol: jobs with uploads, or answers at once."""
        if path in ("async", "sync"):
            form, uploads = _form(request)
            if path == "sync":
                return self._adql(form, uploads, 2000)
            number = str(len(self._jobs) + 1)
            self._jobs[number] = {"form": form, "uploads": uploads, "polls": self.polls}
            return Reply(status=303, headers={"Location": f"/tap-server/tap/async/{number}"})
        _, number, *rest = path.split("/")
        job = self._jobs.get(number)
        if job is None:
            return None
        if not rest:
            return Reply(b"<uws:job/>", type="text/xml")
        if "reply" not in job:
            job["reply"] = self._adql(job["form"], job["uploads"], self.gaia_cap)
        if rest == ["phase"]:
            job["polls"] -= 1
            done = "COMPLETED" if job["reply"].status == 200 else "ERROR"
            return Reply((done if job["polls"] < 0 else "EXECUTING").encode(), type="text/plain")
        if rest == ["error"] and job["reply"].status != 200:
            return Reply(job["reply"].body, type="text/xml")
        return Reply(job["reply"].body, type="text/csv") if rest == ["results", "result"] else None

    def _adql(self, form: dict[str, str], uploads: dict[str, bytes], cap: int) -> Reply:
        self.queries.append(form.get("QUERY", ""))
        cap = min(cap, int(form.get("MAXREC", cap)))
        try:
            for part in filter(None, form.get("UPLOAD", "").split(";")):
                name, _, source = part.partition(",")
                table = votable.parse_single_table(io.BytesIO(uploads[source.removeprefix("param:")]))
                self._table(f"tap_upload.{name}", table.to_table().to_pandas())
            names, rows = self._execute(" ".join(form["QUERY"].split()), cap)
        except (sqlite3.Error, KeyError) as error:
            body = f'<VOTABLE><RESOURCE type="results"><INFO name="QUERY_STATUS" value="ERROR">{error}</INFO>'
            return Reply(f"{body}</RESOURCE></VOTABLE>".encode(), 400, type="text/xml")
        return Reply(_csv(names, rows), type="text/csv")

    def prepare_spectra(self) -> None:
        """Make the coefficients of Gaia's spectra now: GaiaXPy writes on standard output as it is loaded."""
        _coefficients(self.folder)

    def datalink(self, form: dict[str, str]) -> Reply:
        """Serve continuous BP and RP spectra of many sources as one table."""
        wanted = {int(word.split()[-1]) for word in form["ID"].split(",")}
        if len(wanted) > 5000:
            return Reply(b"Number of source IDs exceeds the maximum of 5000", 500, type="text/plain")
        names, rows = _coefficients(self.folder)
        return Reply(_csv(names, [row for row in rows if row[0] in wanted]), type="text/csv")


@lru_cache(maxsize=4)
def _tables(folder: Path) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Return the tables of both services, and the truth that they are made of."""
    truth = pd.read_parquet(folder / "truth.parquet")
    catalogue = pd.read_csv(folder / "catalogue.csv", index_col="objid").loc[truth["objid"]]
    fields = layout(json.loads((folder / "truth.json").read_text())["parameters"]["fields"])
    s = pd.DataFrame([_spectrum(path) for path in sorted(folder.glob("spectro/redux/*/spectra/lite/*/*"))])
    where = {(row.plate, row.fiberid): n for n, row in enumerate(truth.itertuples())}
    at = [where.get(key, -1) for key in zip(s["plate"], s["fiberID"], strict=True)]
    homes = [_home(fields, ra, dec) for ra, dec in zip(truth["ra"], truth["dec"], strict=True)]
    objid = [
        (2 << 59) + (301 << 48) + (f.run << 32) + (f.camcol << 29) + (f.number << 16) + n + 1
        for n, f in enumerate(homes)
    ]
    s["bestObjID"] = [objid[n] if n >= 0 else 0 for n in at]
    s["sciencePrimary"] = [int(n >= 0) for n in at]
    photo = pd.DataFrame({"objID": objid, "ra": truth["ra"], "dec": truth["dec"]})
    for band in BANDS:
        photo[f"modelMag_{band}"] = catalogue[band].to_numpy()
        photo[f"modelMagErr_{band}"] = catalogue[f"err_{band}"].to_numpy()
    both = s[["specObjID", "bestObjID"]].merge(photo, left_on="bestObjID", right_on="objID")
    galaxies = truth[truth["kind"] == "GALAXY"]
    sources = galaxies[["source_id", "ra", "dec"]].assign(
        phot_g_mean_mag=galaxies["mag_g"],
        phot_bp_mean_mag=galaxies["mag_g"],
        phot_rp_mean_mag=galaxies["mag_r"],
        has_xp_continuous="true",
        **dict.fromkeys(("parallax", "parallax_error", "pmra", "pmdec", "ruwe")),
    )
    tables = {
        "SpecObjAll": s,
        "SpecPhotoAll": both.drop(columns="bestObjID"),
        "PhotoObjAll": photo,
        "PlateX": s[["plate", "mjd", "run2d"]].drop_duplicates().assign(plateID=lambda t: t["plate"] * 2**50),
        "Frame": pd.DataFrame([_frame(f, zoom) for f in fields for zoom in (0, 10)]),
        "gaiadr3.gaia_source": sources,
        "gaiadr3.galaxy_candidates": galaxies[["source_id"]].assign(redshift_ugc=galaxies["z"]),
    }
    return tables, truth


def _spectrum(path: Path) -> dict[str, Any]:
    record = fits.getdata(path, 2)[0]
    ra, dec = np.radians(float(record["PLUG_RA"])), np.radians(float(record["PLUG_DEC"]))
    return {
        "specObjID": int(record["SPECOBJID"]),
        "plate": int(record["PLATE"]),
        "mjd": int(record["MJD"]),
        "fiberID": int(record["FIBERID"]),
        "run2d": str(record["RUN2D"]),
        "survey": "sdss",
        "ra": float(record["PLUG_RA"]),
        "dec": float(record["PLUG_DEC"]),
        "cx": np.cos(ra) * np.cos(dec),
        "cy": np.sin(ra) * np.cos(dec),
        "cz": np.sin(dec),
        "class": str(record["CLASS"]).strip(),
        "subClass": str(record["SUBCLASS"]).strip(),
        "z": float(record["Z"]),
        "zErr": float(record["Z_ERR"]),
        "zWarning": int(record["ZWARNING"]),
        "snMedian": float(record["SN_MEDIAN_ALL"]),
    }


def _home(fields: list[Field], ra: float, dec: float) -> Field:
    return min(fields, key=lambda f: (f.ra - ra) ** 2 + (f.dec - dec) ** 2)


def _frame(where: Field, zoom: int) -> dict[str, Any]:
    ra, dec = np.radians(where.ra), np.radians(where.dec)
    # The mock's scans run along circles of declination, near the equator as good as great circles.
    return {
        "fieldID": (2 << 59) + (301 << 48) + (where.run << 32) + (where.camcol << 29) + (where.number << 16),
        "zoom": zoom,
        "run": where.run,
        "rerun": 301,
        "camcol": where.camcol,
        "field": where.number,
        "stripe": STRIPE,
        "node": 95.0,
        "incl": 0.0,
        "mu": where.ra,
        "nu": where.dec,
        "ra": where.ra,
        "dec": where.dec,
        "cx": np.cos(ra) * np.cos(dec),
        "cy": np.sin(ra) * np.cos(dec),
        "cz": np.sin(dec),
    }


@lru_cache(maxsize=10)
def _bzipped(path: Path) -> bytes:
    return bz2.compress(path.read_bytes(), 1)


def _limits(query: str) -> str:
    """Turn every ``SELECT TOP n …`` into ``SELECT … LIMIT n`` at the end of its own brackets."""
    found = list(_SELECT.finditer(query))
    for match in reversed(found):
        depth, end = 0, len(query)
        for at in range(match.end(), len(query)):
            depth += {"(": 1, ")": -1}.get(query[at], 0)
            if depth < 0:
                end = at
                break
        inner = query[match.end() : end]
        query = f"{query[: match.start()]}SELECT {match[1] or ''}{inner} LIMIT {match[2]}{query[end:]}"
    return query


def _functions(database: sqlite3.Connection) -> None:
    def md5(_: str, value: str) -> bytes:
        return hashlib.md5(str(value).encode(), usedforsecurity=False).digest()

    def separation(one: str, two: str) -> float:
        ra1, dec1, ra2, dec2 = np.radians([float(word) for word in f"{one} {two}".split()])
        cross = np.sin((dec2 - dec1) / 2) ** 2 + np.cos(dec1) * np.cos(dec2) * np.sin((ra2 - ra1) / 2) ** 2
        return float(np.degrees(2 * np.arcsin(min(1.0, np.sqrt(cross)))))

    def contains(point: str, circle: str) -> int:
        ra, dec, radius = circle.split()
        return int(separation(point, f"{ra} {dec}") <= float(radius))

    def join(*words: Any) -> str:
        return " ".join(str(word) for word in words if word != "ICRS")

    for name, count, function in (
        ("HASHBYTES", 2, md5),
        ("VARCHAR", 1, lambda _: ""),
        ("CONVERT", 3, lambda _, value, style: value.hex().upper()),
        ("POINT", -1, join),
        ("CIRCLE", -1, join),
        ("CONTAINS", 2, contains),
        ("DISTANCE", 2, separation),
    ):
        database.create_function(name, count, function, deterministic=True)


def _csv(names: list[str], rows: list[tuple[Any, ...]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["null" if value is None else value for value in row] for row in rows])
    return out.getvalue().encode()


def _error(message: str) -> Reply:
    return Reply(b"#Table1\n" + _csv(["error_message"], [(message,)]), type="text/csv")


def _form(request: Request) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return the fields and the uploads of a form of either kind."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/"):
        return dict(parse_qsl(request.body.decode(), keep_blank_values=True)) or request.query, {}
    message = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + request.body)
    form, uploads = {}, {}
    for part in message.get_payload():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if part.get_filename() is None:
            form[name] = content.decode()
        else:
            uploads[name] = content
    return form, uploads


@lru_cache(maxsize=4)
def _coefficients(folder: Path) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return coefficients of GaiaXPy's bases whose spectra are those of the mock, as nearly as can be."""
    from skyfuse.survey.gaia import _design_matrix

    table = fits.getdata(folder / "gaia" / "xp_sampled.fits", 1)
    names = ["source_id", "solution_id"]
    columns: list[list[str]] = []
    for band in ("bp", "rp"):
        solve = np.linalg.pinv(_design_matrix(band), rcond=1e-6)
        values, errors, correlations = [], [], []
        below = np.tril_indices(len(solve), -1)
        for flux, sigma in zip(table[f"{band}_flux"], table[f"{band}_flux_error"], strict=True):
            covariance = (solve * sigma**2) @ solve.T
            error = np.sqrt(np.diag(covariance))
            values.append(_vector(solve @ flux))
            errors.append(_vector(error))
            correlations.append(_vector((covariance / np.outer(error, error))[below]))
        names += [
            f"{band}_coefficients",
            f"{band}_coefficient_errors",
            f"{band}_coefficient_correlations",
        ]
        columns += [values, errors, correlations]
    ids = [(int(number), 4545469030156206080) for number in table["source_id"]]
    return names, [(*key, *row) for key, *row in zip(ids, *columns, strict=True)]


def _vector(values: Any) -> str:
    return "(" + ", ".join(f"{value:.17g}" for value in values) + ")"


def main() -> None:
    """Serve a mock sky until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sky", type=Path, help="folder of the mock sky; written if it is not there")
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--fields", type=int, default=1)
    parser.add_argument("--cap", type=int, default=500_000, help="rows that SkyServer gives at most")
    parser.add_argument("--hostile", action="store_true", help="some names lead out of the folder")
    options(parser)
    arguments = parser.parse_args()
    if not (arguments.sky / "truth.parquet").exists():
        make_sky(arguments.sky, fields=arguments.fields, objects=arguments.objects)
    run(Sky(arguments.sky, cap=arguments.cap, hostile=arguments.hostile), arguments)


if __name__ == "__main__":
    main()
