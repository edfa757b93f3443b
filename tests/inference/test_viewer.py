"""A scan's page read in a browser: what it shows lies where it says."""

import base64
import gzip
import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from adn_jax.inference import viewer as module
from adn_jax.inference.shown import ShownScan, head_mask
from adn_jax.inference.viewer import LAYERS, niivue, packed, write_viewer
from adn_jax.prepare.case import to_native
from adn_jax.scans.read import RawScan
from tests.browser import NO_WEBGL, memory_mb, opened, pixels_of, wait_for
from tests.inference.planted import CLOT_MM, INFARCT_MM, ORIENTATIONS, planted

TILT = np.deg2rad(18)
VENDOR = Path(__file__).parents[2] / "vendor/niivue"
STILL = base64.b64decode("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")


def shown_of(codes, tilt=0.0, found=True):
    """The planted head with every map that a page can show."""
    scan, case, maps = planted(codes, tilt)
    infarct = to_native(maps.prediction, case.geometry) * found
    images = dict.fromkeys(LAYERS, infarct) | {"lesion": infarct >= 0.5}
    images["asymmetry"] = 80 * infarct
    images["pathological"] = 80 * infarct
    images["anatomical"] = -40 * infarct
    images["label"] = images["lesion"]
    return ShownScan.of_scan(RawScan("planted", scan), case, maps, images)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "viewer.html"
    write_viewer(path, shown_of("LPS"), STILL)
    return path


READY = "document.body.dataset.state === 'ready'"
CROSS = "adnViewer.frac2mm(adnViewer.scene.crosshairPos, 0, true)"
TILES = """adnViewer.screenSlices.map(tile =>
    tile.leftTopWidthHeight.map(one => one / adnViewer.uiData.dpr))"""
DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def cross_mm(page):
    x, y, z, _ = page.evaluate(f"Object.values({CROSS})")
    return np.array([x, y, z])


def go_to(page, place_mm):
    place = place_mm.tolist()
    page.evaluate(f"adnViewer.scene.crosshairPos = adnViewer.mm2frac({place}, 0, true)")
    page.evaluate("adnViewer.drawScene()")


def canvas(page):
    """What is drawn, without our marks over it."""
    page.evaluate("document.getElementById('marks').style.display = 'none'")
    page.evaluate(DRAWN)
    pixels = pixels_of(page, "#canvas")
    page.evaluate("document.getElementById('marks').style.display = ''")
    return pixels


def click_on(page, tile, chosen):
    """Click the middle of chosen pixels of a tile; its place as shares (x, y)."""
    left, top, width, height = (round(one) for one in page.evaluate(TILES)[tile])
    pixels = canvas(page)[top : top + height, left : left + width]
    rows, columns = np.nonzero(chosen(pixels))
    assert rows.size > 20, f"nothing of the kind is in tile {tile}"
    x, y = np.median(columns), np.median(rows)
    page.locator("#canvas").click(position={"x": left + x, "y": top + y})
    return x / width, y / height


def coloured(pixels):
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return (red > 150) & (green > 120) & (blue < 110)  # viridis ends in yellow


def white(pixels):
    return pixels.min(axis=-1) > 225


@pytest.mark.parametrize(("codes", "tilt"), [("RAS", 0.0), ("PIR", 0.0), ("LPS", TILT)])
def test_a_click_reads_the_place_that_is_shown(browser, tmp_path, codes, tilt):
    write_viewer(tmp_path / "viewer.html", shown_of(codes, tilt), STILL)
    with opened(browser, tmp_path / "viewer.html") as page:
        wait_for(page, READY)
        assert np.linalg.norm(cross_mm(page) - INFARCT_MM) < 6, "it opens elsewhere"
        page.locator("[data-layer=probability]").check()
        # What is found lies on the patient's left and in front.
        x, y = click_on(page, 0, coloured)
        assert x > 0.6
        assert y < 0.5
        assert np.abs(cross_mm(page)[:2] - INFARCT_MM[:2]).max() < 5
        assert click_on(page, 1, coloured)[0] > 0.6
        assert click_on(page, 2, coloured)[0] < 0.5  # the nose is on the left
        assert np.abs(cross_mm(page) - INFARCT_MM).max() < 6
        # The CT's clot lies on the right and at the back.
        go_to(page, CLOT_MM)
        x, y = click_on(page, 0, white)
        assert x < 0.45
        assert y > 0.5
        assert np.abs(cross_mm(page)[:2] - CLOT_MM[:2]).max() < 5
        click_on(page, 1, white)
        assert np.abs(cross_mm(page) - CLOT_MM).max() < 6
        assert "79 HU" in page.inner_text("#read-out")
        letters = page.locator(".tile").first.locator(".left, .right").all_inner_texts()
        assert letters == ["R", "L"]


def test_the_page_is_a_reading_tool(browser, written):
    with opened(browser, written) as page:
        wait_for(page, READY)
        plain = canvas(page)
        for name in LAYERS:
            box = page.locator(f"[data-layer={name}]")
            box.click()
            changed = (canvas(page) != plain).any(axis=-1).sum()
            assert changed > 50, name
            box.click()
            np.testing.assert_array_equal(canvas(page), plain, err_msg=name)
        page.locator("[name=base][value=pathological]").check()
        assert (canvas(page) != plain).any()
        page.locator("[name=base][value='']").check()
        np.testing.assert_array_equal(canvas(page), plain)
        read = page.inner_text("#read-out")
        for text in ("30 HU", "A 80 HU", "P 1.00", "Q −0.50", "L 41, A 25, S 13"):
            assert text in read, read


def test_keys_wheel_and_rows_of_the_table(browser, written):
    with opened(browser, written) as page:
        wait_for(page, READY)
        plain, start = canvas(page), cross_mm(page)
        page.keyboard.press("ArrowUp")
        assert cross_mm(page)[2] - start[2] == pytest.approx(5, abs=1e-3)
        left, top, width, height = page.evaluate(TILES)[0]
        stage = page.locator("#stage").bounding_box()
        x, y = left + width / 2, stage["y"] + top + height / 2
        page.mouse.move(x, y)
        page.mouse.wheel(0, 100)
        page.evaluate(DRAWN)
        assert abs(cross_mm(page)[2] - start[2] - 5) == pytest.approx(5, abs=1e-3)
        page.locator("#lesions button").first.click()
        np.testing.assert_allclose(cross_mm(page), start, atol=1e-3)
        page.locator("#canvas").focus()  # on a button, space presses it
        for key in ("2", "l", " ", "+", "a", "x"):
            page.keyboard.press("1")
            before = canvas(page)
            page.keyboard.press(key)
            assert (canvas(page) != before).any(), key
            page.keyboard.press({"2": "1", "+": "0"}.get(key, key))
            np.testing.assert_array_equal(canvas(page), before, err_msg=key)
        page.mouse.move(x, y)
        page.mouse.down(button="right")
        page.mouse.move(x + 80, y - 40)  # wider by 40 HU, brighter by 10
        page.mouse.up(button="right")
        assert [page.input_value(f"#{end}") for end in ("low", "high")] == [
            "-10",
            "110",
        ]
        assert (canvas(page) != plain).any()


@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_screens_and_paper(browser, written, width):
    with opened(browser, written, (width, 800)) as page:
        wait_for(page, READY)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for left, top, right, bottom in page.evaluate(TILES):
            assert left >= 0
            assert top >= 0
            assert left + right <= width
            assert bottom > 60
        page.emulate_media(media="print")
        assert page.locator("#still").is_visible()
        assert not page.locator("#canvas").is_visible()
        assert page.locator("#lesions").is_visible()
        assert "not for diagnosis" in page.inner_text("header")


def test_without_webgl_the_picture_stands_for_the_scan(launch, written):
    with opened(launch(*NO_WEBGL), written) as page:
        wait_for(
            page, "document.getElementById('message').textContent.includes('WebGL2')"
        )
        assert page.locator("#still").is_visible()
        assert page.locator("#lesions button").count() == 1
        assert not page.locator(".window").first.is_visible()


def test_page_after_page_in_one_browser_takes_no_more_memory(browser, written):
    held = []
    for _ in range(10):
        with opened(browser, written) as page:
            wait_for(page, READY)
            held.append(memory_mb())
    assert max(held[5:]) < 1.1 * max(held[:5])


def test_a_scan_without_a_lesion_opens(browser, tmp_path):
    write_viewer(tmp_path / "viewer.html", shown_of("RAS", found=False), STILL)
    with opened(browser, tmp_path / "viewer.html") as page:
        wait_for(page, READY)
        assert "No infarct is predicted" in page.inner_text("header")
        page.keyboard.press("n")
        assert "HU" in page.inner_text("#read-out")


def test_what_deserves_a_look_is_seen_at_once(browser, tmp_path):
    path = tmp_path / "viewer.html"
    flags = ("no mid-line found", "bright as with contrast agent")
    write_viewer(path, replace(shown_of("LPS"), flags=flags), STILL)
    with opened(browser, path) as page:
        wait_for(page, READY)
        for media in ("screen", "print"):
            page.emulate_media(media=media)
            assert all(page.get_by_text(flag).is_visible() for flag in flags)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_files_of_every_orientation_are_shown_alike(codes):
    wanted, shown = shown_of("RAS"), shown_of(codes)
    np.testing.assert_array_equal(shown.hu, wanted.hu)
    np.testing.assert_allclose(shown.affine, wanted.affine, atol=1e-5)
    assert (shown.volumes["label"] == wanted.volumes["label"]).mean() > 0.999


def unpacked(text):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_volumes_in_the_page_are_the_scans():
    shown = shown_of("PIR", TILT)
    page = module.viewer_page(shown, STILL)
    volumes = dict(re.findall(r'id="volume-(\w+)">([^<]*)<', page))
    assert set(volumes) == {"ct", *LAYERS}
    scan = nib.Nifti1Image(shown.hu.transpose(2, 1, 0), shown.affine)
    for name, step in {"ct": 0.5, "asymmetry": 0.2, "anatomical": 0.01}.items():
        image = unpacked(volumes[name])
        truth = shown.hu if name == "ct" else shown.volumes[name]
        start = np.linalg.solve(scan.affine, image.affine)[:3, 3].round().astype(int)
        box = tuple(
            slice(first, first + size)
            for first, size in zip(start, image.shape, strict=True)
        )
        inside = head_mask(shown.hu, (5.0, 3.0, 3.0)).transpose(2, 1, 0)[box]
        values = image.get_fdata()
        wanted = truth.transpose(2, 1, 0)[box]
        assert np.abs(values - wanted)[inside].max() <= step
        assert (values[~inside] == (-1024 if name == "ct" else 0)).all()


def test_a_mask_is_1_and_2_at_its_edge():
    mask = np.zeros((3, 20, 20), bool)
    mask[1, 5:12, 5:12] = True
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    values = (
        unpacked(packed(mask, affine, LAYERS["lesion"])).get_fdata().transpose(2, 1, 0)
    )
    np.testing.assert_array_equal(values > 0, mask)
    assert (values[1, 6:11, 6:11] == 1).all()
    assert (values == 2).sum() == 49 - 25


def test_large_heads_lose_pixels_not_places(monkeypatch):
    shown = shown_of("RAS")
    full, affine, first = module.head_alone(shown)
    monkeypatch.setattr(module, "MOST_VOXELS", full["ct"].size // 2)
    half, wide, same = module.head_alone(shown)
    assert same == first
    assert half["ct"].shape[1:] == tuple(-(-one // 2) for one in full["ct"].shape[1:])

    def middle(volume, affine):
        z, y, x = np.argwhere(volume > 0.5).mean(axis=0)
        return affine[:3] @ [x, y, z, 1]

    for name in ("probability", "lesion"):
        np.testing.assert_allclose(
            middle(half[name], wide), middle(full[name], affine), atol=1.0
        )
    assert set(np.unique(half["lesion"])) <= {0, 1}


def test_the_table_and_the_rest_are_left_out():
    hu = np.full((4, 100, 100), -1000.0)
    hu[:, 20:70, 30:70] = 40
    hu[:, 30:60, 40:60] = -1000  # the sinuses stay
    hu[:, 90:94] = 300
    head = head_mask(hu, (5.0, 1.0, 1.0))
    assert head[:, 20:70, 30:70].all()
    assert not head[:, 85:].any()
    assert head_mask(np.full((3, 9, 9), -1000.0), (5.0, 1.0, 1.0)).all()


def test_niivue_is_what_its_script_made():
    expected = (VENDOR / "SHA256").read_text().split()[0]
    assert hashlib.sha256(niivue().encode()).hexdigest() == expected
    notices = (VENDOR / "NOTICES").read_text()
    assert notices in niivue()
    for name in ("@niivue/niivue 0.69.0 (BSD-2-Clause)", "fflate", "nifti-reader-js"):
        assert name in notices
    assert io.StringIO(niivue()).read().count("</script") == 0
