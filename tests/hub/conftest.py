"""A Hub of the loopback address, and a model to push there."""

import time

import huggingface_hub
import pytest

from cardiff.hub import client
from cardiff.hub.serialization import save_pipeline
from tests.support.hub_server import HubServer
from tests.support.tiny_models import tiny_pipeline


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server, for this process and the ones that it starts; nothing waits between attempts."""
    with HubServer() as server:
        server.redirect(monkeypatch, tmp_path / "home")
        monkeypatch.setattr(client, "WAITS", (0.0, 0.0))
        sleep = time.sleep  # no pause is left out: who waits for a process would be too busy to let it run
        monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
        yield server
        huggingface_hub.utils.close_session()


@pytest.fixture
def folder(tmp_path):
    save_pipeline(tiny_pipeline(), tmp_path / "model")
    return tmp_path / "model"
