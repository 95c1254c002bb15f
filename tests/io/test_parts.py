from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rankbygene.errors import InputValueError, OutputFailedError
from rankbygene.io._parts import Parts

VALUES = np.arange(20.0).reshape(10, 2) + 1


def parts(folder: Path, **job: int) -> Parts:
    return Parts(folder, {"a": 1, **job}, n_rows=10, part_size=5)


def fill(folder: Path) -> Parts:
    made = parts(folder)
    for part in range(2):
        made.write(part, {"x": VALUES[made.rows(part)]})
    return made


@pytest.mark.parametrize(
    "damage", ["header", "flipped", "cut off", "empty", "zeroed tail", "missing", "swapped"]
)
def test_damaged_parts_are_named_and_made_anew(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "parts"
    fill(folder)
    file = folder / "000001" / "x.npy"
    content = file.read_bytes()
    file.write_bytes(
        {
            "header": content[:10] + bytes([content[10] ^ 4]) + content[11:],
            "flipped": content[:-4] + bytes([content[-4] ^ 64]) + content[-3:],
            "cut off": content[: len(content) // 2],
            "empty": b"",
            "zeroed tail": content[:140] + bytes(len(content) - 140),
            "missing": content,
            "swapped": (folder / "000000" / "x.npy").read_bytes(),
        }[damage]
    )
    if damage == "missing":
        file.unlink()
    again = parts(folder)
    assert again.is_done(0)
    with pytest.warns(UserWarning, match="000001 is damaged"):
        assert not again.is_complete()
    again.write(1, {"x": VALUES[5:]})
    assert again.is_complete()
    np.testing.assert_array_equal(again.read("x", np.arange(10)), VALUES)


def test_parts_that_lost_their_job_are_taken_up_by_the_same_job_alone(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    fill(folder)
    (folder / "job.json").unlink()
    assert parts(folder).is_complete()
    (folder / "job.json").unlink()
    other = parts(folder, b=2)
    with pytest.warns(UserWarning, match="another run"):
        assert not other.is_done(0)


def test_other_files_are_refused_and_removal_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    fill(folder).remove()
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    (folder / ".notes").write_text("mine")
    with pytest.raises(InputValueError, match=r"other files.*\.notes"):
        parts(folder)


def test_a_part_that_finds_no_room_is_an_error(tmp_path: Path) -> None:
    """Of the last bytes of a file that NumPy writes itself it does not hear."""
    resource = pytest.importorskip("resource")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            made = parts(tmp_path / "parts")
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            made.write(0, {"x": np.ones((5, 30))})
        except OutputFailedError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    again = parts(tmp_path / "parts")
    assert not again.is_done(0)
    assert [item.name for item in again.folder.iterdir()] == ["job.json"]
