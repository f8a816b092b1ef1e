import pytest

from skyfuse.survey.sdss.objectid import field_number


def packed(version, rerun, run, camcol, first, field, number):
    value = 0
    for part, bits in (
        (version, 4),
        (rerun, 11),
        (run, 16),
        (camcol, 3),
        (first, 1),
        (field, 12),
        (number, 16),
    ):
        value = (value << bits) + part
    return str(value)


def test_objects_of_one_field_share_a_number_and_others_do_not():
    one = packed(1, 40, 752, 3, 0, 120, 146)

    assert field_number(one) == field_number(packed(1, 40, 752, 3, 0, 120, 147)) >= 0
    assert field_number(one) == field_number(packed(2, 301, 752, 3, 0, 120, 9))
    others = {packed(1, 40, r, c, 0, f, 1) for r in (752, 756) for c in (1, 2) for f in (8, 9)}
    assert len({field_number(name) for name in others}) == 8


@pytest.mark.parametrize(
    ("name", "run", "column", "field"),
    # As HDU 2 of spec-3586-55181-0003, spec-3655-55240-0446 and spec-6001-56072-0858 has them.
    [
        ("1237663783664681329", 4263, 3, 179),
        ("1237663788486033993", 4264, 4, 19),
        ("1237667912212873374", 5224, 5, 345),
    ],
)
def test_objects_of_real_spectra_are_found_in_their_fields(name, run, column, field):
    assert field_number(name) == (run * 8 + column) << 12 | field


@pytest.mark.parametrize("name", ["106147", "galaxy", "", "4.6e18", "９", packed(1, 40, 752, 7, 0, 120, 1)])
def test_other_names_tell_no_field(name):
    assert field_number(name) == -1
