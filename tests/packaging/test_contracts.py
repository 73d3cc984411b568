"""import-linter's contracts hold, and each of them can be broken."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def lint_imports(cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_imports_run_one_way_and_through_the_doors() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_contract_sees_an_import_that_breaks_it(tmp_path: Path) -> None:
    for package in ("gateway", "policies", "backends"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    libraries = [library for contract in CONTRACTS for library in contract.get("forbidden_modules", [])]
    planted = "\n".join(f"import {library}" for library in ["backends", *libraries])
    # A policy that imports every library and the layer above it, two siblings that import each other, and a feature of
    # the gateway that imports another one.
    (tmp_path / "policies" / "planted.py").write_text(f"{planted}\nimport policies.other\n")
    (tmp_path / "policies" / "other.py").write_text("import policies.planted\n")
    (tmp_path / "gateway" / "auth" / "planted.py").write_text("import gateway.limits.limiter\n")

    done = lint_imports(tmp_path)

    assert done.returncode == 1, done.stdout + done.stderr
    # import-linter breaks long lines.
    printed = " ".join(done.stdout.split())
    for contract in CONTRACTS:
        assert f"{contract['name']} BROKEN" in printed, contract["name"]
    for library in libraries:
        assert f"policies.planted -> {library} " in done.stdout, library
