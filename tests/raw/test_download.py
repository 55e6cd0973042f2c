"""Downloads against a publisher on this machine. Run: pytest tests/raw/test_download.py"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
import tarfile
import traceback
import zipfile

import pytest

from mrsr.errors import UserError
from mrsr.raw import download
from mrsr.raw.download import fetch
from mrsr.raw.unpack import safe_extract
from publisher import serving

DATA = os.urandom(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
SECRET = "Signature=abc123topsecret"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download, "FIRST_WAIT", 0.0)


@pytest.fixture
def publisher():
    with serving({"scan.bin": DATA}) as running:
        yield running


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_file_arrives_and_is_not_fetched_twice(publisher, tmp_path):
    for _ in range(2):
        path = fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin", sha256=SHA256, md5=MD5)
    assert path.read_bytes() == DATA
    assert len(publisher.requests) == 1
    assert left_in(tmp_path) == ["scan.bin"]


def test_a_file_that_was_damaged_on_disk_is_fetched_again(publisher, tmp_path):
    (tmp_path / "scan.bin").write_bytes(b"damaged")
    fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin", sha256=SHA256)
    assert (tmp_path / "scan.bin").read_bytes() == DATA


@pytest.mark.parametrize("tags", [True, False])
def test_a_broken_download_goes_on_where_it_stopped(publisher, tmp_path, tags):
    publisher.tags = tags
    publisher.breaks["scan.bin"] = [150_000]
    fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin", sha256=SHA256)
    assert (tmp_path / "scan.bin").read_bytes() == DATA
    (_, first), (_, second) = publisher.requests
    assert first == ""
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 150_000
    assert left_in(tmp_path) == ["scan.bin"]


def test_the_next_call_goes_on_too(publisher, tmp_path):
    publisher.breaks["scan.bin"] = [150_000]
    with pytest.raises(UserError, match=r"gave up after 0 retries.*goes on where it stopped"):
        # the first failure has brought bytes, so the second must bring none to be counted
        publisher.answers["scan.bin"] = [200, 503]
        fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin", retries=0)
    assert left_in(tmp_path) == ["scan.bin.part", "scan.bin.part.tag"]
    fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin", retries=0)
    assert (tmp_path / "scan.bin").read_bytes() == DATA
    assert publisher.requests[-1][1].startswith("bytes=")
    assert left_in(tmp_path) == ["scan.bin"]


def test_a_file_that_changed_meanwhile_is_not_mixed(publisher, tmp_path):
    (tmp_path / "scan.bin.part").write_bytes(b"x" * 1000)
    (tmp_path / "scan.bin.part.tag").write_text('"another"')
    fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin")
    assert (tmp_path / "scan.bin").read_bytes() == DATA


def test_wrong_pieces_of_an_earlier_run_cost_one_restart(publisher, tmp_path):
    publisher.tags = False
    (tmp_path / "scan.bin.part").write_bytes(b"x" * 1000)
    fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin", sha256=SHA256)
    assert (tmp_path / "scan.bin").read_bytes() == DATA
    assert [asked for _, asked in publisher.requests] == ["bytes=1000-", ""]


def test_pieces_that_nothing_vouches_for_are_thrown_away(publisher, tmp_path):
    (tmp_path / "scan.bin.part").write_bytes(b"x" * 1000)
    fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin")
    assert (tmp_path / "scan.bin").read_bytes() == DATA
    assert publisher.requests[0][1] == ""


def test_a_complete_part_needs_no_byte(publisher, tmp_path):
    (tmp_path / "scan.bin.part").write_bytes(DATA)
    fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin", sha256=SHA256)
    assert (tmp_path / "scan.bin").read_bytes() == DATA


def test_a_server_without_ranges_sends_all_again(publisher, tmp_path):
    publisher.ranges = False
    publisher.breaks["scan.bin"] = [150_000]
    fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin", sha256=SHA256)
    assert (tmp_path / "scan.bin").read_bytes() == DATA


def test_a_server_that_always_breaks_off_ends_the_patience(publisher, tmp_path):
    publisher.ranges = False
    publisher.breaks["scan.bin"] = [70_000] * 20
    with pytest.raises(UserError, match="gave up after 2 retries"):
        fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin", sha256=SHA256, retries=2)
    assert not (tmp_path / "scan.bin").exists()


def test_a_busy_server_is_asked_again(publisher, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(download, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(download.time, "sleep", waits.append)
    publisher.answers["scan.bin"] = [503, 503, 429]
    fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin", sha256=SHA256)
    assert len(publisher.requests) == 4
    assert waits == [1.0, 2.0, 4.0]


def test_a_wrong_checksum_is_refused_and_leaves_nothing(publisher, tmp_path):
    with pytest.raises(UserError, match="wrong checksum") as caught:
        fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin", sha256="0" * 64)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_final(publisher, tmp_path, status):
    publisher.answers["scan.bin"] = [status]
    with pytest.raises(UserError, match=f"answers {status}"):
        fetch(f"{publisher.url}/scan.bin", tmp_path / "scan.bin")
    assert len(publisher.requests) == 1
    assert left_in(tmp_path) == []


def test_files_and_file_urls_are_copied(tmp_path):
    source = tmp_path / "a folder" / "scan.bin"
    source.parent.mkdir()
    source.write_bytes(DATA)
    for number, address in enumerate([source, source.as_uri(), str(source)]):
        path = fetch(address, tmp_path / f"{number}.bin", sha256=SHA256)
        assert path.read_bytes() == DATA
        assert not path.is_symlink()
    with pytest.raises(UserError, match="wrong checksum"):
        fetch(source, tmp_path / "wrong.bin", md5="0" * 32)
    assert not (tmp_path / "wrong.bin").exists()
    with pytest.raises(UserError, match="no file at"):
        fetch(tmp_path / "missing.bin", tmp_path / "out.bin")


@pytest.mark.parametrize(
    "address", ["ftp://host/x", "file://elsewhere/x", "http://[::1/x", "http:///x"]
)
def test_other_addresses_are_refused(tmp_path, address):
    with pytest.raises(UserError):
        fetch(address, tmp_path / "x")


def test_addresses_are_joined_before_the_query():
    assert download.join("http://host/base/", "a", "b.nii.gz") == "http://host/base/a/b.nii.gz"
    assert download.join("http://host/base?k=1", "b") == "http://host/base/b?k=1"
    assert download.join("file:///data", "a") == "file:///data/a"
    assert download.join("data/raw", "a") == "data/raw/a"


@pytest.mark.parametrize("trouble", ["refused", "broken", "checksum", "no server", "bad port"])
def test_a_signed_address_is_never_shown(publisher, tmp_path, capfd, caplog, trouble):
    caplog.set_level(logging.DEBUG)
    url = f"{publisher.url}/scan.bin?{SECRET}"
    expected = ""
    if trouble == "refused":
        publisher.answers["scan.bin"] = [403]
    elif trouble == "broken":
        publisher.ranges = False
        publisher.breaks["scan.bin"] = [10] * 9
    elif trouble == "checksum":
        expected = "0" * 64
    elif trouble == "no server":
        url = f"http://127.0.0.1:1/scan.bin?{SECRET}"
    else:
        url = f"http://user:{SECRET}@127.0.0.1:notaport/scan.bin?{SECRET}"
    with pytest.raises(UserError) as caught:
        fetch(url, tmp_path / "scan.bin", sha256=expected, retries=1)
    printed = capfd.readouterr()
    chain = "".join(traceback.format_exception(caught.value))
    written = [path.read_text("latin-1") for path in tmp_path.iterdir()]
    assert caught.value.__context__ is None
    for text in (chain, printed.out, printed.err, caplog.text, *written):
        assert SECRET not in text
    assert "scan.bin" in str(caught.value)


def test_what_messages_call_an_address():
    assert download.shown("https://host/a/b/c.tar") == "https://host/.../c.tar"
    assert download.shown("https://host/a/b/c.tar?key=1") == "c.tar"
    assert download.shown("https://me:word@host/a/c.tar") == "c.tar"
    assert download.shown("/data/c.tar") == "/data/c.tar"


# --- archives -----------------------------------------------------------------------------------


def tar_of(path, members, mode="w"):
    """members: name -> content, or a TarInfo."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return name, info


def zip_of(path, members):
    """members: name -> content, or a TarInfo of a link to anything."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            link = isinstance(content, tarfile.TarInfo)
            info.external_attr = ((stat.S_IFLNK if link else stat.S_IFREG) | 0o644) << 16
            archive.writestr(info, content.linkname if link else content)
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_is_unpacked_whole(tmp_path, mode):
    archive = tar_of(
        tmp_path / "a.tar",
        [special("in", tarfile.DIRTYPE), ("in/b.txt", b"b"), ("./a.txt", b"a"), ("._a.txt", b"-")],
        mode,
    )
    files = safe_extract(archive, tmp_path / "out", only=lambda name: "._" not in name)
    assert [str(path.relative_to(tmp_path)) for path in files] == ["out/a.txt", "out/in/b.txt"]
    assert files[1].read_bytes() == b"b"
    flat = safe_extract(archive, tmp_path / "flat", flat=True)
    assert sorted(path.name for path in flat) == ["._a.txt", "a.txt", "b.txt"]
    assert left_in(tmp_path) == ["a.tar", "flat", "out"]
    with pytest.raises(UserError, match="exists already"):
        safe_extract(archive, tmp_path / "out")
    assert safe_extract(archive, tmp_path / "none", only=lambda name: False) == []
    assert not (tmp_path / "none").exists()


def test_permissions_and_dates_of_an_archive_are_not_taken_over(tmp_path):
    info = tarfile.TarInfo("a.txt")
    info.mode, info.mtime = 0o4700, 0
    (path,) = safe_extract(tar_of(tmp_path / "a.tar", [("a.txt", info)]), tmp_path / "out")
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert path.stat().st_mtime > 1e9


UNSAFE = {
    "parent": [("../evil.txt", b"x")],
    "parent inside": [("in/../../evil.txt", b"x")],
    "absolute": [("/tmp/evil.txt", b"x")],
    "backslash": [("..\\evil.txt", b"x")],
    "drive": [("c:evil.txt", b"x")],
    "link": [special("in/link", tarfile.SYMTYPE, "/etc/passwd")],
    "link inside": [special("inner", tarfile.SYMTYPE, "good.txt")],
    "through a link": [special("in", tarfile.SYMTYPE, "/tmp"), ("in/evil.txt", b"x")],
    "hard link": [special("hard", tarfile.LNKTYPE, "good.txt")],
    "pipe": [special("pipe", tarfile.FIFOTYPE)],
    "device": [special("device", tarfile.CHRTYPE)],
    "twice": [("good.txt", b"twice")],
}
OF_TAR = ("hard link", "pipe", "device")  # what a zip cannot hold


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # of zipfile's writer
@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (form, kind)
        for form in ("tar", "zip")
        for kind in UNSAFE
        if form == "tar" or kind not in OF_TAR
    ],
)
def test_an_archive_that_wants_out_leaves_nothing(tmp_path, form, kind):
    make = {"tar": tar_of, "zip": zip_of}[form]
    archive = make(tmp_path / f"a.{form}", [("good.txt", b"good"), *UNSAFE[kind]])
    with pytest.raises(UserError, match=rf"a\.{form} holds .*nothing was unpacked"):
        safe_extract(archive, tmp_path / "in" / "out")
    assert left_in(tmp_path / "in") == []
    assert left_in(tmp_path) == [archive.name, "in"]


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_sizes_are_limited(tmp_path, make):
    archive = make(tmp_path / "a", [("a", b"12345"), ("b", b"12345")])
    for limit in ({"max_bytes": 9}, {"max_files": 1}):
        with pytest.raises(UserError, match="more than"):
            safe_extract(archive, tmp_path / "out", **limit)
    assert left_in(tmp_path) == ["a"]
    assert len(safe_extract(archive, tmp_path / "out", max_bytes=10, max_files=2)) == 2


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_damaged_tar_is_refused(tmp_path, mode):
    archive = tar_of(tmp_path / "a.tar", [("a", os.urandom(50_000))], mode)
    archive.write_bytes(archive.read_bytes()[:20_000])
    with pytest.raises(UserError, match="damaged"):
        safe_extract(archive, tmp_path / "out")
    archive.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="damaged"):
        safe_extract(archive, tmp_path / "out")
    assert left_in(tmp_path) == ["a.tar"]


def test_zip_files(tmp_path):
    archive = zip_of(tmp_path / "a.zip", [("in/", b""), ("in/a.txt", b"a" * 100)])
    assert safe_extract(archive, tmp_path / "out")[0].read_text() == "a" * 100
    content = bytearray(archive.read_bytes())
    content[content.index(b"aaaa") + 50] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        safe_extract(archive, tmp_path / "flipped")
    assert left_in(tmp_path) == ["a.zip", "out"]
