"""`mrsr view`: scans on a common grid, the page, its server, and the page in a real browser.

pytest tests/scan/test_view.py; with `-m slow` in Chromium
"""

from __future__ import annotations

import http.client
import io
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.affines import from_matvec

from mrsr.errors import UserError
from mrsr.scan.view import niivue, page, serving, volumes

OBLIQUE = from_matvec(
    nibabel.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([1.5, 1.5, 3.0]), [-20, -30, 10]
)


def head(shape: tuple[int, ...] = (24, 28, 16)) -> np.ndarray:
    """A bright ellipsoid with a darker one inside, 0 around."""
    grid = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in grid))
    inner = np.sqrt((grid[0] - 0.2) ** 2 + grid[1] ** 2 + grid[2] ** 2)
    return np.where(radius < 0.8, 800, 0) - np.where(inner < 0.3, 500, 0).astype(np.float32)


def write(path: Path, image: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    nibabel.Nifti1Image(np.asarray(image, np.float32), affine).to_filename(path)
    return path


def halved(image: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of 2x2 voxels in the first two axes, and the affine of those."""
    x, y, z = image.shape
    coarse = image.reshape(x // 2, 2, y // 2, 2, z).mean(axis=(1, 3))
    return coarse, affine @ from_matvec(np.diag([2.0, 2, 1]), [0.5, 0.5, 0])


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """A coarse scan and the one it comes from."""
    image = head()
    return [
        write(tmp_path / "coarse.nii.gz", *halved(image, OBLIQUE)),
        write(tmp_path / "fine.nii.gz", image),
    ]


# --- scans on a common grid -----------------------------------------------------------------------


def test_scans_of_one_box_keep_their_own_voxels(pair: list[Path]) -> None:
    (coarse, fine), (difference,), finest = volumes.read(pair)
    assert (coarse.image.shape, fine.image.shape) == ((12, 14, 16), (24, 28, 16))
    assert finest == 1 and not coarse.note and not fine.note
    assert difference.image.shape == fine.image.shape and difference.covered == 1
    assert np.allclose(difference.affine, fine.affine)
    assert "coarse.nii.gz interpolated linearly" in difference.note
    inside = difference.image[4:-4, 4:-4, 4:-4]
    assert np.abs(inside).max() > 50  # the edge of the inner ellipsoid is blurred
    assert difference.name == "fine.nii.gz − coarse.nii.gz"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_the_order_of_axes_does_not_matter(
    order: tuple[int, ...], flips: tuple[int, ...], tmp_path: Path
) -> None:
    """The same voxels stored in another order are the same scan: all 48 orders."""
    image = head((7, 6, 5))
    orientation = np.array(list(zip(order, flips, strict=True)))
    first = nibabel.Nifti1Image(image.astype(np.float32), OBLIQUE)
    first.to_filename(tmp_path / "a.nii")
    first.as_reoriented(orientation).to_filename(tmp_path / "b.nii")
    shown, (difference,), _ = volumes.read([tmp_path / "a.nii", tmp_path / "b.nii"])
    assert not any(scan.note for scan in shown)
    assert np.abs(difference.image).max() < 1e-3 and difference.covered == 1


def test_a_scan_on_another_grid_is_interpolated_in_world_space(tmp_path: Path) -> None:
    """Linear functions of the place are interpolated exactly, however the grids are turned."""
    fine = from_matvec(np.eye(3), [-4, -14, 22])
    places = []
    for shape, affine in (((30, 34, 14), OBLIQUE), ((20, 20, 20), fine)):
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        places.append(nibabel.affines.apply_affine(affine, index) @ [3.0, -2.0, 5.0] + 400)
    paths = [write(tmp_path / "a.nii", places[0]), write(tmp_path / "b.nii", places[1], fine)]
    (turned, straight), (difference,), finest = volumes.read(paths)
    assert finest == 1 and "interpolated onto the grid of b.nii" in turned.note
    assert not straight.note and turned.image.shape == (20, 20, 20)
    scan = volumes.Shown("a", places[0], OBLIQUE)
    grid = volumes.Shown("b", places[1], fine)
    image, inside = volumes.onto(scan, grid)
    assert difference.covered == pytest.approx(inside.mean())
    assert 0.2 < difference.covered < 1
    from scipy.ndimage import binary_erosion

    deep = binary_erosion(inside, iterations=3)
    assert deep.sum() > 500
    assert np.abs(image - places[1])[deep].max() < 1e-2
    assert not image[~inside].any() and not difference.image[~inside].any()


def test_inside_means_within_half_a_voxel_of_the_outer_centres() -> None:
    scan = volumes.Shown("a", np.ones((4, 4, 4), np.float32), np.eye(4))
    grid = volumes.Shown(
        "b", np.zeros((24, 1, 1), np.float32), from_matvec(np.diag([0.25, 1, 1]), [-1, 1, 1])
    )
    _, inside = volumes.onto(scan, grid)
    x = np.arange(24) * 0.25 - 1
    clear = np.abs(np.abs(x - 1.5) - 2) > 1e-6  # exactly on the edge either will do
    assert (inside[:, 0, 0] == (np.abs(x - 1.5) < 2))[clear].all()


def test_what_cannot_be_seen_side_by_side(pair: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give two or three scans to see side by side, not 1"):
        volumes.read(pair[:1])
    away = OBLIQUE.copy()
    away[0, 3] += 500
    far = write(tmp_path / "far.nii", head(), away)
    with pytest.raises(UserError, match=r"far\.nii and .* do not overlap; check the positions"):
        volumes.read([pair[1], far])
    with pytest.raises(UserError, match=r"missing\.nii"):
        volumes.read([pair[0], tmp_path / "missing.nii"])


def test_names_tell_files_apart_without_whole_paths(tmp_path: Path) -> None:
    assert volumes.names([Path("/x/a.nii"), Path("/x/b.nii")]) == ["a.nii", "b.nii"]
    assert volumes.names([Path("/x/a.nii"), Path("/y/a.nii")]) == ["x/a.nii", "y/a.nii"]
    assert volumes.names([Path("/x/a.nii"), Path("/x/a.nii")]) == ["1. a.nii", "2. a.nii"]


# --- the page -------------------------------------------------------------------------------------


def test_packed_scans_keep_values_and_place() -> None:
    image = np.random.default_rng(0).normal(0, 300, (9, 8, 7)).astype(np.float32)
    scan = volumes.Shown("a", image, OBLIQUE)
    content = page.packed(scan)
    assert content == page.packed(scan)
    import gzip

    read = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    assert read.get_data_dtype() == np.int16
    assert np.allclose(read.affine, OBLIQUE, atol=1e-4)
    step = (image.max() - image.min()) / 65535
    assert np.abs(read.get_fdata() - image).max() <= step


def test_the_page_is_whole_and_names_cannot_break_it(tmp_path: Path) -> None:
    name = "a<script>alert(1)<b>.nii"
    paths = [write(tmp_path / name, head()), write(tmp_path / "b.nii", head() * 1.1)]
    text = page.page(paths)
    assert "<script>alert" not in text and "a&lt;script&gt;alert(1)" in text
    assert text.count("</script>") == 3  # content, NiiVue, the page's own
    assert "Copyright (c) 2025, Niivue" in text
    assert "default-src 'none'" in text
    assert str(tmp_path) not in text


def test_niivue_that_is_missing_or_has_changed_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, pair: list[Path]
) -> None:
    assert niivue.script().rstrip().splitlines()[-1].startswith("globalThis.Niivue = ")
    with pytest.raises(UserError, match=r"not found in other 1; .* pip install ipyniivue==2\.4\.4"):
        niivue.with_class("export default {}", "other 1")
    broken = 'log("Creating new Niivue instance");let a="</SCRIPT><!--";v=new Q$1(C)'
    safe = niivue.with_class(broken, "")
    assert "</SCRIPT" not in safe and "<!--" not in safe and "globalThis.Niivue = Q$1;" in safe
    monkeypatch.setattr(niivue, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"install it with: pip install 'mrsr\[view\]'"):
        page.page(pair)


def test_a_page_too_large_for_browsers_is_refused(
    pair: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LARGEST", 1000)
    with pytest.raises(UserError, match="which browsers do not open; crop the scans"):
        page.page(pair)


# --- the server -----------------------------------------------------------------------------------


@contextmanager
def served(text: str) -> Iterator[serving.Server]:
    with serving.Server(text) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: serving.Server, path: str, host: str = "", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    host = host or f"127.0.0.1:{server.server_port}"
    connection.request(method, path, headers={"Host": host})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def test_the_server_gives_its_page_to_who_knows_the_address_alone() -> None:
    with served("<p>é</p>") as server:
        own = f"/{server.token}/"
        assert server.server_address[0] == "127.0.0.1"
        assert len(server.token) >= 32 and server.address.endswith(own)
        assert ask(server, own) == (200, "<p>é</p>")
        assert ask(server, own, f"localhost:{server.server_port}")[0] == 200
        for path in ("/", "/favicon.ico", own[:-1], own + "x", own + "../", "/é".encode().hex()):
            assert ask(server, path)[0] == 404, path
        for host in ("example.org", f"example.org:{server.server_port}", "127.0.0.1"):
            assert ask(server, own, host)[0] == 403, host
        assert ask(server, own, method="POST")[0] == 501
    with serving.Server("") as other:
        assert other.token != server.token


def test_the_command_serves_until_ctrl_c(pair: list[Path]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mrsr.cli", "view", *map(str, pair), "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # tests in the background have it ignored, and so would their children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    port, path = address.removeprefix("http://127.0.0.1:").split("/", 1)
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    connection.request("GET", f"/{path}")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.getheader("Cache-Control") == "no-store"
    assert b"fine.nii.gz" in answer.read()
    connection.close()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and out.endswith("stopped\n"), (out, err)
    assert "Traceback" not in err


def test_a_port_in_use_is_told() -> None:
    with (
        serving.Server("") as server,
        pytest.raises(UserError, match=rf"cannot listen on port {server.server_port}: .*--port"),
    ):
        serving.serve("", port=server.server_port, browser=False)


def test_where_a_page_can_be_saved(tmp_path: Path) -> None:
    serving.check_save(tmp_path / "page.html", False)
    (tmp_path / "page.html").touch()
    (tmp_path / "folder.html").mkdir()
    serving.check_save(tmp_path / "page.html", True)
    with pytest.raises(UserError, match="exists; give another name, or --overwrite"):
        serving.check_save(tmp_path / "page.html", False)
    with pytest.raises(UserError, match="is a folder"):
        serving.check_save(tmp_path / "folder.html", True)
    with pytest.raises(UserError, match=r"must be named \.html"):
        serving.check_save(tmp_path / "page.png", False)


# --- in a browser ---------------------------------------------------------------------------------

LONG = 300_000  # ms: the shaders are compiled by software, on a machine that may be busy


def picture(seen, where: str) -> np.ndarray:
    """(height, width, 3) in 0..255 of an element, as a person sees it."""
    from PIL import Image

    seen.page.wait_for_timeout(300)  # the next frames
    content = seen.page.locator(where).screenshot(timeout=LONG)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.int16)


def ready(seen, address: str) -> None:
    seen.page.set_default_timeout(LONG)
    seen.page.goto(address, wait_until="commit")
    seen.page.wait_for_selector("html[data-ready]", state="attached")
    assert seen.page.get_attribute("html", "data-ready") == "yes", seen.page.inner_text("#trouble")


def grey(image: np.ndarray) -> int:
    """Pixels that are neither black nor coloured."""
    return int(((np.ptp(image, axis=-1) < 12) & (image[..., 0] > 60)).sum())


def coloured(image: np.ndarray) -> tuple[int, int]:
    """Pixels that are clearly red, and clearly blue."""
    red, blue = image[..., 0], image[..., 2]
    return int((red > blue + 90).sum()), int((blue > red + 90).sum())


def rows(seen) -> list[str]:
    """The lines of the table of intensities."""
    return seen.page.locator("#values tr").all_inner_texts()


@pytest.mark.slow
def test_two_scans_in_a_browser(pair: list[Path]) -> None:
    from browser import opened

    with served(page.page(pair)) as server, opened() as seen:
        ready(seen, server.address)
        assert seen.page.inner_text("#title") == "coarse.nii.gz | fine.nii.gz"
        wipe = seen.page.locator("#wipe")
        frames = {}
        for value in (0, 50, 100):
            wipe.fill(str(value))
            frames[value] = picture(seen, "#stage")
        middle = frames[0].shape[1] // 2
        left, right = slice(130, middle - 8), slice(middle + 8, -130)  # without names and line
        for value in (0, 100):  # each scan in three planes: something on both sides of the middle
            assert grey(frames[value][:, left]) > 2000 and grey(frames[value][:, right]) > 1000
        assert np.array_equal(frames[50][:, left], frames[100][:, left])
        assert np.array_equal(frames[50][:, right], frames[0][:, right])
        assert (np.abs(frames[0] - frames[100])[:, left].max(axis=-1) > 30).sum() > 200

        before = picture(seen, "#difference")
        red, blue = coloured(before)
        assert red > 200 and blue > 200
        bar = before[-40:]  # the colour bar below the planes
        assert min(coloured(bar)) > 200
        assert "coarse.nii.gz interpolated linearly" in seen.page.inner_text("#difference-note")

        # a click in a plane moves the cross of every scan
        wipe.fill("100")
        at = seen.page.inner_text("#x-mm"), seen.page.inner_text("#y-mm")
        stage = seen.page.locator("#stage").bounding_box()
        assert stage is not None
        seen.page.mouse.click(stage["x"] + stage["width"] * 0.25, stage["y"] + stage["height"] / 3)
        seen.page.wait_for_timeout(300)
        assert (seen.page.inner_text("#x-mm"), seen.page.inner_text("#y-mm")) != at
        after = picture(seen, "#difference")
        assert (after != before).any()
        wipe.fill("0")
        assert (picture(seen, "#stage") != frames[0]).any()

        # the table of intensities: the difference is what is left of the two above it
        at_cross = [float(row.split("\t")[-1]) for row in rows(seen)]
        assert at_cross[2] == pytest.approx(at_cross[1] - at_cross[0], abs=0.5)

        # the keyboard alone: every control is on the way, and arrow keys move what they should
        seen.page.locator("#wipe").focus()
        stops = []
        for _ in range(20):
            stops.append(seen.page.evaluate("document.activeElement.id || 'other'"))
            seen.page.keyboard.press("Tab")
        assert {"wipe", "smooth", "x", "y", "z", "low", "high", "limit"} <= set(stops)
        at = seen.page.inner_text("#z-mm"), picture(seen, "#difference")
        seen.page.locator("#z").focus()
        seen.page.keyboard.press("ArrowRight")
        seen.page.keyboard.press("ArrowRight")
        assert seen.page.inner_text("#z-mm") != at[0]
        assert (picture(seen, "#difference") != at[1]).any()

        # one contrast for both
        for value in ("0", "100"):
            wipe.fill(value)
            seen.page.locator("#high").fill("800")
            plain = picture(seen, "#stage")
            seen.page.locator("#high").fill("300")
            brighter = picture(seen, "#stage").mean(axis=-1) - plain.mean(axis=-1)
            assert (brighter > 60).sum() > 500 and (brighter < -60).sum() == 0
        seen.check()


@pytest.mark.slow
def test_a_saved_page_of_three_scans_works_from_its_file(tmp_path: Path, pair: list[Path]) -> None:
    from typer.testing import CliRunner

    from browser import opened
    from mrsr import cli

    moved = OBLIQUE.copy()
    moved[:3, 3] += [3, -2, 4]
    third = write(tmp_path / "third.nii", head() * 0.5, moved)
    file = tmp_path / "page.html"
    done = CliRunner().invoke(cli.app, ["view", *map(str, pair), str(third), "--save", str(file)])
    assert done.exit_code == 0 and done.output.endswith(f"{file}\n")
    with opened(width=1000, dark=True) as seen:
        ready(seen, file.as_uri())
        ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 60
        assert seen.page.inner_text("#difference-name") == "Difference: third.nii − coarse.nii.gz"
        seen.page.get_by_label("Side by side").check()
        for number in range(3):
            assert grey(picture(seen, f"#stage .view:nth-child({number + 1})")) > 1000
        first = picture(seen, "#difference")
        seen.page.locator("#left").select_option(label="fine.nii.gz")
        seen.page.wait_for_function(
            "document.getElementById('difference-name').textContent"
            " === 'Difference: third.nii − fine.nii.gz'"
        )
        second = picture(seen, "#difference")
        assert first.shape == second.shape and (first != second).any()
        assert min(coloured(second)) > 0
        # the same scan cannot be on both sides
        seen.page.locator("#right").select_option(label="fine.nii.gz")
        assert seen.page.locator("#left").input_value() == "0"
        seen.page.locator("summary").click()
        assert "third.nii; 24 x 28 x 16 voxels" in seen.page.inner_text("#files")
        assert "interpolated onto the grid of fine.nii.gz" in seen.page.inner_text("#files")
        seen.check()
