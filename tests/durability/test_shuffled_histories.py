"""Late, corrected and retracted data in any order of arrival: the same states as in the order in which they were made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from histories import (
    PIECES,
    Reader,
    chain_of,
    clean,
    draw,
    new_site,
    play,
    shuffled,
    stand_in,
    take,
    write_piece,
)

from flows import chain
from flows.site import Site


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("pieces")
    return {name: write_piece(base / f"piece-{n}", piece) for n, (name, piece) in enumerate(PIECES.items())}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vaults") / "vault"


@pytest.fixture(scope="module")
def read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "read_inbox", Reader())
        yield


def content(site: Site) -> dict[str, bytes]:
    """Bytes of the current chain's states but what holds the time of day."""
    base = site.home.states(site.store.pids()[0])
    files = (p for s in chain_of(site) for p in sorted((base / s).rglob("*")) if p.is_file())
    return {str(p.relative_to(base)): p.read_bytes() for p in files if p.name not in ("provenance.json", "COMMITTED")}


def check(seed: int, folders: dict[str, Path], vault: Path, place: Path) -> None:
    """One history in the order in which it was made, and in another order of arrival.

    In every second one a person signs the first proposal before anything else comes; every fifth is also held against a
    site that was told only what holds in the end.
    """
    rng = np.random.default_rng([20261121, seed])
    steps = draw(rng)
    order, decided = shuffled(steps, rng), seed % 2 == 1
    truth = new_site(place / "in order", vault)
    play(truth, folders, steps, sign_first=decided)
    expected, bytes_ = chain_of(truth), content(truth)
    site = new_site(place / "shuffled", vault)
    believed = play(site, folders, order, sign_first=decided)
    assert chain_of(site) == expected, (steps, order)
    assert content(site) == bytes_, (steps, order)
    pid = site.store.pids()[0]
    for when, states in believed:
        assert [i.id for i in reversed(site.store.as_of(pid, when))] == states
        assert all(site.store.has(s) for s in states)
    assert site.store.verify() == ()
    for name in {s[1] for s in steps}:
        assert take(site, folders, ("deliver", name))
    assert chain_of(site) == expected, "what is sent again changes nothing"
    if seed % 5 == 0 and not decided:
        other = new_site(place / "clean", vault)
        for n, piece in enumerate(clean(steps)):
            chain.run_chain(other, write_piece(place / f"piece-{n}", piece), stand_in)
        assert chain_of(other) == expected, (steps, order)
        assert content(other) == bytes_


@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize("seed", range(2))
def test_any_order_of_arrival_gives_the_states_of_the_order_in_which_the_data_were_made(seed, folders, vault, tmp_path):
    check(seed, folders, vault, tmp_path)
    assert any(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize("seed", range(2, 202))
def test_two_hundred_histories_in_any_order_of_arrival(seed, folders, vault, tmp_path):
    check(seed, folders, vault, tmp_path)
    assert any(tmp_path.iterdir())
