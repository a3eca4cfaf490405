"""Atomic writes, leftovers of killed processes, text files and checksums."""

import hashlib
import os
import threading

import pytest

from ldm.util.errors import ConfigError, UserError
from ldm.util.files import (
    ABANDONED_AFTER,
    HOST,
    atomic_write,
    digest,
    locked_folder,
    read_json,
    read_text,
    remove_leftovers,
    writable_folder,
)


def test_a_file_is_written_whole_and_an_error_leaves_the_earlier_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(OSError), atomic_write(path) as temporary:
        temporary.write_text("half of the sec")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_the_longest_name_of_a_file_system_can_be_written(tmp_path):
    path = tmp_path / ("a" * 251 + ".png")
    with atomic_write(path) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("x")
    assert path.read_text() == "x"


def test_leftovers_of_dead_processes_are_removed_and_no_other_files(tmp_path):
    with atomic_write(tmp_path / "sub" / "a.png") as own:
        own.write_text("x")
        dead = own.with_name(own.name.replace(f"-{os.getpid()}.", f"-{2**22 + 1}."))
        elsewhere = own.with_name(own.name.replace(HOST, "elsewhere"))
        abandoned = own.with_name(own.name.replace(HOST, "elsewhere").replace(f"-{os.getpid()}.", "-1."))
        foreign = tmp_path / ".hidden.part.png"
        for file in (dead, elsewhere, abandoned, foreign):
            file.write_text("x")
        long_ago = abandoned.stat().st_mtime - ABANDONED_AFTER - 1
        os.utime(abandoned, (long_ago, long_ago))
        remove_leftovers(tmp_path)
        assert {file: file.exists() for file in (own, dead, elsewhere, abandoned, foreign)} == {
            own: True, dead: False, elsewhere: True, abandoned: False, foreign: True,
        }  # fmt: skip


def test_a_locked_folder_has_one_writer_at_a_time(tmp_path):
    order = []

    def write(number):
        with locked_folder(tmp_path / "out"):
            order.append(number)
            order.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[::2] == order[1::2] and sorted(order[::2]) == list(range(8))


@pytest.mark.parametrize("content", ["Größe 나무", "\ufeffGröße 나무"])
def test_text_is_utf8_with_or_without_byte_order_mark(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content.encode())
    assert read_text(tmp_path / "a.txt") == "Größe 나무"


def test_a_file_that_is_no_text_or_missing_is_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    for name, word in (("latin.txt", "UTF-8"), ("missing.txt", "missing.txt"), ("a\0b", "null")):
        with pytest.raises(UserError, match=word):
            read_text(tmp_path / name)


def test_the_digest_is_sha256_of_bytes_or_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert digest(tmp_path / "a") == digest(b"abc" * 1_000_000) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "else")
    assert writable_folder(tmp_path / "new" / "folder", "--outdir") == tmp_path / "new" / "folder"
    for name in ("file", "file/below", "dangling", "a\0b", "a" * 300):
        with pytest.raises(UserError, match="--outdir"):
            writable_folder(tmp_path / name, "--outdir")


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "cannot be read .*; unpack it"),
        (b"{", "line 1, column 2: invalid JSON .*; download it again"),
        (b"{} {}", "content after the end"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "more than 4300 digits"),
    ],
)
def test_json_that_cannot_be_read_is_one_sentence_of_the_given_class(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ConfigError, match=f"^[^\n]*a.json: [^\n]*{reason}[^\n]*$"):
        read_json(tmp_path / "a.json", ConfigError, "unpack it")


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
