"""Late, corrected and retracted data with states that are really fitted: the same ids, numbers and bytes in any order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from histories import PIECES, Step, chain_of, in_order, play, shuffled, write_piece

from flows.chain import call_directly, replay
from flows.settings import load_settings
from flows.site import Site, open_site

CHOSEN: list[list[Step]] = [
    [("deliver", "base"), ("deliver", "late scan"), ("deliver", "activity corrected")],
    [("deliver", "base"), ("deliver", "late scan"), ("deliver", "regions drawn again"), ("retract", "late scan")],
    [("deliver", "base"), ("deliver", "second cycle"), ("deliver", "lab corrected"), ("deliver", "late samples")],
]


def fitted(place: Path, vault: Path) -> Site:
    return open_site(load_settings(home=place / "home", vault=vault, n_draws=50, model="sum_of_exponentials"))


@pytest.mark.long
@pytest.mark.parametrize("which", range(len(CHOSEN)))
def test_fitted_states_do_not_depend_on_the_order_of_arrival(which, tmp_path):
    steps = in_order(CHOSEN[which])
    folders = {n: write_piece(tmp_path / n.replace(" ", "-"), PIECES[n]) for what, n in steps if what == "deliver"}
    truth, site = (fitted(tmp_path / name, tmp_path / "vault") for name in ("in order", "shuffled"))
    play(truth, folders, steps, call_directly)
    play(site, folders, shuffled(steps, np.random.default_rng(which)), call_directly)
    assert chain_of(site) == chain_of(truth)
    for state_id in chain_of(truth):
        one, other = truth.store.load(state_id), site.store.load(state_id)
        np.testing.assert_array_equal(one.posterior.draws, other.posterior.draws)
        np.testing.assert_array_equal(one.ledger.dose_gy, other.ledger.dose_gy)
        files = ("state.json", "manifest.json")
        assert [(truth.store.path(state_id) / f).read_bytes() for f in files] == [
            (site.store.path(state_id) / f).read_bytes() for f in files
        ]
    assert replay(site, chain_of(site)[-1]) == []
    assert site.store.verify() == ()
