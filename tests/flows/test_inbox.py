"""The inbox: what counts as complete, what has been handled, and that no folder name leaves it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flows import inbox
from flows.settings import Settings, load_settings, make_folders
from tdt_core.errors import InputError

CANARY = "DOE^JANE 1950"


@pytest.fixture
def delivery(site: Settings) -> Path:
    """A folder named after a person, as clinics do, last changed an hour ago."""
    make_folders(site)
    folder = site.inbox / CANARY
    (folder / "cycle-1").mkdir(parents=True)
    (folder / "cycle-1" / "IM1.dcm").write_bytes(b"image")
    (folder / inbox.RECORD).write_text("{}")
    age(folder, 3600)
    return folder


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))


def test_a_settled_folder_with_its_record_is_new_until_it_is_handled(site: Settings, delivery: Path) -> None:
    (found,) = inbox.new_deliveries(site, time.time())
    inbox.remember(site, found.fingerprint, "taken in")
    assert inbox.new_deliveries(site, time.time()) == ()


def test_a_folder_that_grows_by_a_cycle_is_new_again(site: Settings, delivery: Path) -> None:
    (found,) = inbox.new_deliveries(site, time.time())
    inbox.remember(site, found.fingerprint, "refused: input.unit")
    (delivery / "cycle-2").mkdir()
    (delivery / "cycle-2" / "IM1.dcm").write_bytes(b"image")
    age(delivery, 3600)
    assert [d.path for d in inbox.new_deliveries(site, time.time())] == [delivery]


def test_a_folder_still_being_copied_waits(site: Settings, delivery: Path) -> None:
    (delivery / "cycle-1" / "IM2.dcm").write_bytes(b"image")
    assert inbox.new_deliveries(site, time.time()) == ()
    age(delivery, 3600)
    (delivery / "cycle-1" / "IM3.dcm.part").write_bytes(b"half")
    age(delivery, 3600)
    assert inbox.new_deliveries(site, time.time()) == ()


def test_a_folder_without_an_administration_record_is_not_complete(site: Settings, delivery: Path) -> None:
    (delivery / inbox.RECORD).unlink()
    age(delivery, 3600)
    assert [d.complete for d in inbox.look(site, time.time())] == [False]


def test_hidden_folders_and_loose_files_are_left_alone(site: Settings, delivery: Path) -> None:
    (site.inbox / ".staging").mkdir()
    (site.inbox / "note.txt").write_text("x")
    assert [d.path for d in inbox.look(site, time.time())] == [delivery]


def test_the_alias_of_a_folder_names_nobody_and_stays_the_same(site: Settings, delivery: Path) -> None:
    link = inbox.alias(site, delivery)
    assert link.resolve() == delivery.resolve()
    assert CANARY not in str(link)
    assert inbox.alias(site, delivery) == link
    assert link.is_relative_to(site.vault)


def test_what_is_remembered_names_nobody_and_only_the_owner_reads_it(site: Settings, delivery: Path) -> None:
    (found,) = inbox.new_deliveries(site, time.time())
    inbox.remember(site, found.fingerprint, "taken in")
    kept = site.vault / "inbox.json"
    assert CANARY not in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
    assert not any(CANARY in p.name or (p.is_file() and CANARY.encode() in p.read_bytes()) for p in site.home.rglob("*"))


def test_two_sites_give_one_folder_two_aliases(site: Settings, delivery: Path, tmp_path: Path) -> None:
    other = load_settings(home=tmp_path / "other")
    make_folders(other)
    assert inbox.alias(other, delivery).name != inbox.alias(site, delivery).name


def test_a_folder_that_is_not_there_is_refused_without_its_name(site: Settings) -> None:
    make_folders(site)
    with pytest.raises(InputError) as e:
        inbox.alias(site, site.inbox / CANARY)
    assert CANARY not in str(e.value)
