"""Names in the settings are held against what there is before any work is done."""

from pathlib import Path

import pytest

from flows.plan import engine_of, estimator_of
from flows.settings import load_settings
from flows.site import open_site
from tdt_core.errors import SettingsError


@pytest.mark.parametrize(("of", "setting"), [(estimator_of, "estimator"), (engine_of, "engine")])
def test_a_name_that_there_is_not_is_refused_with_those_that_there_are(tmp_path: Path, of, setting: str) -> None:
    default, wrong = (open_site(load_settings(home=tmp_path, **given)) for given in ({}, {setting: "magic"}))
    assert of(default) in ("map", "kernel")
    with pytest.raises(SettingsError, match=f"no .*{setting} named 'magic'") as raised:
        of(wrong)
    assert of(default) in str(raised.value)
    assert f"TDT_{setting.upper()}" in str(raised.value)
