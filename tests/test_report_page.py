"""A comparison's report as people get it: tables, sheets, and the page in a real headless Chromium."""
import base64
import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data as photographs

from alignvar_arch.compare import page, sheets, tables

SIDE = 96
HOSTILE = "a<b>\"c' | {{data}} #%41"
MODELS = ["ours", HOSTILE, "exact"]  # "exact" gives GT back
IMAGES = {"set5": ["astronaut", "cat <img src=x onerror=alert(1)>"], "réal": ["coffee", "rocket"]}
METRICS = [
    {"key": "psnr", "label": "PSNR", "space": "Y", "crop_border": 4, "type": "calculate_psnr",
     "version": "basicsr 1.4.2", "options": {"crop_border": 4, "test_y_channel": True}, "better": "higher",
     "of_a_set": False},
    {"key": "lpips", "label": "LPIPS", "space": "RGB", "crop_border": 4, "type": "calculate_lpips_squeeze",
     "version": "0.1", "options": {"crop_border": 4}, "better": "lower", "of_a_set": False},
    {"key": "fid", "label": "FID", "space": "RGB", "crop_border": 0, "type": "calculate_fid", "version": "pyiqa 0.1.14",
     "options": {}, "better": "lower", "of_a_set": True},
]


def photograph(name: str) -> Image.Image:
    source = {"cat": photographs.chelsea}.get(name.split(" ")[0]) or getattr(photographs, name.split(" ")[0])
    picture = Image.fromarray(source())
    side = min(picture.size)
    return picture.crop((0, 0, side, side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def write_image(folder, set_name: str, image: str) -> dict:
    """Writes one image's pictures and returns its entry; `ours` fails on the rocket."""
    gt = photograph(image)
    lr = gt.resize((SIDE // 4, SIDE // 4), Image.Resampling.BICUBIC)
    enlarged = lr.resize(gt.size, Image.Resampling.BICUBIC)
    made = {"ours": enlarged.filter(ImageFilter.SHARPEN), HOSTILE: enlarged, "exact": gt}
    if image == "rocket":
        del made["ours"]
    place = f"pictures/{set_name}/{image}"
    (folder / place).mkdir(parents=True)
    for name, picture in {"GT": gt, "LR": lr, **made}.items():
        picture.save(folder / place / f"{name}.png")
    values = {}
    for name, picture in made.items():
        error = float(np.mean((np.asarray(picture, float) - np.asarray(gt, float)) ** 2))
        values[name] = {"psnr": 10 * np.log10(255**2 / error) if error else None, "lpips": error / 1e4}
    return {"set": set_name, "image": image, "size": [SIDE, SIDE], "gt": f"{place}/GT.png", "lr": f"{place}/LR.png",
            "pictures": {name: f"{place}/{name}.png" for name in made}, "values": values}


def write_pictures(folder) -> dict:
    """A report of three models on two sets, with its pictures under `folder`."""
    images = [write_image(folder, name, image) for name, those in IMAGES.items() for image in those]
    # PSNR is infinite for the model that is exact: a figure that is not defined, on which images are left out.
    means = {"psnr": [27.125, 26.5, None], "lpips": [0.125, 0.25, 0.0], "fid": [80.0, 90.0, 1.0]}
    summary = {name: {"common": 2 if name == "set5" else 1} for name in IMAGES}
    for figures in summary.values():
        for key, values in means.items():
            rest = {"n": figures["common"] - (key == "psnr"), "low": None, "high": None, "difference": None, "p": None}
            figures[key] = {model: {"mean": mean, **rest} for model, mean in zip(MODELS, values, strict=True)}
        figures["psnr"][HOSTILE].update(low=25.0, high=28.0, difference=-0.625, p=0.03)
    models = [{"name": name, "kind": "bicubic" if name == HOSTILE else "options", "source": None, "model_type": None,
               "weights": {}, "settings": {}, "parameters": None, "cost": None, "failed": []} for name in MODELS]
    models[0].update(parameters={"net_g": 4_000_000}, cost={"ms_1": 812.0, "ms_n": 640.0, "peak_mib": 512.0})
    models[0]["failed"].append({"set": "réal", "image": "rocket", "reason": "</script><b>nan</b>."})
    models[1].update(cost={"ms_1": 1.5, "ms_n": None, "peak_mib": None})
    protocol = {
        "scale": 4, "seed": 0, "batch": 1, "device": "CPU, 2 threads", "precision": "float32", "metrics": METRICS,
        "sets": [{"name": name, "count": 3, "hash": "0123456789abcdef", "lr": "given"} for name in IMAGES],
        "timing": {"lr_size": [128, 128], "batch": 4, "warmup": 1, "repeats": 5},
    }
    return {"format": 1, "created": "2026-11-24T02:30:00+00:00", "command": "basicsr compare", "models": models,
            "environment": {"alignvar": "0.1.0"}, "protocol": protocol, "images": images, "summary": summary,
            "unreadable": [{"set": "set5", "image": "broken <1>", "reason": "it is no picture"}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def report(folder) -> dict:
    report = write_pictures(folder)
    for writer in (tables, sheets, page):
        writer.write(folder, report)
    return report


def test_csv_is_tidy(folder, report):
    with open(folder / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["set", "image", "model", "psnr", "lpips"]
    assert len(rows) == 4 * 3
    by_key = {(row["set"], row["image"], row["model"]): row for row in rows}
    assert by_key["réal", "rocket", "ours"]["psnr"] == ""
    entry = next(image for image in report["images"] if image["image"] == "coffee")
    assert float(by_key["réal", "coffee", HOSTILE]["psnr"]) == pytest.approx(entry["values"][HOSTILE]["psnr"], abs=1e-6)


def test_markdown_has_whole_tables_and_names_failures(folder, report):
    lines = (folder / "report.md").read_text(encoding="utf-8").splitlines()
    rows = [line.replace("\\|", "") for line in lines if line.startswith("| ")]
    assert {row.count("|") for row in rows} == {9, 5}  # eight columns, then four of differences: no name breaks a row
    assert any(row.startswith("| ours | **27.12** |") and "| 4.00 M | 812 | 640 | 512 |" in row for row in rows)
    assert sum("| PSNR ↑, n = 1 | LPIPS ↓ |" in row for row in rows) == 2
    assert any("26.50 [25.00, 28.00]" in row for row in rows) and any("-0.62 (p = 0.030)" in row for row in rows)
    assert "- réal, rocket: ours: \\</script\\>\\<b\\>nan\\</b\\>." in lines
    assert "- set5, broken \\<1\\>: unreadable: it is no picture" in lines


def test_a_sheet_for_each_image(folder, report):
    files = sorted((folder / "sheets").iterdir())
    assert len(files) == 4
    with Image.open(files[0]) as sheet:
        assert round(sheet.info["dpi"][0]) == 300 and sheet.mode == "RGB" and sheet.getpixel((0, 0)) == (255, 255, 255)
        corner = np.asarray(sheet)
    # The model that gives GT back stands last: the same crop as GT's, and a black error map.
    cell = 48 * 4
    last = corner[12:12 + cell, -12 - cell:-12]
    assert (corner[-12 - cell:-12, -12 - cell:-12] == 0).all()
    columns = [corner[12:12 + cell, x:x + cell] for x in range(12, corner.shape[1] - cell - 12 - cell)]
    assert any(np.array_equal(last, column) for column in columns)


def test_the_crop_is_where_models_differ_most():
    first = np.zeros((40, 60, 3), np.float32)
    second = first.copy()
    second[21:29, 33:41] = 9
    second[2, 2] = 50
    assert sheets.most_different([first, second], 8) == (21, 33)


def test_of_a_large_set_the_worst_and_the_best_have_sheets(folder, report, tmp_path):
    entry = report["images"][0]
    scores = [index * 7 % 30 for index in range(30)]
    many = [{**entry, "image": f"{score:02}", "values": {"ours": {"psnr": float(score)}}} for score in scores]
    shutil.copytree(folder / "pictures", tmp_path / "pictures")
    sheets.write(tmp_path, {**report, "images": many})
    kept = {int(path.stem.removeprefix("set5_")) for path in (tmp_path / "sheets").iterdir()}
    assert kept == {*range(12), *range(18, 30)}


def test_names_that_make_the_same_file_keep_a_sheet_each(folder, report, tmp_path):
    entry = report["images"][0]
    images = [{**entry, "set": "a", "image": "b_c" + "ä" * 120}, {**entry, "set": "a_b", "image": "c" + "ä" * 120}]
    sets = [{"name": name} for name in ("a", "a_b")]
    shutil.copytree(folder / "pictures", tmp_path / "pictures")
    sheets.write(tmp_path, {**report, "images": images, "protocol": {**report["protocol"], "sets": sets}})
    assert len(list((tmp_path / "sheets").iterdir())) == 2


# ---- the page in a browser


@pytest.fixture
def view(browser, folder, report):
    """The page, freshly opened in a light window of 1280 x 900, images by name; whatever a test did, no error may
    be on the console."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    show(browser, folder / "index.html")
    assert texts(browser, "#order option:checked") == ["worst first"]
    choose(browser, "#order", "by name")
    browser.execute_script("scrollTo(0, 0)")  # choosing has scrolled
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def show(browser, path, width=1280, height=900, scheme="light", mobile=False):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile})
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": mobile})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                            {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get(path.as_uri())


def find(browser, selector: str):
    return browser.find_element("css selector", selector)


def texts(browser, selector: str) -> list[str]:
    return [element.text for element in browser.find_elements("css selector", selector)]


def press(browser, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def choose(browser, selector: str, label: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(find(browser, selector)).select_by_visible_text(label)
    browser.execute_script("document.activeElement.blur()")  # a list that has the focus keeps its keys


def pixels(browser, selector: str) -> np.ndarray:
    """A screenshot of an element, int (H, W, 3)."""
    browser.execute_script("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
    picture = Image.open(io.BytesIO(base64.b64decode(find(browser, selector).screenshot_as_base64)))
    return np.asarray(picture.convert("RGB")).astype(int)


def stored(folder, path: str) -> np.ndarray:
    """A picture of the report, int (H, W, 3)."""
    with Image.open(folder / path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def order(browser) -> list[str]:
    return [name.split("\n")[0] for name in texts(browser, "#results tbody th")]


def test_it_loads_without_errors_and_asks_nobody_for_anything(view, folder, report):
    requests = []
    for entry in view.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            requests.append(message["params"]["request"]["url"])
    page_url = (folder / "index.html").as_uri()
    assert {url for url in requests if not url.startswith("data:")} == {page_url}
    assert view.execute_script("return [...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert find(view, "h1").text == f"ours compared with {HOSTILE}, exact"
    assert "All pictures are inside this page" in find(view, "footer").text
    assert texts(view, "#failures li") == ["set5, broken <1>: unreadable: it is no picture",
                                           "réal, rocket: ours: </script><b>nan</b>."]
    assert "PSNR ↑: Y, crop border 4; calculate_psnr, basicsr 1.4.2" in find(view, "#protocol").text


def test_foreign_scripts_styles_and_pictures_are_refused(browser, folder, report):
    show(browser, folder / "index.html")
    browser.execute_script("""
        const script = document.createElement('script');
        script.textContent = 'window.intruded = true';
        const picture = new Image();
        picture.src = 'https://example.org/x.png';
        document.body.append(script, picture);""")
    assert browser.execute_script("return window.intruded === undefined")
    log = [entry["message"] for entry in browser.get_log("browser")]
    assert sum("Content Security Policy" in message for message in log) == 2


def test_the_table_sorts_by_click_and_by_key(view, report):
    from selenium.webdriver import Keys

    assert order(view) == MODELS
    assert texts(view, "#results thead small")[1:4] == ["Y, n = 1", "RGB", "RGB"]
    head = "#results th:nth-child(2)"
    find(view, f"{head} button").click()
    assert order(view) == ["ours", HOSTILE, "exact"] and find(view, head).get_attribute("aria-sort") == "descending"
    find(view, f"{head} button").send_keys(Keys.ENTER)
    # The model without a PSNR stays last.
    assert order(view) == [HOSTILE, "ours", "exact"] and find(view, head).get_attribute("aria-sort") == "ascending"
    find(view, "#results th:nth-child(3) button").send_keys(Keys.SPACE)
    assert order(view) == ["exact", "ours", HOSTILE], "lower LPIPS is better and comes first"
    assert find(view, head).get_attribute("aria-sort") is None
    assert texts(view, "#results .best") == ["0.0000", "1.000", "27.13"]
    find(view, "#results th:nth-child(1) button").click()
    assert order(view) == [HOSTILE, "exact", "ours"]


def test_sets_are_chosen_together_for_table_and_images(view, report):
    find(view, "#sets button:nth-child(2)").click()
    assert "Means over the 1 (of 3) images" in find(view, "#results-note").text
    assert "1 failed" in find(view, "#results tbody th").text
    assert texts(view, "#strip button span:first-of-type") == IMAGES["réal"]
    find(view, "#strip button:nth-child(2)").click()
    assert find(view, "#pane-left").text == "ours failed here: </script><b>nan</b>."


def test_plots_are_drawn(view, report):
    # Two models have a time, one has parameters; the others are level lines.
    assert len(view.find_elements("css selector", "#plot-time circle")) == 2
    assert "logarithmic" in find(view, "#plot-time svg").text
    choose(view, "#plot-metric", "LPIPS ↓")
    assert len(view.find_elements("css selector", "#plot-parameters circle")) == 1
    assert len(view.find_elements("css selector", "#plot-parameters .level")) == 2
    assert {"ours", HOSTILE, "exact"} <= set(texts(view, "#plot-parameters .label"))


def test_the_divider_moves_by_pointer_and_by_keys(view, folder, report):
    from selenium.webdriver import ActionChains, Keys

    choose(view, "#left", "exact")
    choose(view, "#right", HOSTILE)
    view.execute_script("document.querySelector('#stage').scrollIntoView({block: 'center'})")
    frame = find(view, ".frame")
    factor = frame.size["width"] // SIDE
    assert frame.size["width"] == SIDE * factor and factor > 2
    ActionChains(view).drag_and_drop_by_offset(find(view, ".handle"), frame.size["width"] // 4, 0).perform()
    assert float(find(view, "#divider").get_attribute("value")) == pytest.approx(75, abs=1)
    inset = view.execute_script("return document.querySelector('#pane-left').style.clipPath")
    assert float(inset.split()[1].rstrip("%")) == pytest.approx(25, abs=1)

    def check(percent):
        shot = pixels(view, ".frame")[factor // 2::factor, factor // 2::factor]
        split, beside = round(SIDE * percent / 100), 24 // factor  # the handle covers so much on either side
        left, right = (stored(folder, report["images"][0]["pictures"][name]) for name in ("exact", HOSTILE))
        for part in (slice(0, split - beside), slice(split + beside, None)):
            assert np.abs(left - right)[:, part].max() > 20
        assert np.abs(shot - left)[:, :split - beside].max() <= 2
        assert np.abs(shot - right)[:, split + beside:].max() <= 2

    check(75)
    press(view, *[Keys.ARROW_LEFT] * 50)  # the divider has the focus
    assert float(find(view, "#divider").get_attribute("value")) == pytest.approx(25, abs=1)
    check(25)


def places(browser) -> list:
    return browser.execute_script("""return [...document.querySelectorAll('.picture')].map(
        picture => [picture.offsetLeft, picture.offsetTop, picture.offsetWidth, picture.offsetHeight])""")


def test_zoom_and_pan_move_all_panes_in_step(view, report):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    press(view, "g")
    start = places(view)
    assert len(start) == len(MODELS) + 2 and all(place == start[0] for place in start)
    press(view, "+")
    closer = places(view)
    assert all(place == closer[0] for place in closer) and closer[0][2] > start[0][2]
    assert find(view, "#zoom").text == f"{round(closer[0][2] / SIDE * 100)} %"
    assert find(view, ".picture img").value_of_css_property("image-rendering") == "pixelated"
    view.execute_script("document.querySelector('#stage').scrollIntoView({block: 'center'})")
    third = view.find_elements("css selector", ".frame")[2]
    ActionChains(view).drag_and_drop_by_offset(third, 30, 20).perform()
    moved = places(view)
    assert all(place == moved[0] for place in moved)
    assert [moved[0][0] - closer[0][0], moved[0][1] - closer[0][1]] == [30, 20]
    wheel = ActionChains(view).key_down(Keys.CONTROL).scroll_from_origin(ScrollOrigin.from_element(third), 0, -100)
    wheel.key_up(Keys.CONTROL).perform()
    wheeled = places(view)
    assert all(place == wheeled[0] for place in wheeled) and wheeled[0][2] > moved[0][2]
    press(view, "0")
    assert places(view) == start
    press(view, "1")
    assert places(view)[0][2] == SIDE


def test_an_error_map_is_black_where_the_model_equals_gt(view, folder, report):
    choose(view, "#left", "exact")
    choose(view, "#right", HOSTILE)
    view.execute_script("moveDivider(100)")
    press(view, "e")
    assert find(view, "#errors").get_attribute("aria-pressed") == "true" and "× 8;" in find(view, "#error-note").text
    factor = find(view, ".frame").size["width"] // SIDE
    inside = slice(0, 40)  # left of and above the handle

    def shot():
        return pixels(view, ".frame")[factor // 2::factor, factor // 2::factor][inside, inside]

    assert shot().max() == 0
    press(view, "x")
    entry = report["images"][0]
    error = np.abs(stored(folder, entry["pictures"][HOSTILE]) - stored(folder, entry["gt"]))[inside, inside]
    assert np.abs(shot() - np.minimum(error * 8, 255)).max() <= 8
    choose(view, "#amplification", "2")
    assert np.abs(shot() - np.minimum(error * 2, 255)).max() <= 4
    press(view, "e")
    assert np.abs(shot() - stored(folder, entry["pictures"][HOSTILE])[inside, inside]).max() <= 2


def test_keys_go_through_the_images_and_tell_themselves(view, report):
    from selenium.webdriver import Keys

    names = IMAGES["set5"]
    assert find(view, "#image-name").text.startswith(f"{names[0]} · 1 of 2")
    press(view, Keys.ARROW_RIGHT)
    assert find(view, "#image-name").text.startswith(f"{names[1]} · 2 of 2")
    assert f"PSNR {report['images'][1]['values']['ours']['psnr']:.2f}" in find(view, "#captions").text
    press(view, Keys.ARROW_RIGHT)
    assert find(view, "#image-name").text.startswith(f"{names[1]} · 2 of 2"), "the last one stays"
    press(view, Keys.ARROW_LEFT)
    assert find(view, "#image-name").text.startswith(f"{names[0]} · 1 of 2")
    press(view, "?")
    assert find(view, "#help").is_displayed()
    press(view, Keys.ESCAPE)
    assert not find(view, "#help").is_displayed()


def test_images_are_listed_worst_and_best_first(view, report):
    values = {image["image"]: image["values"] for image in report["images"] if image["set"] == "set5"}
    worst_first = sorted(values, key=lambda name: values[name]["ours"]["psnr"])
    choose(view, "#order", "worst first")
    assert texts(view, "#strip button span:first-of-type") == worst_first
    choose(view, "#order", "best first")
    assert texts(view, "#strip button span:first-of-type") == worst_first[::-1]
    assert find(view, "#image-name").text.startswith(worst_first[-1])
    choose(view, "#order-metric", "LPIPS")
    choose(view, "#order", "largest loss to ours")
    losses = {name: figures[HOSTILE]["lpips"] - figures["ours"]["lpips"] for name, figures in values.items()}
    assert texts(view, "#strip button span:first-of-type") == sorted(losses, key=losses.get, reverse=True)


def test_on_a_phone_nothing_scrolls_sideways_and_touch_works(browser, folder, report):
    show(browser, folder / "index.html", 360, 740, mobile=True)
    for key in ("s", "g", "e"):
        press(browser, key)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    press(browser, "s")
    browser.execute_script("document.querySelector('#stage').scrollIntoView({block: 'center'})")
    box = browser.execute_script("return document.querySelector('.frame').getBoundingClientRect().toJSON()")
    x, y = box["left"] + box["width"] / 2, box["top"] + box["height"] / 2

    def touch(kind, *points):
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {
            "type": kind, "touchPoints": [{"x": px, "y": py, "id": index} for index, (px, py) in enumerate(points)]})

    touch("touchStart", (x, y))
    for offset in (20, 40, 60):
        touch("touchMove", (x + offset, y))
    touch("touchEnd")
    assert float(find(browser, "#divider").get_attribute("value")) == pytest.approx(50 + 6000 / box["width"], abs=1)
    before = places(browser)[0][2]
    touch("touchStart", (x - 20, y), (x + 20, y))
    for spread in (25, 30, 40):
        touch("touchMove", (x - spread, y), (x + spread, y))
    touch("touchEnd")
    assert places(browser)[0][2] == pytest.approx(2 * before, rel=0.1)


def test_dark_mode(browser, folder, report):
    colours = "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    brightness = {}
    for scheme in ("light", "dark"):
        show(browser, folder / "index.html", scheme=scheme)
        found = browser.execute_script(colours)
        brightness[scheme] = [sum(map(int, colour[4:-1].split(","))) for colour in found]
    assert brightness["light"][0] > 700 > 150 > brightness["light"][1]
    assert brightness["dark"][0] < 100 < 600 < brightness["dark"][1]


def test_beyond_the_limit_pictures_are_linked(browser, folder, report):
    embedded = (folder / "index.html").stat().st_size
    page.write(folder, report, limit=10_000)
    linked = folder / "linked.html"
    (folder / "index.html").rename(linked)
    page.write(folder, report)
    assert (folder / "index.html").stat().st_size == embedded > linked.stat().st_size
    show(browser, linked)
    browser.execute_script("setMode('grid')")
    waiting = "return [...document.images].filter(image => !(image.complete && image.naturalWidth)).length"
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 5).until(lambda _: browser.execute_script(waiting) == 0)
    assert browser.execute_script("return document.images[0].src").startswith("file:")
    assert "the files in pictures/" in find(browser, "footer").text
