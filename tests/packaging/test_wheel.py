"""The wheel holds the three packages and nothing else, and works away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "policies", "backends")


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command that must succeed; its own words are the failure's message."""
    # Some networks have an authority of their own, which only the system knows.
    env = os.environ | {"UV_SYSTEM_CERTS": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel. hatchling comes from the lock, so nothing is fetched."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("sluice_gateway-*.whl")
    return built


@pytest.mark.timeout(300)
def test_wheel_holds_exactly_the_three_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {name for name in names if ".dist-info/" not in name}
    on_disk = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == on_disk
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.timeout(300)
def test_wheel_brings_the_example_policies(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"policies/examples/quickstart.yaml", "policies/examples/vllm.yaml"} <= names


@pytest.mark.timeout(300)
def test_installed_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, environment, cwd=tmp_path)
    python, sluice = environment / "bin" / "python", environment / "bin" / "sluice"
    constraints = ROOT / "requirements.lock"
    uv_install = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python)
    run(*uv_install, "--constraint", constraints, wheel, cwd=tmp_path)

    assert "serve" in run(sluice, "--help", cwd=tmp_path)
    where = run(python, "-c", "import gateway, policies, backends; print(gateway.__file__)", cwd=tmp_path)
    assert where.startswith(str(environment))
    quickstart = run(
        python,
        "-c",
        "from importlib.resources import files; print(files('policies') / 'examples' / 'quickstart.yaml')",
        cwd=tmp_path,
    ).strip()
    run(sluice, "check", quickstart, cwd=tmp_path)
