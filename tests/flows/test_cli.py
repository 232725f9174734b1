"""The command line: quick help, exit codes, one JSON object for scripts, and the commands on a store."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flows import cli_twin, inbox
from flows.bench_options import options
from flows.cli import exit_code, main
from flows.evidence import _found
from flows.settings import Settings
from storage.deliveries import Pool
from storage.twins import TwinStore
from tdt_core.errors import ConflictError, InputError, SettingsError, StoreError, UsageError

COMMANDS = (
    *("demo", "test", "run", "check", "phantom", "dose", "explain", "replay", "refit", "sign", "ladder"),
    *("serve", "mlflow", "dashboard", "doctor", "bench", "trial demo"),
    *(f"twin {c}" for c in ("list", "log", "show", "verify", "as-of")),
    *(f"population {c}" for c in ("learn", "list", "show", "accept", "packaged")),
)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(list(arguments))
    return code, capsys.readouterr().out


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out = call(capsys, *arguments, "--json")
    return code, json.loads(out)


def test_help_comes_within_a_second_because_nothing_heavy_is_imported() -> None:
    program = "import sys, flows.cli; sys.stdout.write(' '.join(sorted(m.split('.')[0] for m in sys.modules)))"
    loaded = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"prefect", "mlflow", "dask", "numpy", "xarray", "zarr", "panel", "pydicom", "pydantic"} & set(loaded)
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-P", "-m", "flows", "--help"], capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 5.0  # under 0.5 s on an idle machine; tests run on busy ones
    assert "Research use only" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out = call(capsys, *command.split(), "--help")
    assert code == 0
    assert len(out) > 100


def test_a_wrong_command_and_a_missing_argument_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "prescribe")[0] == 2
    assert call(capsys, "twin", "log")[0] == 2


def test_errors_have_their_exit_codes() -> None:
    assert exit_code(UsageError("x", expected="y")) == 2
    assert exit_code(InputError("x")) == 3
    assert exit_code(ConflictError("x")) == 5
    assert exit_code(StoreError("x")) == 1
    assert exit_code(SettingsError("x")) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("twin", "log", "nobody"),
        ("twin", "show", "ffffffff"),
        ("twin", "as-of", "PID", "yesterday"),
        ("explain", "ffffffff"),
        ("refit", "nobody", "--reason", "better"),
        ("refit", "PID", "--reason", " "),
        ("evidence", "nobody"),
        ("retract", "nobody", "12345678", "--reason", "wrong", "--name", "N. N."),
        ("design", "PID", "--hours", "soon"),
        ("design", "nobody"),
        ("ladder", "PID", "--rungs", "guess"),
        ("population", "show", "ffffffff"),
        ("phantom", "OUT", "--variant", "x"),
        ("phantom", "OUT", "--product", "x"),
        ("bench", "nothing"),
        ("bench", "loop", "--luck", "1"),
    ],
)
def test_an_argument_that_names_nothing_is_wrong_usage_and_the_error_is_whole(
    capsys: pytest.CaptureFixture[str], commit, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    stands_for = {"PID": commit().pid, "OUT": str(tmp_path / "out")}
    code, told = called(capsys, *(stands_for.get(word, word) for word in arguments))
    assert code == 2
    assert all(told["error"][part] for part in ("kind", "found", "expected", "remedy"))
    assert not (tmp_path / "out").exists()


def test_an_error_of_usage_travels_between_processes_whole() -> None:
    error = UsageError("no scan 9", expected="1 to 4", kind="usage.scan")
    assert pickle.loads(pickle.dumps(error)).as_dict() == error.as_dict()


def test_an_error_says_what_was_found_and_what_to_do(capsys: pytest.CaptureFixture[str], site: Settings) -> None:
    capsys.readouterr()
    assert main(["twin", "list"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "store.missing" in said.err
    assert "do: name the folder with `--home FOLDER`" in said.err
    code, told = called(capsys, "twin", "list")
    assert code == 1
    assert told["error"]["kind"] == "store.missing"


def test_home_before_the_command_is_the_home_of_the_command(
    capsys: pytest.CaptureFixture[str], store: TwinStore, commit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = commit()
    monkeypatch.setenv("TDT_HOME", str(tmp_path / "elsewhere"))
    code, told = called(capsys, "--home", str(store.home.root), "twin", "list")
    assert code == 0
    assert [t["pid"] for t in told["twins"]] == [state.pid]


def test_list_log_show_and_as_of_tell_the_same_chain(capsys: pytest.CaptureFixture[str], commit) -> None:
    first = commit(1)
    second = commit(2, parent=first.id)
    _, listed = called(capsys, "twin", "list")
    assert listed["twins"][0]["head"]["id"] == second.id
    assert listed["twins"][0]["decision"] is None
    _, log = called(capsys, "twin", "log", first.pid)
    assert [s["id"] for s in log["chain"]] == [second.id, first.id]
    _, before = called(capsys, "twin", "as-of", first.pid, "2020-01-01")
    assert before["chain"] == []
    _, now = called(capsys, "twin", "as-of", first.pid, "2999-01-01T00:00+01:00")
    assert now == log
    _, shown = called(capsys, "twin", "show", second.id[:10])
    assert shown["state"]["id"] == second.id
    assert shown["proposed_mbq"] == second.proposal.activity_mbq
    assert called(capsys, "twin", "show", first.pid)[1] == shown, "a patient is its newest state"


def test_the_same_commands_speak_to_persons_too(capsys: pytest.CaptureFixture[str], commit) -> None:
    state = commit()
    for words in (["twin", "list"], ["twin", "log", state.pid], ["twin", "show", state.id[:8]], ["explain", state.id[:8]]):
        code, out = call(capsys, *words)
        assert code == 0
        assert state.id[:8] in out
    assert "Research use only" in call(capsys, "twin", "show", state.id)[1]


def test_explain_names_inputs_code_prior_and_parents(capsys: pytest.CaptureFixture[str], commit) -> None:
    first = commit(1)
    second = commit(2, parent=first.id)
    _, told = called(capsys, "explain", second.id)
    assert [p["id"] for p in told["parents"]] == [first.id]
    assert {i["digest"] for i in told["inputs"]} == set(second.identity["evidence"])
    assert [i["this_cycle"] for i in told["inputs"]].count(True) == 1
    assert told["code"]["code_commit"] == "test"
    assert told["prior"] == "population"
    assert told["head"] is True


def test_verify_names_a_flipped_byte_and_exits_4(capsys: pytest.CaptureFixture[str], store: TwinStore, commit) -> None:
    state = commit()
    assert called(capsys, "twin", "verify")[1] == {"whole": True, "problems": []}
    file = store.path(state.id) / "state.json"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.chmod(0o600)
    file.write_bytes(bytes(data))
    code, told = called(capsys, "twin", "verify")
    assert code == 4
    assert any(p["path"].endswith("state.json") for p in told["problems"])


def test_an_unknown_patient_and_an_unreadable_time_are_refused(capsys: pytest.CaptureFixture[str], commit) -> None:
    state = commit()
    assert called(capsys, "twin", "log", "nobody")[1]["error"]["kind"] == "store.unknown"
    code, told = called(capsys, "twin", "as-of", state.pid, "yesterday")
    assert (code, told["error"]["kind"]) == (2, "usage.time")


def test_sign_fills_nothing_in_and_asks_for_every_missing_field(
    capsys: pytest.CaptureFixture[str], store: TwinStore, commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    state = commit()
    asked: list[tuple[str, dict[str, Any]]] = []

    def prompt(text: str, **given: Any) -> Any:
        asked.append((text, given))
        raise typer.Abort

    monkeypatch.setattr(typer, "prompt", prompt)
    full = {
        "--decision": "refused",
        "--activity-mbq": "0",
        "--name": "N. N.",
        "--role": "physicist",
        "--reason": "creatinine doubled",
    }
    for left_out in full:
        words = [w for name, value in full.items() if name != left_out for w in (name, value)]
        assert call(capsys, "sign", state.id, *words)[0] == 1
    assert [re.split(r"[ (]", text)[0] for text, _ in asked] == ["decision", "activity", "name", "role", "reason"]
    assert all("default" not in given for _, given in asked)
    assert store.decision(state.id) is None
    # an abbreviated state is not the state that was shown
    words = [w for pair in full.items() for w in pair]
    assert call(capsys, "sign", state.id[:6], *words)[0] == 1
    assert asked[-1][0].startswith("repeat the state")


def test_an_identity_is_told_line_by_line() -> None:
    told = {"prior": {"origin": "ab"}, "settings": {"limits": [{"organ": "kidneys", "alpha_beta_gy": None}], "range": [1, 2]}}
    assert cli_twin._plain_lines(told, "") == [
        *("prior:", "  origin: ab", "settings:"),
        *("  limits:", "    organ: kidneys", "    alpha_beta_gy: none", "  range: 1, 2"),
    ]


def test_sign_refuses_a_superseded_state_and_an_unknown_word_before_it_asks_further(
    capsys: pytest.CaptureFixture[str], store: TwinStore, commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    first = commit()
    newest = commit(cycle=2, parent=first.id)
    asked: list[str] = []

    def prompt(text: str, **_: Any) -> str:
        asked.append(text)
        return "yes"

    monkeypatch.setattr(typer, "prompt", prompt)
    assert call(capsys, "sign", first.id)[0] == 5
    assert asked == []
    assert call(capsys, "sign", newest.id)[0] == 3
    assert len(asked) == 1


def test_doctor_answers_as_one_object(capsys: pytest.CaptureFixture[str], site: Settings) -> None:
    code, told = called(capsys, "doctor")
    assert code == 0
    assert told["healthy"] is True


def test_check_of_an_empty_folder_refuses_and_changes_nothing(
    capsys: pytest.CaptureFixture[str], site: Settings, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    code, told = called(capsys, "check", str(tmp_path / "empty"))
    assert code == 3
    assert told.get("ok") is False or "error" in told
    assert not site.home.exists()
    assert not site.vault.exists()


@pytest.mark.parametrize("kind", ["input.folder", "input.empty"])
def test_run_refuses_a_folder_that_is_not_there_or_empty_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], site: Settings, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "delivery"
    if kind == "input.empty":
        folder.mkdir()
    before = sorted(tmp_path.rglob("*"))
    code, told = called(capsys, "run", str(folder))
    assert code == 3
    assert told["error"]["kind"] == kind
    assert str(folder.resolve()) in told["error"]["found"]
    assert "administrations.json" in told["error"]["expected"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_a_server_hears_of_is_not_named(site: Settings, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        inbox.alias(site, tmp_path / "Jane Doe")
    assert "Jane" not in str(refused.value)


@pytest.mark.parametrize(("digits", "said"), [("0", "item '0' has too few digits: 1"), ("zzzz", "'zzzz': 0 items")])
def test_an_item_that_cannot_be_found_is_repeated(digits: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        _found(Pool("pid", (), (), {}), digits)
    assert refused.value.expected
    assert refused.value.remedy


def test_a_patient_without_evidence_is_repeated(capsys: pytest.CaptureFixture[str], commit) -> None:
    commit()
    _, told = called(capsys, "retract", "nobody", "12345678", "--reason", "wrong", "--name", "N. N.")
    assert "'nobody'" in told["error"]["found"]


def example(patients: int = 20, share: float = 0.5, folder: str | None = None) -> None:
    """A benchmark's signature."""


def test_options_of_a_benchmark_follow_its_signature() -> None:
    assert options(example, ["--patients", "4", "--share=0.25", "--folder", "x y"]) == {
        "patients": 4,
        "share": 0.25,
        "folder": "x y",
    }
    for words in (["--doctors", "4"], ["--patients"], ["--patients", "four"], ["4"]):
        with pytest.raises(UsageError):
            options(example, words)
