"""How quick the app is, how it bears twenty visitors, and what it looks like.

    python benchmarks/app.py speed --output docs/app
    python benchmarks/app.py visitors --minutes 5 --output docs/app
    python benchmarks/app.py screenshots --output docs/app

speed: the time from the command to the first picture, and images a second of the app over those of sample.py, in
turn, whose own start is not counted. visitors: 20 clients on the loopback address who ask for pictures all the time.
screenshots needs Chromium and Playwright. Each part writes PART.json, or pictures, to --output.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from gradio_client import Client
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.files import write_text
from cardiff.sampling.options import SampleOptions
from cardiff.sampling.sample import run

ROOT = Path(__file__).parent.parent
VISITORS, ROUNDS = 20, 3
STEPS, COLUMNS = 20, 4
HOW = ["classifier-free", 2.0, -1.0, 2.0, 0.7, 0.995, None, 1.0, "dpm"]


@contextmanager
def app(*options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """The address of an app in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-u", ROOT / "app.py", "--port", "0", *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield found[0], process
                break
    finally:
        process.terminate()
        process.wait(60)


def request(seed: int, columns: int = COLUMNS, steps: int = STEPS) -> list:
    """What a visitor asks for: all ten kinds of car."""
    return ["cars_32", [], "", columns, seed, *HOW, steps, "the model's own"]


def memory(process: subprocess.Popen) -> float:
    """Resident memory in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def speed() -> dict:
    """Cold start, and the ratio of throughputs."""
    started = time.monotonic()
    with app() as (address, _):
        client = Client(address, verbose=False)
        opened = time.monotonic() - started
        client.predict(*request(0), api_name="/draw")
        first = time.monotonic() - started
        ratios, rates = [], []
        for seed in range(1, ROUNDS + 1):
            begun = time.monotonic()
            client.predict(*request(seed, columns=10), api_name="/draw")
            theirs = time.monotonic() - begun
            options = SampleOptions(grid="/tmp/cardiff_app_speed.png", num_images=100, steps=STEPS, seed=seed)
            options.guidance_scale = [2.0]
            begun = time.monotonic()
            run(options, progress=lambda count: None)
            own = time.monotonic() - begun
            ratios.append(own / theirs)
            rates.append(100 / theirs)
    return {
        "seconds until the app answers": round(opened, 1),
        "seconds until the first picture of 40 images": round(first, 1),
        "images a second": round(statistics.median(rates), 1),
        "ratio to sample.py, median": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def visitors(minutes: float) -> dict:
    """Twenty clients who ask for a picture, wait for it, and ask again."""
    waits: list[list[float]] = [[] for _ in range(VISITORS)]
    errors: list[str] = []
    with app() as (address, process):
        Client(address, verbose=False).predict(*request(0), api_name="/draw")
        end, memories = time.monotonic() + 60 * minutes, [memory(process)]

        def visit(number: int) -> None:
            client = Client(address, verbose=False)
            seed = 1000 * number
            while time.monotonic() < end:
                seed, begun = seed + 1, time.monotonic()
                try:
                    command = client.predict(*request(seed, columns=1, steps=10), api_name="/draw")[2]
                    if f"--seed {seed} " not in command:
                        errors.append(f"asked for {seed} and got {command}")
                except Exception as error:
                    errors.append(f"{type(error).__name__}: {error}")
                waits[number].append(time.monotonic() - begun)

        threads = [threading.Thread(target=visit, args=[number]) for number in range(VISITORS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(5)
            memories.append(memory(process))
        for thread in threads:
            thread.join()
    every = sorted(wait for mine in waits for wait in mine)
    return {
        "visitors": VISITORS,
        "minutes": minutes,
        "pictures of 10 images, 10 steps": len(every),
        "errors": errors,
        "pictures of each visitor, fewest and most": [min(map(len, waits)), max(map(len, waits))],
        "seconds of waiting, median and longest": [round(statistics.median(every), 1), round(every[-1], 1)],
        "memory in MiB at the start, after a third, at most and at the end": [
            round(value) for value in (memories[0], memories[len(memories) // 3], max(memories), memories[-1])
        ],
    }


def screenshots(output: Path) -> None:
    """Each tab, in 256 colours."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with app() as (address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        def shot(name: str, go: str | None, picture: str) -> None:
            page = browser.new_page(viewport={"width": 1200, "height": 844})
            page.goto(address)
            page.get_by_role("tab", name=name.capitalize()).click()
            if go is not None:
                page.click(go)
            page.wait_for_selector(f"{picture} img", timeout=120_000)
            if name == "watch":  # half of the way
                page.locator("#watch-step input[type=range]").focus()
                for _ in range(STEPS // 2):
                    page.keyboard.press("ArrowLeft")
            page.wait_for_timeout(2000)
            shown = Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB")
            shown.quantize(256, dither=Image.Dither.NONE).save(output / f"{name}.png", optimize=True)
            page.close()

        shot("draw", "#draw-go", "#draw-picture")
        shot("watch", "#watch-go", "#watch-frame")
        shot("compare", "#compare-go", "#compare-picture")
        shot("noise", None, "#noise-curves")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "visitors", "screenshots"])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if options.part == "screenshots":
        screenshots(options.output)
        return
    found = speed() if options.part == "speed" else visitors(options.minutes)
    write_text(options.output / f"{options.part}.json", json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
