"""Settings: what may stand in the file, and that what may not is named with its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amnode import OptionError, PoolSize, SupervisorOptions
from amnode.cli.settings import LogSettings, read_settings, settings_of
from amnode.rpc.tls_files import TlsFiles

HERE = Path("/project")


def settings(**more: Any) -> Any:
    return settings_of({"worker": "squares:Squares", **more}, HERE)


def test_a_class_is_enough() -> None:
    found = settings()
    assert (found.worker, found.name, found.path) == (
        "squares:Squares",
        "squares",
        ("/project",),
    )
    assert found.checked_options() == SupervisorOptions()
    assert (found.state_dir, found.token_file, found.log) == ("", "", LogSettings())


def test_sizes_and_options_are_those_of_the_supervisor() -> None:
    found = settings(size={"min": 3, "max": 4}, options={"linger": 5, "max_jobs": 7})
    expected = SupervisorOptions(size=PoolSize(3, 4), linger=5, max_jobs=7)
    assert found.checked_options() == expected


def test_paths_are_taken_from_the_directory_of_the_file() -> None:
    found = settings(
        path=["src", "/lib"],
        state_dir="state",
        token_file="/run/token",
        operator_file="operators",
        public_addr="unix:clients.sock",
        local_addr="unix:/run/local.sock",
        peers=["unix:other/local", "tcp:127.0.0.1:7000"],
        log={"file": "log", "format": "json"},
        tls={"certificate": "chain.pem", "authority": "/etc/authority.pem"},
    )
    assert found.tls == TlsFiles("/project/chain.pem", "", "/etc/authority.pem")
    assert found.path == ("/project/src", "/lib")
    assert (found.state_dir, found.token_file) == ("/project/state", "/run/token")
    assert found.public_addr == "unix:/project/clients.sock"
    assert found.local_addr == "unix:/run/local.sock"
    assert found.peers == ("unix:/project/other/local", "tcp:127.0.0.1:7000")
    assert (found.operator_file, found.log.file) == ("/project/operators", "/project/log")


@pytest.mark.parametrize("worker", ["a.b:Squares", "a.b:Outer.Squares"])
def test_a_name_is_made_of_the_class(worker: str) -> None:
    assert settings(worker=worker).name == "squares"
    assert settings(worker=worker, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"worker": 3}, "worker: expected `str`, got `int`."),
        ({"worker": "squares"}, "worker is 'squares'; it must be"),
        ({"worker": ":Squares"}, "it must be"),
        ({"nam": "x"}, "nam is not known; did you mean name?"),
        ({"zzz": "x"}, "zzz is not known; it knows worker, name"),
        ({"size": {"maxx": 3}}, "size.maxx is not known; did you mean max?"),
        ({"size": {"max": 0}}, "size.max is 0; it must be a whole number, at least 1."),
        ({"size": 3}, "size: expected `object`"),
        ({"options": {"linger": "1"}}, "options.linger is '1'; it must be a number of seconds"),
        ({"options": {"size": 3}}, "options.size is not known"),
        ({"log": {"level": "loud"}}, "log.level: "),
        ({"log": {"levl": "info"}}, "log.levl is not known; did you mean level?"),
        ({"log": 3}, "log: expected `object`"),
        ({"tls": {"cert": "x"}}, "tls.cert is not known"),
        ({"tls": {"mutual": True}}, "needs an authority"),
        ({"launcher": "magic"}, "launcher: "),
        ({"path": "src"}, "path: expected `array`"),
    ],
)
def test_what_cannot_work_is_named(more: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError) as found:
        settings(**more)
    assert text in str(found.value)


def test_a_missing_class_is_named() -> None:
    with pytest.raises(OptionError, match="worker"):
        settings_of({}, HERE)


def test_a_file_is_read_and_named_in_errors(tmp_path: Path) -> None:
    file = tmp_path / "pool.toml"
    with pytest.raises(OptionError, match=r"There is no file .*pool\.toml.*amnode new"):
        read_settings(file)
    file.write_text('worker = "squares:Squares"\nstate_dir = "state"\n')
    assert read_settings(file).state_dir == str(tmp_path / "state")
    for text, said in (("worker = ", "is no TOML"), ("nam = 1", "nam is not known")):
        file.write_text(text)
        with pytest.raises(OptionError, match=said) as found:
            read_settings(file)
        assert str(file) in str(found.value)
    file.write_bytes(b"\xff")
    with pytest.raises(OptionError, match="cannot be read"):
        read_settings(file)
