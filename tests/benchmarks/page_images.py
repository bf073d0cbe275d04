"""As imagens do README: a página e o painel como estão, no Chromium do sistema.

    python tests/benchmarks/page_images.py                              # o modelo longo
    python tests/benchmarks/page_images.py --config configs/rapido.yaml

Abre a página numa porta livre, faz perguntas de verdade ao modelo treinado e grava em
mini-projeto/imagens/. Precisa do extra [browser] e do Chromium; o painel é o das suas notas ou, sem
elas, o das que vêm com o repositório. Um a dois minutos.
"""

import argparse
import shutil
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "semana06-fine-tuning" / "mini-projeto"
PROJECT = ROOT / "mini_projeto_fine_tuning_especializado"
IMAGES = ROOT / "imagens"
QUESTION = "faturamento por forma de pagamento em 2024"
OVER_TIME = "faturamento por mês em 2024"
WAIT_MS = 120_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sys.path.insert(0, str(PROJECT))
    import comum  # noqa: F401  (antes do torch)

    from loja_sql.config import add_config_arguments, config_from_args
    from loja_sql.model.assistant import add_model_arguments, settings
    from loja_sql.page.session import Page

    add_config_arguments(parser)
    add_model_arguments(parser)
    args = parser.parse_intermixed_args()
    page = Page(*settings(config_from_args(args), args))
    import app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    blocks = app.launch(page, "127.0.0.1", port)
    photograph(blocks.local_url)
    blocks.close()


def photograph(url: str) -> None:
    """Grava as quatro imagens."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        wide = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
        narrow = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
        view = browser.new_page(locale="pt-BR", **wide)
        view.goto(url)
        ask(view, QUESTION)
        save(view, "pagina.png")
        view.get_by_role("tab", name="Comparar").click()
        view.locator("#comparar").click()
        view.wait_for_function(
            "document.querySelectorAll('#comparacao section').length == "
            "document.querySelectorAll('input[type=checkbox]:checked').length && "
            "!document.querySelector('#comparacao')?.innerText.includes('Escrevendo')",
            timeout=WAIT_MS,
        )
        view.wait_for_timeout(3000)
        save(view, "pagina_comparar.png")
        view.get_by_role("tab", name="Métricas").click()
        view.frame_locator("#metricas iframe").locator(".barlayer").first.wait_for(timeout=WAIT_MS)
        view.wait_for_timeout(1000)
        save(view, "painel.png")
        phone = browser.new_page(locale="pt-BR", **narrow)
        phone.goto(url)
        ask(phone, OVER_TIME)
        save(phone, "pagina_telefone.png")
        browser.close()


def ask(view, question: str) -> None:
    view.locator("#pergunta textarea").fill(question)
    view.keyboard.press("Enter")
    view.locator("#estado [role]").wait_for(timeout=WAIT_MS)
    view.wait_for_timeout(3000)  # o gráfico se desenha depois das linhas


def save(view, name: str) -> None:
    view.screenshot(path=IMAGES / name, full_page=True)
    print(IMAGES / name)


if __name__ == "__main__":
    main()
