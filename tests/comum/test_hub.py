"""O hub só é procurado por quem o nomeia; sem ele, serve na hora o que já se baixou."""

import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from comum.hub import look_for
from comum.models import load_model, load_tokenizer
from comum.terminal import UserError

import pytest
from huggingface_hub import constants

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def endpoint(monkeypatch):
    def at(url: str) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        look_for.cache_clear()

    return at


class Answering(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_HEAD(self):  # noqa: N802
        self.asked.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_hub_that_answers_anything_is_there(endpoint, capsys):
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint(f"http://127.0.0.1:{server.server_port}")
        look_for("pessoa/modelo")
        server.shutdown()
    assert not constants.HF_HUB_OFFLINE and Answering.asked
    assert capsys.readouterr().out == "Procurando pessoa/modelo no hub da Hugging Face…\n"


def test_nothing_on_the_disk_is_looked_for(endpoint, tmp_path, capsys):
    endpoint(NOWHERE)
    look_for(str(tmp_path))
    assert not constants.HF_HUB_OFFLINE and not capsys.readouterr().out


@pytest.mark.parametrize("load", [load_tokenizer, load_model])
def test_without_a_network_a_missing_model_fails_at_once(endpoint, capsys, load):
    """O que falha na hora é o modo offline: fora dele, seriam seis tentativas por arquivo."""
    endpoint(NOWHERE)
    with pytest.raises(UserError, match="o hub não o trouxe"):
        load("pessoa/modelo")
    assert constants.HF_HUB_OFFLINE and "O hub não responde" in capsys.readouterr().out


def test_without_a_network_what_was_downloaded_still_opens(
    endpoint, tiny_llama, tmp_path, monkeypatch, capsys
):
    cached = tmp_path / "models--pessoa--modelo"
    shutil.copytree(tiny_llama, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    endpoint(NOWHERE)
    assert load_model("pessoa/modelo").config.num_hidden_layers == 2
    assert load_tokenizer("pessoa/modelo").encode("loja")
    assert constants.HF_HUB_OFFLINE and capsys.readouterr().out.count("Procurando") == 1


def test_what_is_wrong_with_the_address_is_left_to_who_loads(endpoint):
    endpoint("sem-protocolo")
    look_for("pessoa/modelo")
    assert not constants.HF_HUB_OFFLINE
