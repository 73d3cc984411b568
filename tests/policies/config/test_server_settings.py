"""`server`: what must be so before a gateway listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.policies.policy_files import POOLS, ROUTES, loaded, mistakes


@pytest.mark.parametrize("admin", ["0.0.0.0:9901", "'[::]:9901'", "10.0.0.1:9901", "gateway.local:9901"])
@pytest.mark.parametrize("token", ["", ", admin_token: off"])
def test_an_admin_port_off_loopback_needs_a_token(tmp_path: Path, admin: str, token: str) -> None:
    (found,) = mistakes(tmp_path, f"server: {{admin: {admin}{token}}}\n{POOLS}{ROUTES}")
    assert "admin_token is needed as soon as admin is not loopback" in found
    with_one = f"server: {{admin: {admin}, admin_token: {{env: A}}}}\n{POOLS}{ROUTES}"
    assert loaded(tmp_path, with_one).server.admin_token is not None


@pytest.mark.parametrize("admin", ["127.0.0.1:1", "localhost:1", "'[::1]:1'", "unix:/run/sluice.sock"])
def test_one_that_only_this_machine_reaches_needs_none_and_may_have_one(tmp_path: Path, admin: str) -> None:
    assert loaded(tmp_path, f"server: {{admin: {admin}}}\n{POOLS}{ROUTES}").server.admin_token is None
    with_one = f"server: {{admin: {admin}, admin_token: {{env: A}}}}\n{POOLS}{ROUTES}"
    assert loaded(tmp_path, with_one).server.admin_token is not None
