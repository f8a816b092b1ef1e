"""Files of settings as typed sections, and all that is wrong with one, told at once.

Rules between fields can be asked only once each field is right by itself. So what is wrong is taken out, or
put right where it is needed, until they can; what follows from such a field is not told.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from skyfuse.errors import UsageError, together
from skyfuse.strictyaml import DEPTH_LIMIT, short

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Root = TypeVar("Root", bound=BaseModel)
_Place = tuple[int | str, ...]

_ALIKE = 0.75
"""Likeness above which an unknown field is a known one misspelt, as difflib measures it."""

_WORDS = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a number",
    "int_parsing": "a number",
    "int_from_float": "a number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "string_type": "text",
    "list_type": "a list",
}
"""What a field of several types may hold, by the error of each."""


class Fault(NamedTuple):
    """What is wrong between fields that are each right by themselves.

    Attributes
    ----------
    what, remedy : str
        As of a `SkyfuseError`.
    reads : tuple of str
        The fields that it follows from, with dots for those of inner sections; all where it is empty.
    """

    what: str
    remedy: str
    reads: tuple[str, ...] = ()


class Section(BaseModel):
    """A section of a file: unknown fields are faults, as are infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def _faults(self) -> Iterator[Fault]:
        """Yield what is wrong between fields; sections that have such rules write this."""
        yield from ()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        found = tuple(self._faults())
        if found:
            raise _UnsoundError(found)
        return self


class _UnsoundError(ValueError):
    """Carries faults through pydantic."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(fault.what for fault in faults))
        self.faults = faults


def validated(section: type[Root], data: dict[str, Any], what: str, *, where: str) -> Root:
    """Return fields as a typed section.

    Parameters
    ----------
    section : type
        The whole of the file, as a `Section` of sections.
    data : dict
        As `skyfuse.strictyaml.read_yaml` returns it.
    what : str
        What the file is, in one word, e.g. ``recipe``.
    where : str
        Where it comes from, as errors say it.

    Raises
    ------
    UsageError
        A field is unknown, missing, or holds what it may not, or fields contradict each other: all such
        faults at once, see `skyfuse.errors.FaultsError`.
    """
    try:
        return section.model_validate(data)
    except ValidationError as error:
        faults = _Collector(section, what)
        faults.collect(error, copy.deepcopy(data))
        told = [UsageError(f"{where}: {fault}", remedy=remedy) for fault, remedy in faults.told]
        raise together(told) from error


class _Collector:
    """Collects the faults of a file.

    Attributes
    ----------
    told : dict
        Faults with their remedies, in order.
    """

    def __init__(self, section: type[BaseModel], what: str) -> None:
        self.told: dict[tuple[str, str], None] = {}
        self._section = section
        self._what = what
        self._bad: set[_Place] = set()
        self._misspelt: dict[_Place, _Place] = {}
        self._put_in: set[_Place] = set()
        self._taken_out: set[_Place] = set()

    def collect(self, error: ValidationError, data: dict[str, Any]) -> None:
        """Collect the faults of data, which are changed."""
        for turn in range(DEPTH_LIMIT):
            groups = _grouped(error, data)
            if turn == 0:
                self._mark(groups)
            for place, group in groups.items():
                cause = group[0].get("ctx", {}).get("error")
                if isinstance(cause, _UnsoundError):
                    self._tell_unsound(place, cause)
                elif turn == 0 and place not in self._misspelt.values():
                    self.told[self._of_field(place, group)] = None
            for place, group in groups.items():
                if not self._mend(place, group[0]["type"] == "missing", data):
                    return
            try:
                self._section.model_validate(data)
            except ValidationError as further:
                error = further
            else:
                return

    def _mark(self, groups: dict[_Place, list[ErrorDetails]]) -> None:
        """Note which fields are at fault, with those that a misspelt one means."""
        for place, group in groups.items():
            near = self._near(place) if group[0]["type"] == "extra_forbidden" else None
            if near is not None:
                self._misspelt[place] = (*place[:-1], near)
        self._bad = {*groups, *self._misspelt.values()}

    def _near(self, place: _Place) -> str | None:
        known = _fields_at(self._section, place[:-1])
        return next(iter(difflib.get_close_matches(str(place[-1]), known, 1, _ALIKE)), None)

    def _tell_unsound(self, place: _Place, cause: _UnsoundError) -> None:
        prefix = f"field {_name(place)}: " if place else ""
        for fault in cause.faults:
            reads = [_dotted((*place, read)) for read in fault.reads] or [_dotted(place)]
            if not any(_overlap(read, _dotted(bad)) for read in reads for bad in self._bad - {place}):
                self.told[f"{prefix}{fault.what}", fault.remedy] = None

    def _of_field(self, place: _Place, group: list[ErrorDetails]) -> tuple[str, str]:
        item = group[0]
        kind, field, value = item["type"], _name(place) or self._what, short(item["input"])
        if kind == "extra_forbidden":
            meant = self._misspelt.get(place)
            known = ", ".join(_fields_at(self._section, place[:-1]))
            return f"unknown field {field}" + (
                f" ({meant[-1]}?)" if meant else ""
            ), f"the fields there are {known}"
        if kind == "missing":
            return f"field {field} is missing", "add it"
        if kind == "value_error":
            fault, _, remedy = str(item["ctx"]["error"]).partition(": ")
            return f"field {field}: {fault}" if place else fault, remedy or "correct it"
        if item["loc"][-1:] == ("[key]",):
            allowed = item.get("ctx", {}).get("expected", "text")
            return f"field {_name(place[:-1])} names {value}", f"allowed are {allowed}"
        if kind == "literal_error":
            return f"field {field} is {value}", f"allowed are {item['ctx']['expected']}"
        if kind == "model_type":
            inner = ", ".join(_fields_at(self._section, place))
            return f"field {field} is {value}", f"write a section of its own fields: {inner}"
        words = [_WORDS.get(one["type"], "") for one in group]
        if len(group) > 1 and all(words):
            return f"field {field} is {value}", f"allowed are {', '.join(dict.fromkeys(words))}"
        return f"field {field} is {value}", item["msg"][0].lower() + item["msg"][1:]

    def _mend(self, place: _Place, missing: bool, data: dict[str, Any]) -> bool:
        """Take out what is wrong, or put in what is missing; False where there is nothing left to do."""
        above: Any = data
        for number, step in enumerate(place[:-1]):
            if step not in above:
                return True  # It went with another fault.
            above = above[step]
            if isinstance(above, list):
                # An entry that goes would renumber the others: the list goes.
                return self._mend(place[: number + 1], False, data)
        if not place:
            return False
        if not missing and place[-1] not in above:
            return True
        done = self._put_in if missing else self._taken_out
        if place in done:
            return self._mend(place[:-1], False, data)
        done.add(place)
        if missing:
            above[place[-1]] = _stand_in(_type_at(self._section, place))
        else:
            del above[place[-1]]
        return True


def _grouped(error: ValidationError, data: dict[str, Any]) -> dict[_Place, list[ErrorDetails]]:
    """Return errors by their place in the data: each type that a field could have has one of its own."""
    groups: dict[_Place, list[ErrorDetails]] = {}
    for item in error.errors(include_url=False):
        place: _Place = item["loc"] if item["type"] == "missing" else _in_data(item["loc"], data)
        groups.setdefault(place, []).append(item)
    return groups


def _in_data(location: _Place, data: Any) -> _Place:
    for number, step in enumerate(location):
        inside = isinstance(data, dict) and step in data
        if isinstance(data, list) and isinstance(step, int):
            inside = step < len(data)
        if not inside:
            return location[:number]
        data = data[step]
    return location


def _name(place: _Place) -> str:
    """Return a place as errors show it: its names come from the file, long ones or line breaks, too."""
    return short(_dotted(place))[1:-1]


def _dotted(place: _Place) -> str:
    return ".".join(map(str, place))


def _overlap(a: str, b: str) -> bool:
    """Tell whether one of two places lies in the other, or is it."""
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.") or "" in (a, b)


def _fields_at(section: type[BaseModel], place: _Place) -> list[str]:
    """Return the field names of the section at a place in the file."""
    found = _type_at(section, place)
    return next((list(one.model_fields) for one in _choices(found) if _is_section(one)), [])


def _type_at(annotation: Any, place: _Place) -> Any:
    """Return the type of what stands at a place, None where nothing may."""
    for step in place:
        for one in _choices(annotation):
            if _is_section(one) and step in one.model_fields:
                annotation = one.model_fields[step].annotation
                break
            if get_origin(one) in (dict, list):
                annotation = get_args(one)[-1]
                break
        else:
            return None
    return annotation


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _stand_in(annotation: Any) -> Any:
    """Return a value of a type, in place of one that is missing."""
    one = _choices(annotation)[0]
    origin, inner = get_origin(one), get_args(one)
    if origin is dict:
        return {"x": _stand_in(inner[-1])}
    if origin is list:
        return [_stand_in(inner[-1])]
    if origin is Literal:
        return inner[0]
    return {} if _is_section(one) else {str: "x", bool: False}.get(one, 1)


def inner_section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds, None where it holds anything else, such as sections by name."""
    return next((one for one in _choices(annotation) if _is_section(one)), None)
