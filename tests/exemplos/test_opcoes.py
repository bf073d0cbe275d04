"""As opções das quatro lições: cada engano é uma frase, com o código 2, antes do trabalho."""

from comum.terminal import run_main

import pytest

import exemplo_01_fine_tuning_basico as day3
import exemplo_02_lora_peft as day4
import exemplo_03_quantizacao as day5
import exemplo_04_dataset_preparation as day6


@pytest.mark.parametrize(
    ("lesson", "arguments", "sentence"),
    [
        (day3, "--modelo x", "argumento desconhecido"),
        (day3, "--epochs muitas", "--epochs: "),
        (day3, "--batch-size 0", "maior que zero"),
        (day3, "--learning-rate nan", "maior que zero"),
        (day3, "--name ../fora", "--name: use só letras"),
        (day3, "--tracking excel", "valor inválido"),
        (day4, "--rank 0", "maior que zero"),
        (day4, "--dropout 1", "--dropout: esperava"),
        (day4, "--variant lorra", "valor inválido: 'lorra'"),
        (day4, "--study quick", "argumento desconhecido"),
        (day5, "--nada", "argumento desconhecido"),
        (day5, "--model", "falta o valor"),
        (day5, "--model /nao/existe", "falta config.json"),
        (day6, "--validation 0.6 --test 0.5", "juntas"),
        (day6, "--near 0.2", "--related não pode ser maior"),
        (day6, "--format sql", "valor inválido"),
    ],
)
def test_a_bad_option_is_refused_before_anything(capsys, lesson, arguments, sentence):
    with pytest.raises(SystemExit) as caught:
        lesson.arguments(arguments.split())
    error = capsys.readouterr().err
    assert caught.value.code == 2 and sentence in error
    assert error.strip().splitlines()[-1].startswith("Erro:")


@pytest.mark.parametrize(
    ("lesson", "arguments", "sentence"),
    [
        (day3, "--model pasta/que/nao/existe", "não consegui carregar o modelo"),
        (day3, "--data nao/existe", "não existe"),
        (day4, "--model pasta/que/nao/existe", "não consegui carregar o modelo"),
        (day4, "--target-modules q_proj,x_proj", "linear chamada x_proj. As que tem: q_proj"),
        (day5, "--only gptq", "gptq-4bit-g64"),
        (day6, "--only train --output nao/existe", "--only prep"),
        (day6, "--only prep --reply-column none --format chat", "é preciso a coluna reply"),
    ],
)
def test_a_bad_value_is_one_sentence(capsys, monkeypatch, tiny_llama, lesson, arguments, sentence):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    args = lesson.arguments(["--quick", "--model", str(tiny_llama), *arguments.split()])
    assert run_main(lesson.main, args) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error
