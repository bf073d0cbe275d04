"""A conversa com quem digita: ajuda e erros em português, numa frase, com o código certo."""

from comum.terminal import Parser, UserError, above_zero, run_main

import pytest


def parser() -> Parser:
    made = Parser("O que faz.\n\n    python exemplo.py --size 3")
    made.add_argument("--size", type=above_zero(int), default=8, help="tamanho")
    made.add_argument("--kind", choices=["um", "dois"])
    return made


def test_help_is_in_portuguese_and_keeps_the_lines(capsys):
    with pytest.raises(SystemExit) as done:
        parser().parse_args(["--help"])
    shown = capsys.readouterr().out
    assert done.value.code == 0
    assert "uso:" in shown and "mostra esta ajuda e sai" in shown
    assert "\n    python exemplo.py --size 3\n" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sise", "3"], "argumento desconhecido: --sise"),
        (["--size"], "--size: falta o valor"),
        (["--size", "muito"], "--size: "),
        (["--size", "0"], "--size: "),
        (["--size", "-3"], "--size: "),
        (["--kind", "três"], "--kind: valor inválido: 'três' (escolha entre"),
    ],
)
def test_a_wrong_flag_is_one_sentence_and_code_two(capsys, arguments, words):
    with pytest.raises(SystemExit) as done:
        parser().parse_args(arguments)
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert done.value.code == 2
    assert last.startswith("Erro: ") and words in last and "--help" in last


def test_run_main_turns_errors_into_codes(capsys):
    def broken(error: BaseException):
        raise error

    assert run_main(lambda: None) == 0 and run_main(lambda code: code, 1) == 1
    assert run_main(broken, UserError("falta o arquivo x; crie-o")) == 2
    assert capsys.readouterr().err == "Erro: falta o arquivo x; crie-o\n"
    assert run_main(broken, KeyboardInterrupt()) == 130
    with pytest.raises(ZeroDivisionError):  # um defeito nosso não se esconde
        run_main(broken, ZeroDivisionError())
