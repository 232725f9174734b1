"""TDT_HOME: owner-only, versioned, brought forward one way, and apart from what holds identities."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.home import loose_permissions, make_outside, open_home, outside_paths
from tdt_core.errors import StoreError

ROOT = Path(__file__).parents[2]


def test_a_new_home_is_for_its_owner_only_and_has_a_version(tmp_path: Path) -> None:
    home = open_home(tmp_path / "a home")
    assert json.loads((home.root / "schema").read_text()) == {"layout_version": 1}
    folders = [home.root, *(p for p in home.root.rglob("*") if p.is_dir())]
    assert loose_permissions(*folders) == []
    home.root.chmod(0o755)
    assert loose_permissions(*folders) == [home.root]
    assert open_home(home.root) == home


def test_inbox_quarantine_and_vault_lie_beside_it_and_never_inside(tmp_path: Path) -> None:
    outside = outside_paths(tmp_path / "home")
    make_outside(outside)
    for path in (outside.inbox, outside.quarantine, outside.vault):
        assert path.parent == tmp_path
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert outside_paths(tmp_path / "home", inbox=tmp_path / "in").inbox == tmp_path / "in"
    with pytest.raises(StoreError) as e:
        outside_paths(tmp_path / "home", vault=tmp_path / "home" / "vault")
    assert e.value.kind == "store.inside"


def test_a_home_that_is_not_there_is_only_made_when_asked(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as e:
        open_home(tmp_path / "home", create=False)
    assert e.value.kind == "store.missing"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("text", "kind"), [("{", "store.schema"), ("{}", "store.schema"), ('{"layout_version": 9}', "store.version")]
)
def test_an_unreadable_or_newer_layout_is_refused(tmp_path: Path, text: str, kind: str) -> None:
    home = open_home(tmp_path / "home")
    (home.root / "schema").write_text(text)
    with pytest.raises(StoreError) as e:
        open_home(home.root)
    assert e.value.kind == kind


def test_a_home_with_twins_but_without_its_schema_file_is_refused(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    home.states("p-1").mkdir(parents=True)
    (home.root / "schema").unlink()
    with pytest.raises(StoreError) as e:
        open_home(home.root)
    assert e.value.kind == "store.schema"


def test_an_older_layout_is_brought_forward_step_by_step_and_once(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    steps: list[int] = []

    def step(n: int) -> Callable[[Path], None]:
        def migrate(root: Path) -> None:
            steps.append(n)
            (root / f"step-{n}").touch()

        return migrate

    migrations = {1: step(1), 2: step(2)}
    for _ in range(2):
        open_home(home.root, migrations=migrations, version=3)
    assert steps == [1, 2]
    with pytest.raises(StoreError) as e:
        open_home(home.root)  # this software knows version 1 only
    assert e.value.kind == "store.version"


def test_a_migration_that_fails_leaves_the_old_version_and_is_taken_up_again(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")

    def fails(root: Path) -> None:
        raise StoreError("out of luck")

    with pytest.raises(StoreError, match="luck"):
        open_home(home.root, migrations={1: fails}, version=2)
    open_home(home.root)
    open_home(home.root, migrations={1: lambda root: None}, version=2)


def test_staging_of_a_living_process_stays_and_that_of_a_dead_one_goes(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from storage.home import open_home\n"
        "with open_home(sys.argv[1]).stage('dead') as folder:\n"
        "    (folder / 'file').touch(); os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(home.root), str(ROOT)], check=False)
    with home.stage("alive") as folder:
        assert len(list(home.staging.iterdir())) == 2
        removed = home.clear_staging()
        assert [r.split(".")[0] for r in removed] == ["dead"]
        assert folder.exists()
    assert list(home.staging.iterdir()) == []
