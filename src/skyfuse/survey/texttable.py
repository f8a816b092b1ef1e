"""Tables written as text, in the forms that archives, spreadsheets and people write."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import yaml

from skyfuse.errors import FileError
from skyfuse.survey.columns import (
    framed,
    has_decimal_comma,
    hidden,
    inferred,
    masks,
    may_be_thousands,
    texts,
    with_units,
)

_SEPARATORS = (",", "\t", ";", "|")
_BLANKS = r"\s+"
# Stands for the blanks between words: ASCII's own unit separator.
_UNIT = "\x1f"
# Rows are parsed in blocks; none may be longer.
_BLOCK = 1 << 24
_SMALL = 1 << 20
_BRACKETED = re.compile(r"^(.+?)\s*\[([^\[\]]*)\]$")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)
_ROW_NUMBER = re.compile(rb'(?m)^"\d+"[^\n]')
_ECSV = b"# %ECSV"
# Types of its columns (APE 6).
_ECSV_KINDS = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64|128)|complex(64|128|256)|string")
# Numbers in rising or falling order that are no row of data by chance.
_GRID = 8


def read_text(content: bytes, path: Path, names: Sequence[str]) -> pd.DataFrame:
    """Read a table from the bytes of a text file.

    The separator is the one of comma, tab, semicolon and bar that the header has most of, else blanks.
    Comment lines begin with ``#`` and stand above the header; where there are any, there may be more further
    down. Lines of units and of dashes below the header, as VizieR writes them, give the units. Of ECSV the
    types and units count. A last field that is empty in every row is none. Where numbers have decimal commas,
    and any of them is clearly one, 1,234 is 1.234.

    Parameters
    ----------
    content : bytes
        UTF-8, UTF-16 with or without its mark, else Latin-1; ECSV is UTF-8 alone.
    path : Path
        For messages.
    names : sequence of str
        Names of the columns of a table without a header.

    Raises
    ------
    FileError
        ``no-header``, or ``bad-values``: a row has more or fewer fields than the header, bytes are no text, a
        quote is never closed, there are several tables, or an ECSV header tells of others.
    """
    body = _utf8(content, path)
    if ".ecsv" in path.name.lower() and not body.startswith(_ECSV):
        raise FileError(
            "it does not begin as ECSV does (# %ECSV)",
            reason="bad-values",
            remedy="get the file again if its beginning is lost, or give it a name that ends in .csv",
            path=path,
        )
    comments, words, separator, end = _head(body, names, path)
    rest = body[end:]
    if comments:
        # Emptied, not removed, so that lines keep their numbers.
        rest = re.sub(rb"(?m)^#[^\n]*", b"", rest)
    if separator == _UNIT:
        _check_alone(rest, path)
    rest, units = _below_header(rest, words, separator, path)
    columns = _parsed(rest, words, separator, path, body.count(b"\n", 0, end))
    kinds: dict[str, str] = {}
    if comments and comments[0].startswith(_ECSV):
        kinds, told, masked = _ecsv(comments)
        if list(kinds) != words:
            raise ValueError(
                f"its ECSV header tells of the columns {', '.join(kinds)}, not {', '.join(words)}"
            )
        units |= told
        if masked:
            shown = hidden(dict(zip(words, columns, strict=True)), masked)
            words, columns = list(shown), list(shown.values())
    elif words and words[0] == "" and columns:
        # An unnamed first column is the row number that pandas writes.
        words, columns = words[1:], columns[1:]
    made = [_column(name, column, kinds.get(name, "")) for name, column in zip(words, columns, strict=True)]
    if not kinds and b"," in rest and (separator != "," or b'"' in rest):
        made = _with_decimal_commas(made, columns)
    bare = [found[1] if (found := _BRACKETED.match(name)) else name for name in words]
    units |= {found[1]: found[2] for name in words if (found := _BRACKETED.match(name))}
    bare = [name or f"Unnamed: {k}" for k, name in enumerate(bare)]
    return with_units(framed(zip(bare, made, strict=True)), units)


class _Head(NamedTuple):
    """The comments above a table, the names of its columns, what parts them, and where its rows begin."""

    comments: list[bytes]
    words: list[str]
    separator: str
    end: int


def _head(body: bytes, names: Sequence[str], path: Path) -> _Head:
    """Find the header of a table, or give one without a header the names of its columns."""
    comments, at = _comments(body)
    separator = None
    if body[at : at + 4].lower() == b"sep=":
        # The first line by which spreadsheets tell it.
        separator, at = body[at + 4 : at + 5].decode(), _line_end(body, at)
    if at >= len(body):
        raise ValueError("it has no header line")
    end = _line_end(body, at)
    header = body[at:end].decode().rstrip("\n")
    if header.lstrip()[:1] in ("|", "\\", "+"):
        raise FileError(
            "it is a table drawn with bars, as IPAC, databases and Markdown have it",
            reason="unknown-kind",
            remedy="save it as CSV, FITS or VOTable",
            path=path,
        )
    separator = separator or _separator(header)
    words = _words(header, separator)
    if separator == _BLANKS and len(words) == 1 and not names:
        # One column: the blanks below it are part of its cells, as in "Gaia DR3 5".
        separator = _UNIT
    if not names and not _are_names(words):
        if comments and not comments[0].startswith(_ECSV):
            # Some tables write their header as the last comment, with a separator of its own.
            named = comments[-1].decode().lstrip("#").strip()
            names = _words(named, _separator(named))
        if len(names) != len(words) or any(map(_number, names)):
            raise FileError(
                f"it has no header: its first line holds the number {next(filter(_number, words))[:40]}",
                reason="no-header",
                remedy="name its columns, or give it one",
                path=path,
            )
    if not names:
        return _Head(comments, words, separator, end)
    if len(names) != len(words):
        raise ValueError(f"{len(names)} columns are named and its rows have {len(words)}")
    return _Head(comments, list(names), separator, at)


def _with_decimal_commas(made: list[Any], columns: list[pa.ChunkedArray]) -> list[Any]:
    """Return columns with 1,5 as a number where any cell that was taken for text is clearly one."""
    # Only what was taken for text may be numbers with commas.
    others = [k for k, column in enumerate(made) if not pd.api.types.is_numeric_dtype(column.dtype)]
    if not any(has_decimal_comma(columns[k]) for k in others):
        return made
    made = list(made)
    for k, column in enumerate(columns):
        if k in others:
            made[k] = inferred(column, decimal_comma=True)
        elif may_be_thousands(column):
            # Where commas are decimal, 1.234 may be a thousand; as text it is told.
            made[k] = texts(column)
    return made


def _column(name: str, column: pa.ChunkedArray, kind: str) -> Any:
    """Return a column as what all of its cells are, or of the kind that an ECSV header tells."""
    if kind == "string":
        return texts(column)
    found = inferred(column, plain=bool(kind))
    if not kind:
        return found
    found = pd.Series(found)
    held = found.dropna()
    number = pd.api.types.is_numeric_dtype(found.dtype) and not pd.api.types.is_bool_dtype(found.dtype)
    whole = pd.api.types.is_integer_dtype(found.dtype)
    if kind.startswith("float") and whole:
        return found.to_numpy(np.float64, na_value=np.nan)
    if kind.startswith(("int", "uint")) and whole and len(held):
        limits = np.iinfo(kind)
        fits = limits.min <= held.min() and held.max() <= limits.max
    else:
        fits = {"f": number, "i": whole, "u": whole, "b": pd.api.types.is_bool_dtype(found.dtype)}.get(
            kind[:1], True
        )
    if len(held) and not fits:
        raise ValueError(f"its ECSV header tells that {name} is {kind}, which not all of its cells are")
    return found.array


def _utf8(content: bytes, path: Path) -> bytes:
    """Return text of any encoding as UTF-8 with Unix line ends."""
    encoding = None
    if content[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        encoding = "utf-32"
    elif content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif b"\0" in content[:2]:
        # Every other byte of UTF-16 is 0 where the text is mostly ASCII.
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        if encoding is not None:
            content = content.decode(encoding).encode()
        else:
            try:
                content.decode("utf-8")
            except UnicodeDecodeError:
                # Between characters of UTF-8, other bytes are no Latin-1 but damage.
                if content.startswith(_ECSV) or not content.decode("utf-8", "ignore").isascii():
                    raise
                content = content.decode("latin-1").encode()
    except UnicodeDecodeError as error:
        raise _no_text(path) from error
    if b"\0" in content:
        raise _no_text(path)
    content = content.removeprefix(b"\xef\xbb\xbf")
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in content else content


def _no_text(path: Path) -> FileError:
    return FileError(
        "it holds bytes that are no text",
        reason="bad-values",
        remedy="save it as UTF-8 text, or give it the name of what it is",
        path=path,
    )


def _line_end(body: bytes, at: int) -> int:
    """Return where the line after the one at `at` begins."""
    return body.find(b"\n", at) + 1 or len(body)


def _comments(body: bytes) -> tuple[list[bytes], int]:
    """Return the comment lines above the header, and where it begins."""
    found, at = [], 0
    while at < len(body):
        end = _line_end(body, at)
        line = body[at:end]
        if line.startswith(b"#"):
            found.append(line)
        elif line.strip():
            break
        at = end
    return found, at


def _separator(line: str) -> str:
    """Return what parts the words of a line: the separator that occurs most, else blanks."""
    line = re.sub(r'"[^"]*"', "", line).strip(" \n")
    best = max(_SEPARATORS, key=line.count)
    return best if best in line.strip() else _BLANKS


def _words(line: str, separator: str) -> list[str]:
    if separator == _BLANKS and '"' not in line:
        return line.split()
    line = line.strip() if separator == _BLANKS else line
    delimiter = " " if separator == _BLANKS else separator
    words = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return [word.strip() for word in words]


def _number(word: str) -> bool:
    return _FLOAT.fullmatch(word) is not None


def _are_names(words: Sequence[str]) -> bool:
    """Return whether a first line names columns: numbers do so as a grid or a count."""
    numbers = [float(word.lower().replace("d", "e")) for word in words if _number(word)]
    if len(numbers) == len(words):
        return words == ["0"]
    rising = sorted(set(numbers))
    if len(numbers) >= _GRID and numbers in (rising, rising[::-1]):
        return True
    return numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1))) and numbers != [1]


def _below_header(rest: bytes, words: list[str], separator: str, path: Path) -> tuple[bytes, dict[str, str]]:
    """Empty the lines of units and dashes below a header, and return the units."""

    def dashes(line: str) -> bool:
        found = _words(line, separator)
        return all(set(word) == {"-"} for word in found) and any(len(word) >= 3 for word in found)

    first = _line_end(rest, 0)
    second = _line_end(rest, first)
    lines = rest[:first].decode(), rest[first:second].decode()
    units: dict[str, str] = {}
    if dashes(lines[0]):
        rest = b"\n" + rest[first:]
    elif dashes(lines[1]):
        # Tabs at its ends are empty fields.
        units = dict(zip(words, _words(lines[0].rstrip("\n"), separator), strict=False))
        rest = b"\n\n" + rest[second:]
    else:
        return rest, {}
    between = b"[ \t]+" if separator == _BLANKS else re.escape(separator.encode())
    if re.search(rb"(?m)^(?=.*---)-+(%s-+)*[ \t]*$" % between, rest):
        raise FileError(
            "it holds several tables, one below the other",
            reason="bad-values",
            remedy="save each as a file of its own",
            path=path,
        )
    return rest, {name: unit for name, unit in units.items() if unit.strip()}


def _parsed(rest: bytes, words: list[str], separator: str, path: Path, above: int) -> list[pa.ChunkedArray]:
    """Return the columns of the rows as text; a last field that is always empty leaves `words` and them."""
    given = rest
    if separator == _BLANKS and b'"' not in rest:
        rest, separator = _single_blanks(rest), " "
    elif separator == _BLANKS and not (b"  " in rest or b"\t" in rest or _has_margins(rest)):
        separator = " "
    else:
        before = b'"' in rest and any(blank in rest for blank in (b' "', b'\t"'))
        if separator == _BLANKS or (before and re.search(re.escape(separator).encode() + rb'[ \t]+"', rest)):
            rest, separator = _rewritten(rest, separator)
    if not rest or rest.isspace():
        return [pa.chunked_array([pa.array([], pa.string())]) for _ in words]
    width = len(words)
    table, bad = _rows(rest, separator, width)
    if bad is not None and bad.text.isspace():
        rest = re.sub(rb"(?m)^ +$", b"", rest)
        table, bad = _rows(rest, separator, width)
    if bad is not None and bad.text.endswith(separator) and bad.actual_columns == width + 1:
        words.append("")
        table, bad = _rows(rest, separator, width + 1)
    elif bad is not None and words[-1] == "" and bad.actual_columns == width - 1:
        words.pop()
        table, bad = _rows(rest, separator, width - 1)
    elif bad is not None and bad.actual_columns == width + 1:
        # R leaves the names of rows without a header.
        named, worse = _rows(rest, separator, width + 1)
        if named is not None and worse is None and named.num_rows == len(_ROW_NUMBER.findall(given)):
            table, bad = named.remove_column(0), None
    if table is None or bad is not None:
        raise _ragged(bad, rest, path, above, len(words))
    columns = list(table.columns)
    _check_quotes(rest, columns, path)
    if (
        words[-1] == ""
        and len(words) > 1
        and not any(word.strip() for word in columns[-1].unique().to_pylist())
    ):
        words.pop()
        columns.pop()
    return columns


def _rows(rest: bytes, separator: str, width: int) -> tuple[pa.Table | None, Any]:
    """Return the rows, or the first that has not `width` fields."""
    names = [str(k) for k in range(width)]

    def attempt(*, threads: bool) -> tuple[pa.Table | None, Any]:
        bad: list[Any] = []

        def note(row: Any) -> str:
            bad.append(row)
            return "error"

        try:
            table = pacsv.read_csv(
                pa.BufferReader(rest),
                pacsv.ReadOptions(
                    column_names=names, block_size=min(_BLOCK, len(rest) + 1), use_threads=threads
                ),
                pacsv.ParseOptions(
                    delimiter=separator, newlines_in_values=b'"' in rest, invalid_row_handler=note
                ),
                pacsv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    strings_can_be_null=False,
                    check_utf8=False,
                ),
            )
        except pa.ArrowInvalid:
            if not bad:
                raise
            return None, bad[0]
        return table, None

    # A small table is parsed before the threads have started.
    table, bad = attempt(threads=len(rest) > _SMALL)
    # Of threads the first to fail need not be that of the first row.
    return (table, None) if bad is None else attempt(threads=False)


def _check_alone(rest: bytes, path: Path) -> None:
    """Refuse rows of several fields below a header of one; of decimal commas each has one at most."""
    rows = len(re.findall(rb"(?m)^[ \t]*[^ \t\n]", rest))
    if b'"' not in rest and rows and any(rest.count(one.encode()) >= 2 * rows for one in _SEPARATORS):
        raise FileError(
            "its header has one field and its rows have more",
            reason="bad-values",
            remedy="give it a header that names all columns, or quote fields that hold the separator",
            path=path,
        )


def _has_margins(rest: bytes) -> bool:
    """Return whether blanks stand before the first word of a line or after the last."""
    return rest.startswith(b" ") or rest.endswith(b" ") or b"\n " in rest or b" \n" in rest


def _single_blanks(rest: bytes) -> bytes:
    """Return rows with one blank between words and none around them."""
    rest = rest.replace(b"\t", b" ")
    while b"  " in rest:
        rest = rest.replace(b"  ", b" ")
    return rest.replace(b"\n ", b"\n").replace(b" \n", b"\n").strip(b" ")


def _rewritten(rest: bytes, separator: str) -> tuple[bytes, str]:
    """Return rows in which blanks stand before quotes as rows in which none do."""
    delimiter = " " if separator == _BLANKS else separator
    text = rest.decode()
    if separator == _BLANKS:
        text = re.sub(r"(?m)^[ \t]+|[ \t]+$", "", text).replace("\t", " ")
    out = io.StringIO()
    writer = csv.writer(out, delimiter=_UNIT, lineterminator="\n")
    for row in csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True):
        if len(row) > 1 or any(row):
            writer.writerow(row)
        else:
            out.write("\n")
    return out.getvalue().encode(), _UNIT


def _ragged(bad: Any, rest: bytes, path: Path, above: int, width: int) -> FileError:
    found = re.search(rb"(?m)^" + re.escape(bad.text.encode()) + rb"$", rest)
    line = above + 1 + rest.count(b"\n", 0, found.start() if found else 0)
    return FileError(
        f"line {line} has {bad.actual_columns} fields and the header {width}",
        reason="bad-values",
        remedy="quote fields that hold the separator, and give every row all fields",
        path=path,
    )


def _check_quotes(rest: bytes, columns: list[pa.ChunkedArray], path: Path) -> None:
    """Refuse a quote that opens and is not closed: it would swallow all rows below it."""
    if rest.count(b'"') % 2 == 0:
        return
    for column in columns:
        for cell in column.to_pylist():
            if "\n" in cell:
                raise FileError(
                    f"a quote opens before {cell[:20].splitlines()[0]!r} and does not close in its row",
                    reason="bad-values",
                    remedy="close it, or double quotes that are part of a text",
                    path=path,
                )


class _Plain(yaml.SafeLoader):
    """Reads YAML of trees alone: an alias may stand for more than memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias")
        return super().compose_node(parent, index)


def _ecsv(comments: list[bytes]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return types and units by column of an ECSV header (Taylor et al., APE 6), and the columns of masks."""
    lines = [line.decode()[1:].removeprefix(" ") for line in comments]
    # What stands beside the types are notes, and how astropy makes objects of columns.
    begin = next((k for k, line in enumerate(lines) if line.startswith("datatype:")), len(lines))
    end = next((k for k in range(begin + 1, len(lines)) if lines[k][:1] not in (" ", "-", "\n")), len(lines))
    try:
        told = yaml.load("".join(lines[begin:end]), _Plain)["datatype"]  # noqa: S506 (does less than SafeLoader)
        kinds = {str(entry["name"]): str(entry["datatype"]) for entry in told}
        units = {str(entry["name"]): str(entry["unit"]) for entry in told if "unit" in entry}
    except (yaml.YAMLError, RecursionError, TypeError, KeyError) as error:
        raise ValueError(f"its ECSV header cannot be read: {str(error).splitlines()[0]}") from error
    if len(kinds) < len(told):
        raise ValueError("its ECSV header tells of one column twice")
    unknown = next((kind for kind in kinds.values() if _ECSV_KINDS.fullmatch(kind) is None), None)
    if unknown is not None:
        raise ValueError(f"its ECSV header tells of the type {unknown}, which ECSV does not know")
    return kinds, units, masks("".join(lines))
