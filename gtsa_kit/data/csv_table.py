"""Tables in CSV files that users write."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path


def csv_lines(source: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the stripped fields by column of each row of a CSV (UTF-8, separated by commas).

    Args:
        source: File.
        columns: Columns that the heading must have.

    Raises:
        ValueError: The file cannot be read, a column is missing, or a row has another number of fields.
    """
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            heading = [column.strip() for column in next(reader, [])]
            if not set(columns) <= set(heading):
                there, needed = ", ".join(heading) or "nothing", " and ".join(columns)
                raise ValueError(
                    f"{source}, line 1: the columns {needed} are needed (separated by commas), got {there}"
                )
            for fields in reader:
                if len(fields) not in (0, len(heading)):
                    raise ValueError(f"{source}, line {reader.line_num}: {len(fields)} fields, not {len(heading)}")
                if fields:
                    yield reader.line_num, dict(zip(heading, (field.strip() for field in fields), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{source} is not a readable CSV in UTF-8: {error}") from error
