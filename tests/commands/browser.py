"""A headless Chromium, driven through the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
from pathlib import Path

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A page in a browser of its own; use it as ``async with Page(folder) as page``.

    Args:
        folder: For the browser's profile; it must exist.
        width: Of the window, pixels.
        height: Likewise.
    """

    def __init__(self, folder: Path, width: int = 1280, height: int = 960) -> None:
        self.folder, self.size = folder, (width, height)
        self.number = 0

    async def __aenter__(self) -> Page:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"]
        options += [f"--user-data-dir={self.folder}", f"--window-size={self.size[0]},{self.size[1]}", "--remote-debugging-port=0"]
        self.process = subprocess.Popen([CHROMIUM, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await self._connect()
        except BaseException:
            self.process.kill()
            raise
        return self

    async def _connect(self) -> None:
        told = self.folder / "DevToolsActivePort"
        for _ in range(600):
            if told.is_file() and told.read_text().count("\n"):
                break
            await asyncio.sleep(0.1)
        port = told.read_text().split("\n")[0]
        self.session = aiohttp.ClientSession()
        async with self.session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            target = next(each for each in await answer.json() if each["type"] == "page")
        self.socket = await self.session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        self.process.terminate()
        self.process.wait(20)

    async def ask(self, method: str, **parameters: object) -> dict:
        """One command and its answer."""
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        while (answer := await self.socket.receive_json(timeout=60)).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    async def value(self, script: str) -> object:
        """What ``script`` evaluates to."""
        return (await self.ask("Runtime.evaluate", expression=script, returnByValue=True))["result"].get("value")

    async def until(self, script: str, seconds: float = 240) -> None:
        """Wait until ``script`` is truthy."""
        for _ in range(int(seconds * 5)):
            if await self.value(f"!!({script})"):
                return
            await asyncio.sleep(0.2)
        raise AssertionError(f"never true: {script}; the page says: {await self.value('document.body.innerText')}")

    async def upload(self, file: Path) -> None:
        """Choose a file in the page's first file input."""
        root = (await self.ask("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.ask("DOM.querySelector", nodeId=root, selector="input[type=file]"))["nodeId"]
        await self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    async def screenshot(self) -> bytes:
        """A PNG of the window."""
        return base64.b64decode((await self.ask("Page.captureScreenshot", format="png"))["data"])
