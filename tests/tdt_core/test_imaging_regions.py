"""Region names, codes and sides."""

import pytest

from tdt_core.errors import InputError
from tdt_core.imaging.regions import alias, region_codes, region_for, region_named, side


def test_every_region_is_found_again_by_its_code_and_side() -> None:
    for row in region_codes().values():
        if row.code and row.name != "lesion":
            assert region_for(row.code, row.laterality).name == row.name


def test_laterality_is_a_modifier_and_may_be_given_as_a_code() -> None:
    assert region_for("64033007", "7771000").name == "kidney_left"
    assert region_for("64033007", "24028007").name == "kidney_right"
    assert side("L") == "left"


def test_a_paired_organ_without_a_side_is_refused() -> None:
    with pytest.raises(InputError) as e:
        region_for("64033007")
    assert e.value.kind == "input.laterality"


def test_a_single_organ_with_a_side_is_refused() -> None:
    with pytest.raises(InputError):
        region_for("10200004", "left")


@pytest.mark.parametrize("code", ["52988006", "108369006", "128462008"])
def test_lesion_codes_need_a_tracking_id_and_give_one_region_name(code: str) -> None:
    assert region_for(code, None, "L1").name == "lesion/L1"
    assert region_for(code, None, "L1").tracking_id == "L1"
    with pytest.raises(InputError):
        region_for(code)


@pytest.mark.parametrize("bad", ["", "../evil", "a b", "x" * 80])
def test_a_tracking_id_never_holds_a_path_or_a_space(bad: str) -> None:
    with pytest.raises(InputError):
        region_for("52988006", None, bad)


def test_spellings_lead_to_the_products_own_name() -> None:
    assert alias("Kidney_L") == "kidney_left"
    assert alias("Left  Parotid Gland") == "parotid_left"
    assert alias("lesion/L2") == "lesion/L2"
    assert region_named("Hepar").organ == "liver"


def test_an_unknown_name_or_code_fails_loudly() -> None:
    for call in (lambda: alias("gizzard"), lambda: region_for("1"), lambda: alias("lesion")):
        with pytest.raises(InputError) as e:
            call()
        assert e.value.kind == "input.region"


def test_no_spelling_belongs_to_two_regions() -> None:
    spellings = [a.lower() for row in region_codes().values() for a in (row.name, *row.aliases)]
    assert len(spellings) == len(set(spellings))
