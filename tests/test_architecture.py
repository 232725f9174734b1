"""The import direction flows -> storage -> tdt_core holds, and the core stays free of I/O libraries."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BANNED = {
    "tdt_core": {
        "flows",
        "storage",
        "prefect",
        "dask",
        "distributed",
        "zarr",
        "mlflow",
        "pydicom",
        "highdicom",
        "nibabel",
    },
    "storage": {"flows", "prefect", "dask", "distributed"},
}
CLOCKS = {"time", "now", "utcnow", "today", "perf_counter", "monotonic", "process_time"}
"""Attributes and names that read a clock; the science is told what time it is."""
WRITERS = {"to_zarr", "to_netcdf", "chunk", "open_zarr", "open_dataset"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(BANNED))
def test_no_module_imports_outward(package: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): bad
        for path in modules(package)
        if (bad := imported(ast.parse(path.read_text())) & BANNED[package])
    }
    assert modules(package)
    assert not wrong


def read_clocks(tree: ast.AST) -> set[str]:
    """What reads a clock: a module of the standard library that has one imported, or its functions called on `datetime`."""
    called = {
        n.func.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Call)
        and isinstance(n.func, ast.Attribute)
        and ast.unparse(n.func.value) in ("datetime", "date", "time")
    }
    return (imported(tree) & {"time", "timeit"}) | (called & CLOCKS)


@pytest.mark.parametrize("source", ["import time", "from time import perf_counter", "datetime.now(UTC)", "x = date.today()"])
def test_reading_a_clock_is_recognised(source: str) -> None:
    assert read_clocks(ast.parse(source))


def test_the_core_reads_no_clock() -> None:
    wrong = {
        str(path.relative_to(ROOT)): bad for path in modules("tdt_core") if (bad := read_clocks(ast.parse(path.read_text())))
    }
    assert modules("tdt_core")
    assert not wrong


def test_the_phantom_shares_neither_kinetics_nor_assimilation_with_the_fit() -> None:
    wrong = [
        str(path)
        for path in (ROOT / "tdt_core" / "phantom").rglob("*.py")
        if any(word in path.read_text() for word in ("tdt_core.kinetics", "tdt_core.assimilation"))
    ]
    assert not wrong


def test_xarray_neither_writes_nor_chunks_inside_the_core() -> None:
    wrong = []
    for path in modules("tdt_core"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in WRITERS:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.attr}")
    assert not wrong


def test_nothing_pickles_and_no_write_skips_the_chunk_check() -> None:
    wrong = []
    for package in ("tdt_core", "storage", "flows"):
        for path in modules(package):
            tree = ast.parse(path.read_text())
            if {"pickle", "cloudpickle", "joblib"} & imported(tree):
                wrong.append(f"{path.relative_to(ROOT)} pickles")
            for node in ast.walk(tree):
                if isinstance(node, ast.keyword) and node.arg == "safe_chunks":
                    wrong.append(f"{path.relative_to(ROOT)}:{node.value.lineno} safe_chunks")
    assert not wrong


def test_each_package_resolves_inside_the_checkout() -> None:
    import flows
    import storage
    import tdt_core

    for package in (flows, storage, tdt_core):
        assert package.__file__ is not None
        assert Path(package.__file__).is_relative_to(ROOT)
