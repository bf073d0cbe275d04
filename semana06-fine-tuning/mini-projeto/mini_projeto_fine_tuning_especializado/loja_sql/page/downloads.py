"""As linhas de uma resposta num arquivo: CSV ou planilha, como se abrem no Brasil.

Um texto que a planilha leria como fórmula (`=`, `+`, `-`, `@` no começo) continua texto nos dois.
"""

import csv
import io
from datetime import date

from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Font
from openpyxl.utils import get_column_letter

from loja_sql.model.assistant import shown_rows
from loja_sql.page.words import columns, written
from loja_sql.sql.database import Result

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # começos que uma planilha executa
FORMATS = {"money": '"R$" #,##0.00', "percent": '0.0"%"', "count": "#,##0"}
EXACT = 10**15  # daqui em diante, a planilha arredonda um inteiro
WIDEST = 60  # caracteres


def csv_bytes(sql: str, result: Result) -> bytes:
    """As linhas num CSV como as planilhas brasileiras o abrem: `;` e vírgula decimal.

    Um texto que a planilha leria como fórmula ganha um apóstrofo na frente.
    """
    text = io.StringIO(newline="")
    rows = csv.writer(text, delimiter=";")
    rows.writerow(_csv_cell(column.title) for column in columns(sql, result))
    rows.writerows(map(_csv_cell, row) for row in shown_rows(result))
    return text.getvalue().encode("utf-8-sig")


def _csv_cell(value: object) -> object:
    if isinstance(value, float):
        # Uma soma de preços acaba em 0,000000001: sobra do binário, e não dinheiro.
        exact = float(f"{value:.6g}") if 1e-9 < abs(value) < 1 else round(value, 6)
        return str(exact).replace(".", ",")
    formula = isinstance(value, str) and value.startswith(FORMULA)
    return f"'{value}" if formula else value


def xlsx_bytes(sql: str, result: Result) -> bytes:
    """As linhas numa planilha XLSX, com os títulos da página, em negrito, presos no alto.

    Números são números, com o formato da unidade da coluna; dias são datas; meses e dias da
    semana, texto como se lê na página.
    """
    named = columns(sql, result)
    units = [column.unit for column in named]
    titles = [_value(column.title, "") for column in named]
    rows = [list(map(_value, row, units)) for row in shown_rows(result)]
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Resultado")
    sheet.freeze_panes = "A2"
    for place, column in enumerate(zip(titles, *rows, strict=True), 1):
        longest = max(len(str(value)) for value in column)
        # A folga é dos separadores de milhar e do R$.
        sheet.column_dimensions[get_column_letter(place)].width = min(longest + 6, WIDEST)
    sheet.append([_cell(sheet, title, bold=True) for title in titles])
    for row in rows:
        sheet.append([_cell(sheet, *cell) for cell in zip(row, units, strict=True)])
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def _value(value: object, unit: str) -> object:
    """O valor como a planilha o guarda: número, data ou um texto sem o que o XLSX não aceita."""
    if isinstance(value, int) and abs(value) >= EXACT:
        return str(value)
    if not isinstance(value, str):
        return value
    if unit == "date":
        try:
            return date.fromisoformat(value)
        except ValueError:  # um mês, ou 30 de fevereiro
            pass
    return ILLEGAL_CHARACTERS_RE.sub("", written(value, unit))


def _cell(sheet, value: object, unit: str = "", bold: bool = False) -> WriteOnlyCell:
    cell = WriteOnlyCell(sheet, value)
    if isinstance(value, str):
        cell.data_type = "s"  # o openpyxl faz fórmula de todo texto que começa com =
        cell.quotePrefix = value.startswith(FORMULA)  # e continua texto se alguém edita a célula
    elif isinstance(value, date):
        cell.number_format = "dd/mm/yyyy"
    else:
        cell.number_format = FORMATS.get(unit, "General")
    if bold:
        cell.font = Font(bold=True)
    return cell
