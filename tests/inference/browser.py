"""A headless Chromium, driven through its DevTools protocol."""

import asyncio
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tornado.websocket import websocket_connect

PROGRAM = next(filter(shutil.which, ("chromium", "chromium-browser", "chrome")), None)


SIZE = (1000, 700)


class Page:
    """A page that is open in the browser."""

    def __init__(self, socket, loop):
        self.socket, self.loop, self.calls = socket, loop, 0

    def call(self, method, **params):
        """Send a command and return its result."""
        self.calls += 1
        message = {"id": self.calls, "method": method, "params": params}
        return self.loop.run_until_complete(self._answer(json.dumps(message)))

    async def _answer(self, message):
        await self.socket.write_message(message)
        while True:
            text = await asyncio.wait_for(self.socket.read_message(), 60)
            answer = json.loads(text)
            if answer.get("id") == self.calls:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script):
        """The value of a script, of a promise too."""
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, file, before=""):
        """Load a file, after a script of our own, and wait for it."""
        self.call("Page.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.call("Page.navigate", url=Path(file).resolve().as_uri())
        self.run(
            "new Promise(done => document.readyState == 'complete' ? done() : "
            "addEventListener('load', () => done()))"
        )

    def click(self, x, y):
        """Press and release the left button at a place in CSS pixels."""
        place = {"x": x, "y": y, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **place)


@contextmanager
def open_browser(profile: Path) -> Iterator[Page]:
    """A browser with one empty page; it ends with the block."""
    flags = [
        "--headless=new",
        "--no-sandbox",  # root in CI's container may not make one
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
        "--remote-debugging-port=0",
        f"--window-size={SIZE[0]},{SIZE[1]}",
        f"--user-data-dir={profile}",
    ]
    program = subprocess.Popen(
        [PROGRAM, *flags, "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HOME": str(profile)},
    )
    loop = asyncio.new_event_loop()
    try:
        lines = iter(program.stderr.readline, "")
        line = next(line for line in lines if "DevTools listening" in line)
        port = line.split("127.0.0.1:")[1].split("/")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            url = next(
                one["webSocketDebuggerUrl"]
                for one in json.load(answer)
                if one["type"] == "page"
            )

        # tornado asks for the loop that runs, so it is spoken to inside of it alone
        async def connect():
            return await websocket_connect(url, max_message_size=2**27)

        async def hang_up():
            socket.close()

        socket = loop.run_until_complete(connect())
        yield Page(socket, loop)
        loop.run_until_complete(hang_up())
    finally:
        program.kill()
        program.communicate()
        loop.close()
