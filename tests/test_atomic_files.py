# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole, and errors that name them."""

import errno
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cmim_hf.atomic_files import remove_partials, whole_folder, write_whole, writing

pytest.importorskip("resource", reason="limits what a process may write")


def test_folders_are_made_and_text_is_utf_8(tmp_path):
    write_whole(tmp_path / "a" / "b.txt", "Å\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\xc3\x85\n"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "a.txt")
    write_whole(tmp_path / "link.txt", b"new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"


def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_whole(tmp_path / "pipe", "text")
    reader.join(60)
    assert read == [b"text"] and not (tmp_path / "pipe").is_file()


WRITERS = {
    "numpy": lambda path: np.save(path, np.zeros(50_000)),
    "torch": lambda path: torch.save(torch.zeros(50_000), path),
    "safetensors": lambda path: save_file({"a": torch.zeros(50_000)}, path),
    "bytes": lambda path: path.write_bytes(bytes(200_000)),
}


@pytest.mark.parametrize("library", WRITERS)
def test_errors_of_a_full_disk_name_the_file(tmp_path, little_room, library):
    path = tmp_path / "a.npy"
    expected = f"{re.escape(str(path))} could not be written .*Is the disk full"
    with pytest.raises(OSError, match=expected), writing(path):
        WRITERS[library](path)


def test_a_folder_is_replaced_when_the_new_one_is_whole(tmp_path, little_room):
    folder = tmp_path / "folder"

    def write(size):
        with whole_folder(folder) as partial:
            partial.mkdir()
            (partial / f"{size}.bin").write_bytes(bytes(size))

    write(10)
    with pytest.raises(OSError, match=f"{re.escape(str(folder))} could not be written"):
        write(200_000)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "10.bin"]
    write(20)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "20.bin"]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no memory"), OSError("no network"), PermissionError(errno.EACCES, "not yours"),
     Exception("Permission denied (os error 13)")],
)  # fmt: skip
def test_other_errors_stay_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as raised, writing(tmp_path):
        raise error
    assert raised.value is error


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from cmim_hf.atomic_files import whole_folder, written_whole
with whole_folder(Path(sys.argv[1], "folder")) as folder:
    folder.mkdir()
    with written_whole(Path(sys.argv[1], "file")) as file:
        file.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with whole_folder(tmp_path / "folder") as folder:
        folder.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_a_live_process_writes_stays(tmp_path):
    with whole_folder(tmp_path / "folder") as folder:
        folder.mkdir()
        remove_partials(tmp_path)
        assert folder.is_dir()
