"""A conversa com quem digita: ajuda e erros em português, numa frase, com o código certo."""

import errno
import os
import subprocess
import sys

from comum.terminal import Parser, UserError, above_zero, from_zero, run_main, seed

import pytest


def parser() -> Parser:
    made = Parser("O que faz.\n\n    python exemplo.py --size 3")
    made.add_argument("--size", type=above_zero(int), default=8, help="tamanho")
    made.add_argument("--kind", choices=["um", "dois"])
    made.add_argument("--port", type=above_zero(int, most=65535))
    made.add_argument("--dropout", type=from_zero(float, below=1))
    made.add_argument("--seed", type=seed)
    made.add_argument("--output")
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
        (["--port", "99999"], "--port: esperava um inteiro maior que zero e até 65535"),
        (["--dropout", "1"], "--dropout: esperava um número de 0 até antes de 1"),
        (["--dropout", "nan"], "--dropout: esperava um número"),
        (["--seed=-1"], "--seed: esperava um inteiro de 0"),
        (["--output", ""], "--output: o valor está vazio"),
        (["--output", " "], "--output: o valor está vazio"),
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
    capsys.readouterr()
    assert run_main(open, "/dev/null/x") == 2
    assert "/dev/null/x: há um arquivo no meio do caminho" in capsys.readouterr().err
    assert run_main(broken, OSError(errno.ENOSPC, "")) == 2
    assert "o disco está cheio" in capsys.readouterr().err
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        assert run_main(broken, error) == 2
        assert "faltou memória" in capsys.readouterr().err
    for error in (RuntimeError("memory format"), OSError(errno.EIO, "")):
        with pytest.raises(type(error)):
            run_main(broken, error)
    with pytest.raises(ZeroDivisionError):  # um defeito nosso não se esconde
        run_main(broken, ZeroDivisionError())


def test_a_console_without_our_letters_and_a_closed_pipe_are_not_errors():
    """Em cp1252 (o Windows, ao redirecionar) não há a seta; `| head` fecha o cano antes do fim."""
    code = "from comum.terminal import run_main; run_main(lambda: print('dia 3 → ção'))"
    command, environment = [sys.executable, "-c", code], os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "dia 3 ? ção\n".encode("cp1252"), b"")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
