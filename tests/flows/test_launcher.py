"""The launcher `tdt`: runs what is installed at once, makes the environment otherwise, and fails with words.

The environment here is a stand-in, so that nothing is downloaded; the real one is made whenever these tests are run through
the launcher itself.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a space in its path that holds the launcher, the two files it stamps, and nothing else."""
    folder = tmp_path / "a twin's checkout"
    folder.mkdir()
    for name in ("tdt", "uv.lock", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


def script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def fake_uv(checkout: Path, *, status: int = 0) -> Path:
    """A uv that writes down how it was called and 'installs' a Python that prints its arguments."""
    tools = checkout.parent / "bin"
    script(
        tools / "uv",
        f"""[ "$1" = --version ] && exit 0
echo "$@" >>"{checkout}/uv.calls"
[ {status} -eq 0 ] || exit {status}
mkdir -p "$UV_PROJECT_ENVIRONMENT/bin"
printf '#!/bin/sh\\nprintf "<%%s>" "$@"\\n' >"$UV_PROJECT_ENVIRONMENT/bin/python"
chmod +x "$UV_PROJECT_ENVIRONMENT/bin/python\"""",
    )
    return tools


def run(checkout: Path, *arguments: str, path: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {"PATH": path, "HOME": str(checkout.parent), "TDT_PYTHON": sys.executable, "VIRTUAL_ENV": "/elsewhere"}
    return subprocess.run(
        [str(checkout / "tdt"), *arguments], env=env, cwd=cwd or checkout.parent, capture_output=True, text=True, timeout=60
    )


def test_the_first_start_syncs_from_the_lock_and_the_second_does_not(checkout: Path) -> None:
    path = f"{fake_uv(checkout)}:/usr/bin:/bin"
    first = run(checkout, "twin", "a b", "", path=path)
    assert first.returncode == 0, first.stderr
    assert first.stdout == "<-P><-m><flows><twin><a b><>"
    assert "--frozen" in (checkout / "uv.calls").read_text()
    assert run(checkout, "--help", path=path).stdout == "<-P><-m><flows><--help>"
    assert len((checkout / "uv.calls").read_text().splitlines()) == 1


def test_the_second_start_adds_far_less_than_a_second(checkout: Path) -> None:
    path = f"{fake_uv(checkout)}:/usr/bin:/bin"
    run(checkout, path=path)
    started = time.monotonic()
    run(checkout, path=path)
    assert time.monotonic() - started < 1.0


def test_a_changed_lock_file_is_synced_again(checkout: Path) -> None:
    path = f"{fake_uv(checkout)}:/usr/bin:/bin"
    run(checkout, path=path)
    with (checkout / "uv.lock").open("a") as lock:
        lock.write("# newer\n")
    run(checkout, path=path)
    assert len((checkout / "uv.calls").read_text().splitlines()) == 2


def test_a_moved_checkout_is_synced_again_because_an_environment_knows_its_path(checkout: Path) -> None:
    path = f"{fake_uv(checkout)}:/usr/bin:/bin"
    run(checkout, path=path)
    moved = checkout.rename(checkout.with_name("moved"))
    (moved / "uv.calls").unlink()
    fake_uv(moved)
    run(moved, path=path)
    assert (moved / "uv.calls").exists()


def test_the_launcher_works_through_a_symbolic_link_and_from_another_folder(checkout: Path, tmp_path: Path) -> None:
    path = f"{fake_uv(checkout)}:/usr/bin:/bin"
    link = tmp_path / "link"
    link.symlink_to(checkout / "tdt")
    env = {"PATH": path, "HOME": str(tmp_path), "TDT_PYTHON": sys.executable}
    done = subprocess.run([str(link), "x"], env=env, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.stdout == "<-P><-m><flows><x>", done.stderr


def test_a_failed_sync_ends_with_its_status_and_leaves_no_stamp(checkout: Path) -> None:
    done = run(checkout, "demo", path=f"{fake_uv(checkout, status=7)}:/usr/bin:/bin")
    assert done.returncode != 0
    assert not (checkout / ".venv" / ".synced").exists()


def test_a_uv_shim_without_a_uv_behind_it_is_not_used(checkout: Path) -> None:
    tools = fake_uv(checkout)
    (checkout / ".tdt" / "uv" / "bin").mkdir(parents=True)
    (tools / "uv").rename(checkout / ".tdt" / "uv" / "bin" / "uv")
    script(tools / "uv", "echo 'uv: command not found in this version' >&2; exit 127")
    assert run(checkout, "x", path=f"{tools}:/usr/bin:/bin").stdout == "<-P><-m><flows><x>"


def test_without_a_new_enough_python_it_says_so(checkout: Path) -> None:
    tools = checkout.parent / "old"
    for name in ("python", "python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        script(tools / name, "exit 1")
    env = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(checkout.parent), "TDT_PYTHON": str(tools / "python3")}
    done = subprocess.run([str(checkout / "tdt")], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "3.11" in done.stderr


def test_where_uv_is_absent_it_is_fetched_with_pip_into_the_checkout_only(checkout: Path) -> None:
    tools = checkout.parent / "bin"
    # a Python whose pip writes down what it was asked for and installs the stand-in
    script(
        tools / "python3",
        f"""case "$1 $2" in
"-m pip") echo "$@" >"{checkout}/pip.calls"
    mkdir -p "{checkout}/.tdt/uv/bin"; cp "{tools}/fake-uv" "{checkout}/.tdt/uv/bin/uv" ;;
*) exec "{sys.executable}" "$@" ;;
esac""",
    )
    fake_uv(checkout)
    (tools / "uv").rename(tools / "fake-uv")
    for name in ("sh", "cat", "cksum", "dirname", "mkdir", "env", "cp", "chmod", "readlink", "mv", "rm", "ls"):
        if (found := shutil.which(name)) is not None:
            (tools / name).symlink_to(found)
    (tools / "python3").rename(tools / "python-with-pip")
    script(
        tools / "python3",
        f"""case "$*" in *sys.executable*) echo "{tools}/python-with-pip" ;; *) exec "{tools}/python-with-pip" "$@" ;; esac""",
    )
    env = {"PATH": str(tools), "HOME": str(checkout.parent)}
    done = subprocess.run([str(checkout / "tdt"), "x"], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == "<-P><-m><flows><x>", done.stderr
    call = (checkout / "pip.calls").read_text()
    assert f"--target {checkout}/.tdt/uv" in call
