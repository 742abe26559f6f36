"""Files and folders that are whole or not there."""

import errno

import pytest

from rotviz.errors import BadInput, OutOfRoom
from rotviz.home import data_home, fill_folder_atomically, home, write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_home_is_made_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path / "a" / "b"))
    assert home() == tmp_path / "a" / "b" and home().is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="ROTVIZ_HOME"):
        home()


def test_home_defaults_to_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("ROTVIZ_HOME")
    monkeypatch.setattr("rotviz.home.sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home() == tmp_path / "rotviz"


def test_data_home(monkeypatch, tmp_path):
    assert data_home() is None
    monkeypatch.setenv("ROTVIZ_DATA", str(tmp_path))
    assert data_home() == tmp_path


@pytest.mark.parametrize(("make", "write", "read"), [
    (write_atomically, lambda p, text: p.write_text(text), lambda p: p.read_text()),
    (fill_folder_atomically, lambda p, text: (p / "f").write_text(text), lambda p: (p / "f").read_text()),
])
def test_old_stays_until_new_is_whole(make, write, read, tmp_path):
    target = tmp_path / "made" / "thing"
    make(target, lambda p: write(p, "old"))
    assert read(target) == "old"

    def full(path):
        write(path, "half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutOfRoom, match="free some space"):
        make(target, full)
    with pytest.raises(ZeroDivisionError):
        make(target, lambda path: 1 / 0)
    assert read(target) == "old" and names(target.parent) == ["thing"]
    make(target, lambda p: write(p, "new"))
    assert read(target) == "new" and names(target.parent) == ["thing"]
