"""Commands in this process: what they do, and what they say when they do not."""

import json

import pytest

import minilib.__main__ as main_module


def minilib(*arguments):
    main_module.main([str(argument) for argument in arguments])


def refusal(capsys, *arguments):
    """What the command says when it refuses, the last line on standard error, behind notices, and exit status 2."""
    with pytest.raises(SystemExit) as end:
        minilib(*arguments)
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return [line for line in err.splitlines() if line.startswith("minilib: ")][-1]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path
