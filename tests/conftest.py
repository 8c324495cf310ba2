"""Servers for the tests of clients and of the page: `ferrowarp serve` on softcuda, as `./x test-clients` starts them."""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import urllib.request

import pytest

# No client asks anybody but the server.
os.environ.update({
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "OPENAI_API_KEY": "none",
    "ANTHROPIC_API_KEY": "none",
})


def pytest_addoption(parser):
    parser.addoption("--program", required=True, help="ferrowarp")
    parser.addoption("--models", required=True, help="the folder that ./x models fills")
    parser.addoption("--chromium", default="/usr/bin/chromium", help="the browser's file [default: /usr/bin/chromium]")
    parser.addoption("--screenshots", help="a folder for the page's screenshots [default: none are kept]")


class Server:
    """A `ferrowarp serve` process on a free port."""

    def __init__(self, program, folder, *arguments):
        number, self.log = tempfile.mkstemp(prefix="server-", suffix=".log", dir=folder)
        self.log = pathlib.Path(self.log)
        # Of ports that are free, the system gives one, and the server says which.
        command = [program, "serve", "--device", "soft", "--port", "0", *arguments]
        with open(number, "w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.url = self.wait_for_url()
        except BaseException:
            # Nobody else knows of it yet.
            self.process.kill()
            raise

    def wait_for_url(self):
        """It is said once requests are taken."""
        deadline = time.monotonic() + 300
        while not (said := re.search(r" at (http://[0-9.:]+)$", self.log.read_text(), re.MULTILINE)):
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"not ready after five minutes: {self.log.read_text()}"
            time.sleep(0.05)
        return said[1]

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read().decode()

    @property
    def model(self):
        """The name of its model."""
        return json.loads(self.get("/v1/models"))["data"][0]["id"]

    def metric(self, name):
        return float(re.search(rf"^ferrowarp_{name} (\S+)$", self.get("/metrics"), re.MULTILINE)[1])

    def is_idle(self):
        return self.metric("requests_running") == 0 and self.metric("requests_waiting") == 0

    def wait_until_idle(self):
        deadline = time.monotonic() + 300
        while not self.is_idle():
            assert time.monotonic() < deadline, "sequences of clients that went away are still running"
            time.sleep(0.02)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert code == 0, f"ended with {code}: {self.log.read_text()}"


@pytest.fixture(scope="session")
def serve(request, tmp_path_factory):
    """Starts servers, given their arguments, and ends them when all tests are done."""
    servers = []
    folder = tmp_path_factory.mktemp("servers")

    def start(*arguments):
        servers.append(Server(request.config.getoption("--program"), folder, *arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def haiku_server(serve):
    # Numbers that do not depend on who else asks: an answer can be compared with another to the same question.
    return serve("--batch-invariant")


@pytest.fixture
def haiku(haiku_server):
    """A server of the embedded model. Whatever a test does, it leaves nothing running."""
    yield haiku_server
    haiku_server.wait_until_idle()


@pytest.fixture(scope="session")
def tools_server(serve):
    root = pathlib.Path(__file__).parent / "fixtures"
    template = root / "templates" / "Qwen-Qwen3-0.6B.jinja"
    return serve("-m", str(root / "models" / "qwen3-tiny-q4_k_m.gguf"), "--chat-template-file", str(template), "--batch-invariant")


@pytest.fixture
def tools(tools_server):
    """A server of a model that has learned nothing, with Qwen3's template, and room for tools, which the embedded model has not."""
    yield tools_server
    tools_server.wait_until_idle()


@pytest.fixture(scope="session")
def smollm2(request, serve):
    """A server of SmolLM2-135M, which makes some six tokens a second."""
    return serve("-m", str(pathlib.Path(request.config.getoption("--models")) / "SmolLM2-135M-Instruct.Q4_1.gguf"))
