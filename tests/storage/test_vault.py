"""Pseudonyms that cannot be guessed back, links that survive, and a vault that only its owner can read."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta

import pytest

from storage.vault import Vault, VaultEntry
from tdt_core.errors import StoreError

ORIGIN = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)


def entry(vault: Vault, **changes: object) -> VaultEntry:
    fields = {
        "pid": vault.pid("", "ID-1"), "key_id": vault.key_id, "identity": {"patient_id": "ID-1", "name": "DOE^JOHN"},
        "origin": ORIGIN, "offset_min": 60, "uids": {vault.uid("1.2.3"): "1.2.3"},
    }  # fmt: skip
    return VaultEntry(**{**fields, **changes})


def test_the_same_key_authority_and_id_give_the_same_pseudonym_and_nothing_else_does(tmp_path):
    vault, again, other = Vault.open(tmp_path / "a"), Vault.open(tmp_path / "a"), Vault.open(tmp_path / "b")
    pid = vault.pid("HOSPITAL", "ID-1")
    assert pid == again.pid("HOSPITAL", "ID-1")
    assert len({pid, other.pid("HOSPITAL", "ID-1"), vault.pid("", "ID-1"), vault.pid("HOSPITAL", "ID-2")}) == 4
    assert vault.pid("AB", "C") != vault.pid("A", "BC")


def test_a_pseudonym_keeps_160_bits_and_is_a_plain_file_name(tmp_path):
    pid = Vault.open(tmp_path / "a").pid("", "ID-1")
    assert len(pid) * 5 == 160
    assert set(pid) <= set("abcdefghijklmnopqrstuvwxyz234567")


def test_uids_become_uids_and_links_survive(tmp_path):
    vault = Vault.open(tmp_path / "a")
    hidden = vault.uid("1.2.840.113619.2.55")
    assert hidden == vault.uid("1.2.840.113619.2.55") != vault.uid("1.2.840.113619.2.56")
    assert hidden.startswith("2.25.")
    assert len(hidden) <= 64
    assert vault.uid("") == ""


def test_only_the_owner_can_read_the_vault(tmp_path):
    vault = Vault.open(tmp_path / "a")
    vault.remember(entry(vault))
    for path in [tmp_path / "a", *(tmp_path / "a").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("name", [".", "patients", "key.json"])
def test_a_vault_that_others_can_read_is_not_opened(name, tmp_path):
    Vault.open(tmp_path / "a")
    os.chmod(tmp_path / "a" / name, 0o755)
    with pytest.raises(StoreError) as error:
        Vault.open(tmp_path / "a")
    assert error.value.kind == "vault.permissions"


def test_the_key_appears_in_no_message_and_no_representation(tmp_path):
    vault = Vault.open(tmp_path / "a")
    key = json.loads((tmp_path / "a" / "key.json").read_text())["key"]
    assert key not in repr(vault)
    assert len(bytes.fromhex(key)) == 32


def test_the_origin_of_time_is_set_once(tmp_path):
    vault = Vault.open(tmp_path / "a")
    vault.remember(entry(vault))
    with pytest.raises(StoreError) as error:
        vault.remember(entry(vault, origin=ORIGIN + timedelta(hours=1)))
    assert error.value.kind == "vault.origin"
    kept = Vault.open(tmp_path / "a").entry(vault.pid("", "ID-1"))
    assert kept is not None
    assert kept.origin == ORIGIN
    assert kept.at(2.5) == ORIGIN + timedelta(hours=2.5)
    assert kept.at(0).utcoffset() == timedelta(hours=1)


def test_later_deliveries_add_uids_and_forget_nothing(tmp_path):
    vault = Vault.open(tmp_path / "a")
    vault.remember(entry(vault))
    vault.remember(entry(vault, identity={"patient_id": "ID-1", "name": ""}, uids={vault.uid("1.2.4"): "1.2.4"}))
    kept = vault.entry(vault.pid("", "ID-1"))
    assert kept is not None
    assert kept.uids == {vault.uid("1.2.3"): "1.2.3", vault.uid("1.2.4"): "1.2.4"}
    assert kept.identity["name"] == "DOE^JOHN"


def test_remembering_the_same_again_writes_nothing(tmp_path):
    vault = Vault.open(tmp_path / "a")
    vault.remember(entry(vault))
    path = next((tmp_path / "a" / "patients").iterdir())
    before = path.stat().st_mtime_ns
    vault.remember(entry(vault))
    assert path.stat().st_mtime_ns == before


def test_a_damaged_vault_says_so(tmp_path):
    vault = Vault.open(tmp_path / "a")
    vault.remember(entry(vault))
    path = next((tmp_path / "a" / "patients").iterdir())
    path.write_text(path.read_text()[:-20])
    with pytest.raises(StoreError) as error:
        vault.entry(vault.pid("", "ID-1"))
    assert error.value.kind == "vault.damaged"
    (tmp_path / "a" / "key.json").write_text("{}")
    with pytest.raises(StoreError) as error:
        Vault.open(tmp_path / "a")
    assert error.value.kind == "vault.key"


def test_a_vault_that_is_not_there_is_made_only_on_demand(tmp_path):
    with pytest.raises(StoreError) as error:
        Vault.open(tmp_path / "a", create=False)
    assert error.value.kind == "vault.missing"
    assert not (tmp_path / "a").exists()


def test_a_vault_in_memory_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vault = Vault.in_memory()
    vault.remember(entry(vault))
    assert vault.entry(vault.pid("", "ID-1")) is not None
    assert list(tmp_path.iterdir()) == []
